"""The trace of a fit on disk while it runs: complete at every moment, cheap, and no danger to the fit."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time

import pytest
import torch
import xarray as xr
from torch import nn

import bayesprune as bp
from bayesprune.inference.watching import trace_file
from bayesprune.inference.watching.trace_file import RunningFit, WriteTrace, read_progress, read_trace


def make(*callbacks, epochs=3, **how):
    torch.manual_seed(0)
    x, y = torch.randn(40, 6), torch.randint(3, (40,))
    bnn = bp.BayesianNetwork(nn.Linear(6, 3), {"weight": bp.SpikeAndSlab()}, data_size=40)
    how = {"validation": (x, y), "batch_size": 20, "epochs": epochs} | how
    return bp.fit(bnn, (x, y), callbacks=callbacks, **how)


class Look(bp.Callback):
    """Reads the folder after each epoch, as another process would."""

    def __init__(self, folder):
        self.folder, self.seen = folder, []

    def on_epoch(self, state):
        progress = read_progress(self.folder)
        self.seen.append((progress, read_trace(self.folder) if progress.epoch else None))


@pytest.fixture
def eager(monkeypatch):
    """Every epoch is written, however long that takes."""
    monkeypatch.setattr(trace_file, "SHARE", 1.0)


def test_the_last_trace_is_the_fit_s_own(tmp_path, eager):
    fit = make(WriteTrace(tmp_path / "a" / "b"), restarts=2)
    written = read_trace(tmp_path / "a" / "b")
    assert written.attrs == {"data_size": 40, "is_map": 0}
    xr.testing.assert_equal(written, fit.trace)
    progress = read_progress(tmp_path / "a" / "b")
    assert progress.finished and (progress.restart, progress.restarts) == (1, 2)
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["progress.json", "trace.nc"]


def test_every_epoch_is_on_disk_when_it_ends(tmp_path, eager):
    look = Look(tmp_path)
    fit = make(WriteTrace(tmp_path, {"data": "noise"}), look, restarts=2)
    assert [(p.restart, p.epoch, p.step) for p, _ in look.seen] == [
        (restart, epoch, 2 * epoch) for restart in (0, 1) for epoch in (1, 2, 3)
    ]
    for number, (progress, trace) in enumerate(look.seen):
        done = number % 3 + 1
        assert trace.sizes["restart"] == 1 + number // 3
        expected = fit.trace.loss.values[number // 3, :done]
        assert trace.loss.values[-1, :done].tolist() == expected.tolist()
        assert progress.asked == {"data": "noise"} and (progress.epochs, progress.steps) == (3, 6)
        assert not progress.finished and progress.alive
    assert [p.seconds for p, _ in look.seen] == sorted(p.seconds for p, _ in look.seen)


def test_a_fit_is_the_same_with_and_without(tmp_path):
    one, other = make(WriteTrace(tmp_path)), make()
    for name, value in one.guide.state_dict().items():
        assert torch.equal(value, other.guide.state_dict()[name])


class Ticks:
    """A clock that goes on by one whenever somebody looks at it: each epoch and each writing takes a tick or two."""

    time = staticmethod(time.time)

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("share", [trace_file.SHARE, 1.0])
def test_writing_takes_at_most_its_share_of_the_time(share, tmp_path, monkeypatch):
    watcher, clock, written = WriteTrace(tmp_path), Ticks(), []
    write = watcher._write
    monkeypatch.setattr(trace_file, "time", clock)
    monkeypatch.setattr(trace_file, "SHARE", share)
    monkeypatch.setattr(watcher, "_write", lambda state, finished: (written.append(clock.now), write(state, finished)))
    epochs = 150 if share < 1.0 else 20
    make(watcher, epochs=epochs)
    # The first epoch and the last are written whatever it takes.
    assert len(written) - 2 <= share * clock.now and read_progress(tmp_path).epoch == epochs
    assert len(written) > 5 if share < 1.0 else len(written) >= epochs  # the control: with all the time, each epoch is


def test_a_fit_that_is_stopped_early_has_finished(tmp_path, eager):
    make(WriteTrace(tmp_path), epochs=9, stop=lambda state: state.epoch == 2)
    progress = read_progress(tmp_path)
    assert progress.finished and (progress.epoch, progress.epochs) == (2, 9) and progress.seconds_left == 0.0


class Break(bp.Callback):
    def on_step(self, state):
        if state.step == 5:
            raise KeyboardInterrupt


def test_a_fit_that_breaks_off_leaves_what_was_done(tmp_path, eager):
    with pytest.raises(KeyboardInterrupt):
        make(WriteTrace(tmp_path), Break())
    progress = read_progress(tmp_path)
    assert progress.epoch == 2 and not progress.finished
    assert read_trace(tmp_path).sizes["epoch"] == 2


def test_a_disk_that_fails_is_told_once_and_the_fit_goes_on(tmp_path, eager, monkeypatch):
    watcher = WriteTrace(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full)
    with pytest.warns(UserWarning, match="No space left on device.*: the fit goes on without it") as told:
        fit = make(watcher)
    assert len(told) == 1 and fit.trace.sizes["epoch"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]
    assert read_progress(tmp_path).epoch == 0  # what was there before stays


def test_a_folder_that_goes_away_does_not_stop_the_fit(tmp_path, eager):
    class Remove(bp.Callback):
        def on_fit_start(self, state):
            (tmp_path / "there" / "progress.json").unlink()
            (tmp_path / "there").rmdir()

    with pytest.warns(UserWarning, match="cannot be written to"):
        assert make(WriteTrace(tmp_path / "there"), Remove()).trace.sizes["epoch"] == 3


def test_nothing_is_written_before_an_iterate_is_recorded(tmp_path, eager, monkeypatch):
    # The only one is recorded in the last step.
    monkeypatch.setattr("bayesprune.inference.training.restart_run.ITERATES", 1)
    look = Look(tmp_path)
    make(WriteTrace(tmp_path), look)
    assert [progress.epoch for progress, _ in look.seen] == [0, 0, 3]


def test_a_finished_process_is_not_alive(tmp_path):
    watcher = WriteTrace(tmp_path)
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    progress = watcher._progress()
    assert progress.alive and (progress.process, progress.host) == (os.getpid(), socket.gethostname())
    assert not dataclasses.replace(progress, process=int(done.stdout)).alive


def test_on_another_machine_silence_decides():
    there = RunningFit(1, "elsewhere", {}, time.time() - 500, epoch_seconds=1.0)
    assert there.alive
    assert not dataclasses.replace(there, updated=time.time() - 700).alive
    assert dataclasses.replace(there, updated=time.time() - 700, epoch_seconds=100.0).alive  # its epochs are long


def test_the_time_left_is_that_of_the_steps_to_come():
    progress = RunningFit(1, "here", {}, 0.0, seconds=30.0, step=50, steps=100, restart=1, restarts=3)
    assert progress.seconds_left == pytest.approx(30.0 * 150 / 150)
    assert dataclasses.replace(progress, restart=0).seconds_left == pytest.approx(30.0 * 250 / 50)
    assert dataclasses.replace(progress, finished=True).seconds_left == 0.0
    assert str(RunningFit(1, "here", {}, 0.0).seconds_left) == "nan"


def test_wrong_input_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to .*file.*: choose a folder that you may write to"):
        WriteTrace(tmp_path / "file")
    with pytest.raises(ValueError, match="asked= cannot be written as JSON"):
        WriteTrace(tmp_path / "folder", {"network": nn.Linear(1, 1)})
    with pytest.raises(ValueError, match="progress.json is missing: is a fit"):
        read_progress(tmp_path)
    with pytest.raises(ValueError, match="trace.nc is missing or damaged"):
        read_trace(tmp_path)
    for text in ("{", "[]", json.dumps({"process": 1})):
        (tmp_path / "progress.json").write_text(text)
        with pytest.raises(ValueError, match="progress.json is damaged"):
            read_progress(tmp_path)
    for content in (b"CDF", b"", b"CDF\x01" + b"\xff" * 400, bytes(100)):
        (tmp_path / "trace.nc").write_bytes(content)
        with pytest.raises(ValueError, match="trace.nc is missing or damaged") as raised:
            read_trace(tmp_path)
        assert "\n" not in str(raised.value)
    (tmp_path / "trace.nc").unlink()
    os.mkfifo(tmp_path / "trace.nc")
    with pytest.raises(ValueError, match="it is no file"):
        read_trace(tmp_path)
