"""Paths whose fits are made side by side: the same fits, gone on with by any number of processes."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
import xarray as xr

import bayesprune as bp
from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.sparsity_path import side_by_side
from bayesprune.inference.sparsity_path.folder import INDEX_FILE
from bayesprune.inference.sparsity_path.side_by_side import fitting_folder
from tests.inference.sparsity_path.test_continuation import (
    HOW,
    VALIDATION,
    X,
    Y,
    followed,
    halo_at,
    same_fits,
    spike_at,
    without_clocks,
)

QUICK = {"model_at": spike_at, "values": (0.5, 0.2, 0.05), "restarts": 3, "epochs": 1, "first_epochs": 3}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers have
    yield
    torch.set_num_threads(threads)


def settings_but_clocks(fit):
    return {name: value for name, value in fit.settings.items() if name not in ("seconds", "execution")}


@pytest.fixture(scope="module")
def alone():
    torch.set_num_threads(1)
    return followed(**QUICK)


class Stop(Exception):
    """What ends a path in a test."""


def stopped_at(monkeypatch, number):
    """Has the call break off before a point is put together: all its restarts are fitted, and it is not written."""
    real, counted = side_by_side._at_once, itertools.count()

    def stop(fit):
        if next(counted) == number:
            raise Stop
        return real(fit)

    monkeypatch.setattr(side_by_side, "_at_once", stop)


def is_that_of(alone, path):
    """Asserts that two paths are the same in every number but seconds, settings and traces of their fits included."""
    xr.testing.assert_identical(without_clocks(path), without_clocks(alone))
    for value in QUICK["values"]:
        one, other = path.fit(value), alone.fit(value)
        assert same_fits(one, other) and settings_but_clocks(one) == settings_but_clocks(other)
        xr.testing.assert_identical(one.trace.drop_vars("seconds"), other.trace.drop_vars("seconds"))
    assert float(path.table.seconds.min()) > 0


def broken_off(folder, monkeypatch, workers):
    with monkeypatch.context() as patch:
        stopped_at(patch, 1)
        with pytest.raises(Stop):
            followed(**QUICK, folder=folder, workers=workers)
    assert len(json.loads((folder / INDEX_FILE).read_text())["points"]) == 1
    states = sorted(file.name for file in fitting_folder(folder, 1).glob("restart-*.json"))
    assert states == ["restart-0.json", "restart-1.json", "restart-2.json"]


def test_restarts_side_by_side_are_those_of_one_process_which_goes_on_with_them(alone, tmp_path, monkeypatch):
    broken_off(tmp_path / "path", monkeypatch, 2)
    (fitting_folder(tmp_path / "path", 1) / "restart-2.json").unlink()  # as if it had been killed in the middle
    fitting_folder(tmp_path / "path", 0).mkdir()  # as if it had been killed right after a point was written
    is_that_of(alone, followed(**QUICK, folder=tmp_path / "path"))
    assert {file.name for file in (tmp_path / "path").iterdir()} == {INDEX_FILE, "point-000", "point-001", "point-002"}


@pytest.mark.slow
def test_another_number_of_processes_goes_on_too(alone, tmp_path, monkeypatch):
    broken_off(tmp_path / "path", monkeypatch, 2)
    (fitting_folder(tmp_path / "path", 1) / "restart-1.json").unlink()
    is_that_of(alone, followed(**QUICK, folder=tmp_path / "path", workers=3))
    assert {file.name for file in (tmp_path / "path").iterdir()} == {INDEX_FILE, "point-000", "point-001", "point-002"}


def test_cold_fits_are_those_of_fit_and_depend_on_no_other(alone, tmp_path):
    cold = followed(**QUICK, warm=False, folder=tmp_path / "path")
    single = bp.fit(spike_at(0.05), (X, Y), epochs=3, restarts=3, validation=VALIDATION, **HOW)
    assert same_fits(cold.fit(0.05), single)
    assert same_fits(cold.fit(0.5), alone.fit(0.5)) and not same_fits(cold.fit(0.2), alone.fit(0.2))
    with pytest.raises(ValueError, match="holds a path with warm False, but now it is None"):
        followed(**QUICK, folder=tmp_path / "path")


@pytest.mark.slow
def test_cold_fits_of_all_values_are_made_side_by_side():
    how = {**QUICK, "warm": False, "model_at": lambda value: spike_at(value)}  # a lambda: the models are sent
    cold, found = followed(**how), followed(**how, workers=2, latency=True)
    xr.testing.assert_identical(without_clocks(found), without_clocks(cold))
    assert same_fits(cold.fit(0.05), found.fit(0.05))
    assert bool(found.table.latency.notnull().any()) and bool(cold.table.latency.isnull().all())


def steady(share):
    """A schedule in which the first worker that comes by half of a fit is killed."""
    marker = Path(os.environ["KILLED"])
    if share >= 0.5 and multiprocessing.parent_process() is not None and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


@pytest.mark.slow
def test_a_killed_worker_changes_no_number(tmp_path, monkeypatch):
    monkeypatch.setenv("KILLED", str(tmp_path / "killed"))
    how = {**QUICK, "restarts": 2, "values": (0.5, 0.2), "schedule": steady}
    alone = followed(**how)
    assert not (tmp_path / "killed").exists()
    found = followed(**how, workers=2, folder=tmp_path / "path")
    assert (tmp_path / "killed").exists()
    xr.testing.assert_identical(without_clocks(found), without_clocks(alone))
    assert same_fits(found.fit(0.2), alone.fit(0.2))


@pytest.mark.slow
def test_errors_of_a_worker_come_back_as_they_are():
    with pytest.raises(NonFiniteLossError, match="the loss became non-finite at step"):
        followed(halo_at, (1.0,), workers=2, optimizer="sgd", learning_rate=1e30)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"workers": 0}, "workers must be at least 1"),
        ({"workers": 10**9}, "workers must be at most 256"),
        ({"workers": 2, "callbacks": [bp.Callback()]}, "callbacks= would watch in processes of their own"),
        ({"workers": 2, "schedule": lambda share: 1.0}, "what the path computes cannot be sent to other processes"),
        ({"checkpoint": "state"}, "checkpoint= is set by the path itself: leave it out, and give folder="),
        ({"only_restart": 1}, "only_restart= is set by the path itself: leave it out, and give restarts="),
    ],
)
def test_bad_input_is_refused_before_a_process_is_started(more, message):
    with pytest.raises(ValueError, match=message):
        followed(**{**QUICK, **more})
