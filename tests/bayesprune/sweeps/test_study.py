"""The plan of a sweep in its folder, and its trials in the storage."""

from __future__ import annotations

import json
import threading
import time

import optuna
import pytest

from bayesprune.models.files.processes import this_process
from bayesprune.sweeps import plan as plans
from bayesprune.sweeps.plan import asked_plan, locked, read_plan
from bayesprune.sweeps.space import Range, SweepSpace
from bayesprune.sweeps.storage import quiet
from bayesprune.sweeps.study import MOST_DEATHS, WORKER, begun, loaded, planned_trials, requeued, take_back
from tests.bayesprune.sweeps.quick_trials import SAME, planned

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")  # trials are taken by hand here
GRID = {"set.kappa": [1.0, 3.0, 10.0], "guide": "map"}
DEAD = {**this_process(), "process": 2**22 - 1, "started": 1.0}
ELSEWHERE = {**this_process(), "host": "another"}


def running(study, worker=None):
    """Lets a trial be taken by a worker."""
    with quiet():
        trial = study.ask()
    if worker is not None:
        trial.set_user_attr(WORKER, worker)
    return trial


def states(plan):
    return [one.state for one in planned_trials(loaded(plan))]


def test_all_settings_of_a_grid_wait_with_each_seed(tmp_path):
    plan = planned(tmp_path / "out", GRID, seeds=(0, 4))
    found = planned_trials(loaded(plan))
    assert [(one.settings["set.kappa"], one.seeds) for one in found] == [
        (kappa, (seed,)) for seed in (0, 4) for kappa in (1.0, 3.0, 10.0)
    ]
    assert {one.state for one in found} == {"waiting"} and plan.fits == 6
    assert all(one.settings["guide"] == "map" and one.worker is None and one.epoch is None for one in found)


def test_settings_that_are_sampled_wait_without_values_for_all_seeds(tmp_path):
    plan = planned(tmp_path / "out", {"set.kappa": Range(1.0, 9.0)}, seeds=(0, 1), trials=3)
    found = planned_trials(loaded(plan))
    assert [(one.settings, one.seeds) for one in found] == [(None, (0, 1))] * 3 and plan.fits == 6


def test_who_comes_again_finds_the_same_trials_and_more_may_be_asked_for(tmp_path):
    out, space = tmp_path / "out", {"set.kappa": Range(1.0, 9.0)}
    first, second = planned(out, space, trials=3), planned(out, space, trials=3)
    assert first.study == second.study and len(states(second)) == 3
    assert len(states(planned(out, space, trials=5))) == 5 and read_plan(out).trials == 5
    with pytest.raises(ValueError, match="of 5 --trials: give as many or more"):
        planned(out, space, trials=4)


def test_trials_that_a_killed_call_had_not_written_are_written_by_the_next(tmp_path):
    out = tmp_path / "out"
    plan = planned(out, GRID)
    with quiet():
        optuna.delete_study(study_name=plan.study, storage=plan.address)
        optuna.create_study(study_name=plan.study, storage=plan.address).enqueue_trial({"set.kappa": 1.0})
    assert len(states(planned(out, GRID))) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {"set.kappa": [1.0, 2.0]}}, r"the space: set.kappa .*choices.* \[1.0, 3.0, 10.0\]"),
        ({"seeds": (1,)}, r"--seeds \[0\], but now it is \[1\]"),
        ({"objectives": ("density",)}, "--objective"),
        ({"prune": True}, "--prune false, but now it is true"),
        ({"trials": 2}, "all settings, without --trials"),
    ],
)
def test_a_folder_of_another_sweep_is_refused(change, message, tmp_path):
    planned(tmp_path / "out", GRID)
    before = (tmp_path / "out" / "sweep.json").read_bytes()
    with pytest.raises(ValueError, match=message):
        planned(tmp_path / "out", **{"space": GRID, **change})
    assert (tmp_path / "out" / "sweep.json").read_bytes() == before


def test_a_storage_of_one_s_own_is_kept_and_need_not_be_given_again(tmp_path):
    address = f"sqlite:///{tmp_path / 'all.db'}"
    plan = planned(tmp_path / "one", GRID, storage=address)
    other = planned(tmp_path / "two", GRID, storage=address)
    assert plan.study != other.study and not (tmp_path / "one" / "trials.db").exists()
    assert planned(tmp_path / "one", GRID).address == address
    with pytest.raises(ValueError, match="keeps its trials in .*all.db, and .*other.db has no study"):
        planned(tmp_path / "one", GRID, storage=f"sqlite:///{tmp_path / 'other.db'}")


