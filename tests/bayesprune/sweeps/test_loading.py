"""A sweep read back: from records alone, and with what the storage knows."""

from __future__ import annotations

import json
import os
import time

import pytest

import bayesprune as bp
from bayesprune.models.files.processes import this_process
from bayesprune.sweeps.trial import RunTrial

COMPLETE, FAILED, STOPPED, RUNNING = (f"{number:016x}" for number in range(4))
SCORES = {
    "validation_nll": 0.4, "validation_accuracy": 0.9, "test_nll": 0.5, "density": 0.25, "nonzero": 25, "macs": 50,
    "latency": None, "seconds": 1.0, "resumed_at_epoch": None, "run": "elsewhere",
}  # fmt: skip


def record(folder, name, settings, scores=None, problem=None):
    content = {"format": 1, "settings": settings, "arguments": {"data": "digits"}, "scores": scores, "problem": problem}
    (folder / f"{name}.json").write_text(json.dumps(content))


def under_way(folder, name, process):
    """RUN.part of a fit after its third epoch."""
    part = folder / f"{name}.part"
    part.mkdir()
    progress = {"asked": {}, "updated": time.time(), "epoch": 3, "epochs": 10, "step": 6, "steps": 20} | process
    (part / "progress.json").write_text(json.dumps(progress))


@pytest.fixture
def folder(tmp_path):
    """Records of fits in four states, and files of others."""
    dead = this_process() | {"process": 2**22 - 1, "started": 1.0}
    record(tmp_path, COMPLETE, {"set.kappa": 1.0, "seed": 0}, SCORES)
    record(tmp_path, FAILED, {"set.kappa": 1.0, "seed": 1}, None, "the loss is NaN")
    record(tmp_path, STOPPED, {"set.kappa": 2.0, "seed": 0})
    under_way(tmp_path, STOPPED, dead)
    record(tmp_path, RUNNING, {"set.kappa": 2.0, "seed": 1})
    under_way(tmp_path, RUNNING, this_process())
    (tmp_path / "notes.json").write_text("[]")
    return tmp_path


def test_records_alone_say_what_is_complete_failed_running_and_waiting(folder):
    sweep = bp.load_sweep(folder)
    states = {(one.settings["set.kappa"], one.seed): one.state for one in sweep.fits}
    assert states == {(1.0, 0): "complete", (1.0, 1): "failed", (2.0, 0): "waiting", (2.0, 1): "running"}
    complete, failed, _, running = sweep.fits
    assert complete.run == folder / COMPLETE and complete.scores["density"] == 0.25 and "run" not in complete.scores
    assert failed.problem == "the loss is NaN" and running.epoch == 3
    assert running.worker == f"{this_process()['host']}:{os.getpid()}"
    assert sweep.table.sizes == {"setting": 1, "seed": 1} and sweep.front().setting.values.tolist() == [0]


def test_a_fit_of_run_trial_is_read_back(tmp_path):
    arguments = {"data": "digits", "prior": "spike-and-slab", "guide": "paired", "width": 0.05, "steps": 5}
    trial = RunTrial(tmp_path / "fits", arguments)
    scores = trial({"set.expected_density": 0.2, "seed": 3})
    sweep = bp.load_sweep(tmp_path / "fits")
    (one,) = sweep.fits
    assert (dict(one.settings), one.seed, one.state) == ({"set.expected_density": 0.2}, 3, "complete")
    assert one.run == trial.place({"set.expected_density": 0.2, "seed": 3}) and one.run.is_dir()
    assert {name: one.scores[name] for name in ("validation_nll", "density", "macs")} == {
        name: scores[name] for name in ("validation_nll", "density", "macs")
    }
    assert sweep.asked["prior"] == "spike-and-slab" and sweep.best()[0] == {"set.expected_density": 0.2}


def test_bad_folders_are_told_in_a_sentence(folder, tmp_path_factory):
    with pytest.raises(ValueError, match="there is no folder .*nowhere of a sweep: make it with bayesprune sweep"):
        bp.load_sweep(folder / "nowhere")
    with pytest.raises(ValueError, match="is no folder of a sweep"):
        bp.load_sweep(tmp_path_factory.mktemp("empty"))
    (folder / f"{FAILED}.json").write_text("{")
    with pytest.raises(ValueError, match=f"{FAILED}.json is damaged"):
        bp.load_sweep(folder)
