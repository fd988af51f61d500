"""Workers of a sweep: who takes a trial, what becomes of it, and what happens when something goes wrong."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

import optuna
import pytest

from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.models.files.unwritable import Unwritable
from bayesprune.sweeps import study as studies
from bayesprune.sweeps import worker as workers
from bayesprune.sweeps.plan import SweepPlan
from bayesprune.sweeps.space import Range
from bayesprune.sweeps.storage import LostStorageError
from bayesprune.sweeps.study import loaded, planned_trials
from bayesprune.sweeps.worker import work, work_in_process
from tests.bayesprune.sweeps.quick_trials import Quick, planned

GRID = {"set.kappa": [1.0, 3.0, 10.0]}


@pytest.fixture
def quick(monkeypatch):
    """Puts `Quick` in the place of fits."""

    def put(at=lambda settings, epoch: None):
        function = Quick([], at)
        monkeypatch.setattr(SweepPlan, "trial", property(lambda plan: function))
        return function

    monkeypatch.setattr(workers, "_LOOK", 0.05)
    return put


def found(plan):
    return planned_trials(loaded(plan))


def kappas(function):
    return [settings["set.kappa"] for settings, _ in function.calls]


def test_a_worker_fits_each_setting_with_each_seed_once(tmp_path, quick):
    plan, function = planned(tmp_path / "out", GRID, seeds=(0, 1)), quick()
    assert work(plan) == 6
    assert Counter((s["set.kappa"], s["seed"]) for s, _ in function.calls) == {
        (kappa, seed): 1 for kappa in (1.0, 3.0, 10.0) for seed in (0, 1)
    }
    assert [one.state for one in found(plan)] == ["complete"] * 6
    assert found(plan)[1].values == (0.2,) and found(plan)[1].runs[0]["density"] == 0.3
    assert found(plan)[5].values == (49.0 + 0.1 + 0.2,)
    assert work(plan) == 0 and len(function.calls) == 6


def test_workers_share_the_trials(tmp_path, quick):
    plan = planned(tmp_path / "out", {"set.kappa": [float(k) for k in range(7)]})
    function, done = quick(), []
    threads = [threading.Thread(target=lambda: done.append(work(plan))) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(kappas(function)) == [float(k) for k in range(7)] and sum(done) == 7
    assert len(loaded(plan).trials) == 7  # no trial that nobody had planned


def test_a_sampled_setting_is_fitted_with_all_seeds_and_counts_by_their_mean(tmp_path, quick):
    space = {"set.kappa": Range(0.0, 10.0)}
    plan, function = planned(tmp_path / "out", space, seeds=(0, 1), trials=4), quick()
    work(plan)
    assert [s["seed"] for s, _ in function.calls] == [0, 1] * 4 and len({*kappas(function)}) == 4
    first = found(plan)[0]
    assert first.settings == {"set.kappa": kappas(function)[0]} and [one["seed"] for one in first.runs] == [0, 1]
    assert first.values[0] == pytest.approx((first.settings["set.kappa"] - 3) ** 2 + 0.05 + 0.2)


def test_settings_that_are_sampled_at_first_are_those_of_the_seed_and_differ_between_workers(tmp_path, quick):
    space = {"set.kappa": Range(0.0, 10.0)}
    drawn = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        plan = planned(tmp_path / name, space, trials=3, seed=seed)
        quick()
        threads = [threading.Thread(target=work, args=(plan,)) for _ in range(2 if name == "two" else 1)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        drawn.append({one.settings["set.kappa"] for one in found(plan)})
        assert len(drawn[-1]) == 3
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_trial_that_fails_keeps_its_sentence_and_the_others_go_on(tmp_path, quick):
    def at(settings, epoch):
        if settings["set.kappa"] == 1.0:
            raise ValueError("kappa is wrong:\n give another one")
        if settings["set.kappa"] == 3.0 and epoch == 4:
            raise NonFiniteLossError("the loss is nan")

    plan, _ = planned(tmp_path / "out", GRID), quick(at)
    assert work(plan) == 3
    assert [(one.state, one.problem) for one in found(plan)] == [
        ("failed", "kappa is wrong: give another one"), ("failed", "the loss is nan"), ("complete", None),
    ]  # fmt: skip
    assert work(plan) == 0  # what has failed is not begun again


@pytest.mark.parametrize("stop", [KeyboardInterrupt, workers._Ended, Unwritable("place", OSError(28, "full"))])
def test_a_trial_that_was_broken_off_waits_for_the_next_worker(stop, tmp_path, quick):
    stops = [stop]

    def at(settings, epoch):
        if settings["set.kappa"] == 3.0 and epoch == 2 and stops:
            raise stops.pop()

    plan, function = planned(tmp_path / "out", GRID), quick(at)
    with pytest.raises((stop if isinstance(stop, type) else type(stop),)):
        work(plan)
    assert [one.state for one in found(plan)] == ["complete", "waiting", "waiting"]
    assert work(plan) == 2 and [one.state for one in found(plan)] == ["complete"] * 3
    assert kappas(function) == [1.0, 3.0, 10.0, 3.0]
    assert [abandoned for _, abandoned in function.calls] == [False, False, False, True]
    assert not list((tmp_path / "out").glob("*.lock"))


def test_a_worker_waits_for_what_others_fit_and_takes_it_up_when_they_die(tmp_path, quick, monkeypatch):
    plan, function = planned(tmp_path / "out", {"set.kappa": [1.0, 3.0]}), quick()
    study = loaded(plan)
    with pytest.warns(UserWarning, match="Heartbeat"):
        trial = study.ask()
    trial.set_user_attr(studies.WORKER, {"host": "here", "process": 7, "started": None})
    looks = [True, True, True, False]
    monkeypatch.setattr(studies, "is_running", lambda worker: looks.pop(0) if worker["process"] == 7 else True)
    assert work(plan) == 2 and looks == [] and kappas(function) == [3.0, 1.0]
    assert [one.state for one in found(plan)] == ["complete"] * 2


def test_a_worker_that_was_taken_for_dead_leaves_its_trial_to_the_other_one(tmp_path, quick):
    taken = []

    def at(settings, epoch):
        if settings["set.kappa"] == 3.0 and epoch == 3 and not taken:
            taken.append(plan)
            study = loaded(plan)
            study.tell(1, state=optuna.trial.TrialState.FAIL)
            studies.requeued(study, study.trials[1])

    plan = planned(tmp_path / "out", GRID, prune=True)
    function = quick(at)
    work(plan)
    assert [one.state for one in found(plan)] == ["complete"] * 3
    assert kappas(function) == [1.0, 3.0, 10.0, 3.0] and len(loaded(plan).trials) == 4
    assert sum(one.state.name == "COMPLETE" for one in loaded(plan).trials) == 3


def test_hopeless_trials_are_ended_early(tmp_path, quick):
    space = {"set.kappa": [3.0, 3.1, 2.9, 3.2, 2.8, 40.0, 3.05]}
    plan, function = planned(tmp_path / "out", space, prune=True), quick()
    work(plan)
    states = {one.settings["set.kappa"]: one.state for one in found(plan)}
    assert states.pop(40.0) == "pruned" and set(states.values()) == {"complete"}
    assert function.ended == [(40.0, 3)]  # the first epoch that is looked at
    assert next(one for one in found(plan) if one.state == "pruned").epoch == 3
    whole = planned(tmp_path / "all", space)  # control
    work(whole)
    assert {one.state for one in found(whole)} == {"complete"}


def test_of_several_objectives_none_ends_a_trial(tmp_path, quick):
    space = {"set.kappa": [3.0, 3.1, 2.9, 3.2, 2.8, 40.0]}
    plan, _ = planned(tmp_path / "out", space, objectives=("validation_nll", "density"), prune=True), quick()
    work(plan)
    assert {one.state for one in found(plan)} == {"complete"} and found(plan)[5].values == (37.0**2 + 0.2, 4.0)
    assert [one.params["set.kappa"] for one in loaded(plan).best_trials] == [3.0, 2.9, 2.8]


def test_a_journal_serves_as_well(tmp_path, quick):
    plan, function = planned(tmp_path / "out", GRID, storage=f"journal:///{tmp_path / 'log'}"), quick()
    assert work(plan) == 3 and kappas(function) == [1.0, 3.0, 10.0]
    assert [one.state for one in found(plan)] == ["complete"] * 3


def test_a_storage_that_is_lost_is_said_in_a_sentence(tmp_path, quick):
    def at(settings, epoch):
        if epoch == 3:
            (tmp_path / "out" / "trials.db").write_bytes(b"nothing of the kind" * 1000)

    plan, _ = planned(tmp_path / "out", GRID, prune=True), quick(at)
    with pytest.raises(LostStorageError, match="trials.db does not answer any more"):
        work(plan)


def test_a_worker_process_gives_its_trial_back_when_it_is_asked_to_end(tmp_path, quick):
    def at(settings, epoch):
        if settings["set.kappa"] == 3.0 and epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    plan, _ = planned(tmp_path / "out", GRID), quick(at)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert work_in_process(plan, 0) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [one.state for one in found(plan)] == ["complete", "waiting", "waiting"]