def test_a_password_is_not_kept_and_has_to_be_given_again(tmp_path):
    planned(tmp_path / "out", GRID)
    file = tmp_path / "out" / "sweep.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "storage": "postgresql://me:***@host/x"}))
    with pytest.raises(ValueError, match="whose password is not kept there: give --storage"):
        planned(tmp_path / "out", GRID)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"space": {"set.kappa": Range(1.0, 3.0)}}, "set.kappa has bounds"),
        ({"seeds": ()}, "seeds are"),
        ({"seeds": (1, 1)}, "each once"),
        ({"trials": 0}, "trials"),
        ({"seeds": (0, 1), "trials": 4}, "3 settings and there are 2 seeds, which makes 6 fits"),
        ({"arguments": {**SAME, "seed": 3}}, "own seeds"),
        ({"arguments": {**SAME, "guide": "map"}}, "guide is given, and searched too"),
        ({"arguments": {"prior": "halo"}}, "needs data"),
    ],
)
def test_what_makes_no_sweep_is_refused_before_anything_is_written(asked, message, tmp_path):
    given = {"arguments": SAME, "space": GRID, "seeds": (0,), "trials": None, **asked}
    with pytest.raises(ValueError, match=message):
        asked_plan(
            tmp_path / "out", given["arguments"], SweepSpace(given["space"]), ("density",), given["seeds"],
            given["trials"], None, True, False, 0,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_as_many_trials_as_there_are_fits_are_a_grid(tmp_path):
    assert planned(tmp_path / "out", GRID, seeds=(0, 1), trials=6).trials is None
    assert planned(tmp_path / "few", GRID, seeds=(0, 1), trials=2).trials == 2


def test_what_cannot_begin_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="cannot be opened"):
        (tmp_path / "text.db").write_text("no database, though long enough to be looked at as one\n" * 5)
        planned(tmp_path / "a" / "out", GRID, storage=f"sqlite:///{tmp_path / 'text.db'}")
    assert not (tmp_path / "a").exists()
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "notes.txt").touch()
    with pytest.raises(ValueError, match="is no sweep"):
        planned(tmp_path / "files", GRID)
    assert [one.name for one in (tmp_path / "files").iterdir()] == ["notes.txt"]


def test_a_trial_whose_worker_has_died_here_waits_again_at_once(tmp_path):
    plan = planned(tmp_path / "out", GRID)
    study = loaded(plan)
    trial = running(study, DEAD)
    trial.suggest_categorical("set.kappa", (1.0, 3.0, 10.0))
    trial.report(0.5, 3)
    living, elsewhere = running(study, this_process()), running(study, ELSEWHERE)
    take_back(study)
    assert states(plan) == ["waiting", "running", "running"] and len(study.trials) == 4
    again = running(study)
    assert again.suggest_categorical("set.kappa", (1.0, 3.0, 10.0)) == 1.0  # the same settings, so the same folder
    assert again.params == trial.params and study.trials[again.number].intermediate_values == {3: 0.5}
    assert {living.number, elsewhere.number} == {1, 2}
    first = planned_trials(study)[0]
    assert (first.number, first.state, first.epoch, first.value, first.worker) == (0, "running", 3, 0.5, None)


def test_a_trial_that_nobody_says_to_fit_was_taken_by_one_that_died(tmp_path):
    """Who takes a trial writes its name before it gives the lock back."""
    plan = planned(tmp_path / "out", GRID)
    study = loaded(plan)
    running(study)
    take_back(study)
    assert states(plan) == ["waiting"] * 3


def test_a_trial_that_kills_its_workers_is_not_begun_for_ever(tmp_path):
    plan = planned(tmp_path / "out", {"set.kappa": [1.0]})
    study = loaded(plan)
    for _ in range(MOST_DEATHS):
        running(study, DEAD)
        take_back(study)
        assert states(plan) == ["waiting"]
    running(study, DEAD)
    take_back(study)
    assert states(plan) == ["failed"] and "4 workers have died in it" in planned_trials(study)[0].problem


def test_a_trial_waits_once_however_often_it_is_put_back(tmp_path):
    plan = planned(tmp_path / "out", {"set.kappa": [1.0]})
    study = loaded(plan)
    trial = running(study, DEAD)
    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    requeued(study, study.trials[trial.number])
    requeued(study, study.trials[trial.number])
    assert len(study.trials) == 2 and states(plan) == ["waiting"]


def test_silent_workers_of_other_machines_lose_their_trials(tmp_path, monkeypatch):
    monkeypatch.setattr("bayesprune.sweeps.study.HEARTBEAT", 1)
    monkeypatch.setattr("bayesprune.sweeps.study.GRACE", 1)
    plan = planned(tmp_path / "out", {"set.kappa": [1.0, 3.0]})
    study = loaded(plan)
    trial = running(study, ELSEWHERE)
    study._storage.record_heartbeat(trial._trial_id)
    take_back(study)
    assert states(plan) == ["running", "waiting"]  # control: it was heard of
    time.sleep(2.2)
    take_back(study)
    assert states(plan) == ["waiting", "waiting"] and len(study.trials) == 3


def test_one_at_a_time_is_in_the_lock_and_that_of_a_dead_one_does_not_hold_for_ever(tmp_path, monkeypatch):
    inside, most = [], []

    def enter():
        with locked(tmp_path / "out"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(5)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert most == [1] * 5
    monkeypatch.setattr(plans, "_PATIENCE", 3)
    (tmp_path / "out" / "lock.lock").symlink_to(tmp_path / "out" / "lock")  # what a killed process leaves
    with locked(tmp_path / "out"):
        pass
    assert not (tmp_path / "out" / "lock.lock").exists()


def test_a_damaged_plan_is_refused(tmp_path):
    plan = planned(tmp_path / "out", GRID)
    file = tmp_path / "out" / "sweep.json"
    good = json.loads(file.read_text())
    assert read_plan(tmp_path / "out").as_json() == plan.as_json() == good
    for change in ({"seeds": ["a"]}, {"space": {"nothing": {"choices": [1]}}}, {"objectives": [3]}, {"trials": "x"}):
        file.write_text(json.dumps({**good, **change}))
        with pytest.raises(ValueError, match=r"sweep.json is damaged .*: begin the sweep anew"):
            begun(plan)
    file.write_text(json.dumps({**good, "format": 2}))
    with pytest.raises(ValueError, match="format 2, but this version reads 1"):
        read_plan(tmp_path / "out")
