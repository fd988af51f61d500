"""A sweep read back: from records alone, and with what the storage knows."""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

import bayesprune as bp
from bayesprune.models.files.processes import this_process
from bayesprune.sweeps import loading
from bayesprune.sweeps.loading import SweepReader
from bayesprune.sweeps.plan import asked_plan
from bayesprune.sweeps.space import SweepSpace
from bayesprune.sweeps.storage import require_optuna
from bayesprune.sweeps.study import PROBLEM, WORKER, begun, loaded, quiet
from bayesprune.sweeps.trial import RunTrial

COMPLETE, FAILED, STOPPED, RUNNING, PRUNED = (f"{number:016x}" for number in range(5))
PAGE = Path(__file__).resolve().parents[3] / "docs" / "sweeps.md"
SCORES = {
    "validation_nll": 0.4, "validation_accuracy": 0.9, "test_nll": 0.5, "density": 0.25, "nonzero": 25, "macs": 50,
    "latency": None, "seconds": 1.0, "resumed_at_epoch": None, "run": "elsewhere",
}  # fmt: skip


def record(folder, name, settings, scores=None, problem=None, ended_early=None):
    content = {
        "format": 1, "settings": settings, "arguments": {"data": "digits"}, "scores": scores, "problem": problem,
        "ended_early": ended_early,
    }  # fmt: skip
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
    record(tmp_path, PRUNED, {"set.kappa": 3.0, "seed": 1}, ended_early=4)
    (tmp_path / "notes.json").write_text("[]")
    return tmp_path


def test_records_alone_say_what_is_complete_failed_running_and_waiting(folder):
    sweep = bp.load_sweep(folder)
    states = {(one.settings["set.kappa"], one.seed): one.state for one in sweep.fits}
    assert states == {
        (1.0, 0): "complete", (1.0, 1): "failed", (2.0, 0): "waiting", (2.0, 1): "running", (3.0, 1): "pruned",
    }  # fmt: skip
    complete, failed, _, running, pruned = sweep.fits
    assert (pruned.epoch, pruned.problem) == (4, "ended early, after epoch 4")
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


@pytest.fixture
def planned(folder):
    """The folder as that of a sweep, whose storage knows of six trials: all waiting but for the first three."""
    space = SweepSpace({"set.kappa": [1.0, 2.0, 3.0]})
    plan = asked_plan(
        folder, {"data": "digits"}, space, ("validation_nll", "density"), (0, 1), None, None, True, False, 0
    )
    for file in folder.glob("*.json"):  # a sweep begins in a folder that is empty
        file.rename(folder.parent / file.name)
    for part in folder.glob("*.part"):
        part.rename(folder.parent / part.name)
    plan = begun(plan)
    for file in [*folder.parent.glob("0*.json"), *folder.parent.glob("*.part")]:
        file.rename(folder / file.name)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Optuna's: nobody keeps these trials' hearts beating
        study = loaded(plan)
        for state in (None, "FAIL", None):
            trial = study.ask()
            trial.set_user_attr(WORKER, this_process() | {"process": 2**22 - 1, "started": 1.0})
            if state is not None:
                trial.set_user_attr(PROBLEM, "the disk has a hole")
                study.tell(trial, state=getattr(require_optuna().trial.TrialState, state))
    return plan


def test_the_storage_says_what_records_do_not(planned, folder):
    sweep = bp.load_sweep(folder)
    assert sweep.objectives == ("validation_nll", "density") and sweep.missing == ()
    told = {(one.settings["set.kappa"], one.seed): (one.trial, one.state) for one in sweep.fits}
    assert told == {
        (1.0, 0): (0, "complete"), (2.0, 0): (1, "failed"), (3.0, 0): (2, "waiting"),  # whose worker is dead
        (1.0, 1): (3, "waiting"), (2.0, 1): (4, "waiting"), (3.0, 1): (5, "pruned"),
    }  # fmt: skip
    assert sweep.fits[1].problem == "the disk has a hole"


def test_without_its_storage_a_sweep_is_read_from_its_records(planned, folder):
    before = bp.load_sweep(folder)
    (folder / "trials.db").rename(folder / "elsewhere.db")
    sweep = bp.load_sweep(folder)
    assert sweep.best() == before.best() and len(sweep.fits) == 5 and sweep.fits[0].trial is None
    assert len(sweep.missing) == 1 and "there is no storage" in sweep.missing[0] and "\n" not in sweep.missing[0]
    assert not (folder / "trials.db").exists()
    again = bp.load_sweep(folder, f"sqlite:///{folder / 'elsewhere.db'}")
    assert [one.trial for one in again.fits] == [0, 1, 2, 3, 4, 5] and not again.missing


def test_a_storage_that_is_given_has_to_be_that_of_the_sweep(planned, folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    begun(replace(planned, out=other))
    with pytest.raises(ValueError, match=f"has no study .*, it is the storage of another sweep: give that of {folder}"):
        bp.load_sweep(folder, f"sqlite:///{other / 'trials.db'}")
    with pytest.raises(ValueError, match="there is no storage sqlite:///nothing.db: give that of the sweep"):
        bp.load_sweep(folder, "sqlite:///nothing.db")


def test_a_password_that_was_not_kept_is_asked_for(planned, folder):
    file = folder / "sweep.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"storage": "postgresql://me:***@host/x"}))
    assert "was kept without its password: give it whole by storage=" in bp.load_sweep(folder).missing[0]


def test_a_reader_sees_what_has_changed_and_reads_nothing_twice(planned, folder, monkeypatch):
    with SweepReader(folder) as reader:
        first = reader.read()
        with monkeypatch.context() as without:
            without.setattr(loading, "read_record", None)
            without.setattr(loading, "open_storage", None)
            assert reader.read() == first
        record(folder, STOPPED, {"set.kappa": 2.0, "seed": 0}, SCORES)
        changed = reader.read()
    assert [one.state for one in changed.fits].count("complete") == 2


def test_the_page_on_sweeps_runs(folder, tmp_path_factory, monkeypatch):
    here = tmp_path_factory.mktemp("here")
    (here / "runs").mkdir()
    (here / "runs" / "halo-sweep").symlink_to(folder)
    monkeypatch.chdir(here)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    space = {}
    exec(compile(block, "docs/sweeps.md", "exec"), space)
    assert space["settings"] == {"set.kappa": 1.0} and (here / "front.png").is_file()


def test_what_is_no_record_of_a_fit_is_refused(folder):
    record(folder, COMPLETE, {"seed": "x"}, SCORES)
    with pytest.raises(ValueError, match=f"{COMPLETE}.json is damaged .seed is a text"):
        bp.load_sweep(folder)
    record(folder, COMPLETE, {"seed": 0}, SCORES | {"density": {}})
    with pytest.raises(ValueError, match=f"{COMPLETE}.json is damaged .density is an object"):
        bp.load_sweep(folder)


def test_bad_folders_are_told_in_a_sentence(folder, tmp_path_factory):
    with pytest.raises(ValueError, match="there is no folder .*nowhere of a sweep: make it with bayesprune sweep"):
        bp.load_sweep(folder / "nowhere")
    with pytest.raises(ValueError, match="is no folder of a sweep"):
        bp.load_sweep(tmp_path_factory.mktemp("empty"))
    (folder / f"{FAILED}.json").write_text("{")
    with pytest.raises(ValueError, match=f"{FAILED}.json is damaged"):
        bp.load_sweep(folder)
