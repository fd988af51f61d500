"""A trial of a sweep as a function of its settings."""

from __future__ import annotations

import json
import pickle
from unittest.mock import patch

import pytest

from bayesprune.commands.fitting import fit_run
from bayesprune.inference.training import checkpoint
from bayesprune.runs.part_folder import RunInUse
from bayesprune.runs.run_folder import read_summary
from bayesprune.sweeps import trial as trials
from bayesprune.sweeps.trial import OBJECTIVES, RunTrial, fit_keywords, read_record

SAME = {"data": "digits", "width": 0.03, "epochs": 3, "batch-size": 256, "execution": "plain", "prior": "halo"}
SETTINGS = {"learning-rate": 0.02, "set.kappa": 2.0, "seed": 1}


class Stop(Exception):
    pass


def stopped(at):
    def report(epoch, value):
        if epoch == at:
            raise Stop

    return report


def without_time(scores):
    return {name: one for name, one in scores.items() if name not in ("seconds", "run", "resumed_at_epoch")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A trial that was fitted in one go: the function, its scores, and what it reported."""
    function, told = RunTrial(tmp_path_factory.mktemp("whole"), SAME), []
    return function, function(SETTINGS, lambda epoch, value: told.append((epoch, value))), told


def test_scores_are_those_of_the_run(whole):
    function, scores, told = whole
    summary = read_summary(function.place(SETTINGS))
    assert scores["run"] == str(function.place(SETTINGS))
    assert scores["validation_nll"] == summary["validation_nll"] and scores["test_accuracy"] == summary["test_accuracy"]
    assert summary["prior_settings"]["kappa"] == 2.0 and summary["learning_rate"] == 0.02
    assert summary["seed"] == summary["data_seed"] == 1
    assert (
        scores["density"] == 1.0
        and scores["nonzero"] == scores["macs"] == scores["dense_macs"] == 64 * 9 + 9 * 3 + 3 * 10
    )
    assert scores["latency"] is None and scores["resumed_at_epoch"] is None
    assert [epoch for epoch, _ in told] == [1, 2, 3] and told[2][1] < told[0][1]
    assert all(name in scores for name in OBJECTIVES) and not any(name.startswith("test") for name in OBJECTIVES)


def test_a_second_call_reads_what_the_first_has_fitted(whole, monkeypatch):
    function, scores, _ = whole
    monkeypatch.setattr(trials, "fit_run", None)
    assert function(dict(reversed(SETTINGS.items()))) == scores
    renamed = {name.replace("-", "_"): value for name, value in SETTINGS.items()}
    assert function(renamed) == scores
    assert pickle.loads(pickle.dumps(function))(SETTINGS) == scores
    with pytest.raises(TypeError):  # control: other settings are fitted
        function({**SETTINGS, "seed": 2})


def test_a_trial_that_was_stopped_goes_on_with_the_numbers_of_one_that_was_not(whole, tmp_path):
    function = RunTrial(tmp_path, SAME)
    with patch.multiple(checkpoint, SHARE=1.0, LEAST=0.0):
        with pytest.raises(Stop):
            function(SETTINGS, stopped(at=3))
        assert read_record(tmp_path / f"{function.place(SETTINGS).name}.json").scores is None
        scores = function(SETTINGS)
    assert scores["resumed_at_epoch"] is not None and without_time(scores) == without_time(whole[1])


def test_a_trial_is_taken_from_another_machine_only_if_that_is_known_to_have_died(whole, tmp_path):
    function = RunTrial(tmp_path, SAME)
    place = function.place(SETTINGS)
    with patch.multiple(checkpoint, SHARE=1.0, LEAST=0.0):
        with pytest.raises(Stop):
            function(SETTINGS, stopped(at=3))
        file = place.with_name(f"{place.name}.part") / "progress.json"
        elsewhere = json.loads(file.read_text()) | {"host": "another", "ended": False}
        file.write_text(json.dumps(elsewhere))
        keywords = fit_keywords({**function.arguments, **SETTINGS})
        with pytest.raises(RunInUse, match="process .* on another"):
            fit_run(place, **keywords)
        scores = function(SETTINGS, abandoned=True)
    assert scores["resumed_at_epoch"] is not None and without_time(scores) == without_time(whole[1])


def test_a_trial_waits_for_another_process_that_fits_the_same(tmp_path, monkeypatch):
    waits, fits = [], []

    def busy(run, **keywords):
        fits.append(run)
        if len(fits) < 3:
            raise RunInUse("another fit is being written")
        return fit_run(run, **keywords)

    monkeypatch.setattr(trials, "fit_run", busy)
    monkeypatch.setattr(trials.time, "sleep", waits.append)
    RunTrial(tmp_path, {**SAME, "epochs": 1})({"seed": 0})
    assert len(fits) == 3 and len(waits) == 2


def test_what_fails_keeps_its_sentence(tmp_path):
    function = RunTrial(tmp_path, SAME, ("validation_rmse",))
    with pytest.raises(ValueError, match="kappa"):
        function({"set.kappa": -1.0})
    assert "kappa" in read_record(function.place({"set.kappa": -1.0}).with_suffix(".json")).problem
    with pytest.raises(ValueError, match="has no validation_rmse to look for: its scores are validation_nll"):
        function({"epochs": 1})
    assert not list(tmp_path.glob("*.part"))


def test_what_is_hopeless_is_not_gone_on_with(tmp_path):
    function = RunTrial(tmp_path, SAME)
    with patch.multiple(checkpoint, SHARE=1.0, LEAST=0.0), pytest.raises(Stop):
        function(SETTINGS, stopped(at=2))
    assert list(tmp_path.glob("*.part"))
    function.end_early(SETTINGS, 2)
    assert not list(tmp_path.glob("*.part"))
    assert read_record(function.place(SETTINGS).with_suffix(".json")).ended_early == 2


def test_settings_are_checked_before_training_and_leave_nothing(tmp_path):
    function = RunTrial(tmp_path / "none", SAME)
    function.check(SETTINGS)
    with pytest.raises(ValueError, match="kappa"):
        function.check({"set.kappa": -1.0})
    with pytest.raises(ValueError, match="cuda:99"):
        function.check({"device": "cuda:99"})
    assert not (tmp_path / "none").exists()


def test_a_file_of_another_content_is_another_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("import bayesprune as bp\nmine = bp.Gaussian\n")
    function = RunTrial("fits", {**SAME, "prior": "own.py:mine"})
    monkeypatch.chdir(tmp_path.parent)
    before = function.place({"seed": 0})
    assert before.parent == tmp_path / "fits" and function.arguments["prior"].startswith(str(tmp_path))
    (tmp_path / "own.py").write_text("import bayesprune as bp\nmine = bp.Laplace\n")
    assert function.place({"seed": 0}) != before


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        (["nll"], "unknown"),
        ([], "one objective at least"),
        (["density", "density"], "twice"),
        (["test_nll"], "unknown"),
    ],
)
def test_objectives_are_known_and_never_of_test_data(objectives, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        RunTrial(tmp_path, SAME, objectives)


def test_a_record_that_is_damaged_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"format": 1, "settings": {}, "arguments": {}, "scores": 3}')
    with pytest.raises(ValueError, match="a.json is damaged"):
        read_record(tmp_path / "a.json")
