"""`bayesprune fit --tune`: it mends a fit at chance, goes on where it was interrupted, and refuses what is no knob."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import bayesprune.commands.fitting
from bayesprune.commands.fitting import fit_run
from bayesprune.commands.tuning import asked_tuning
from bayesprune.inference.sparsity_path import next_fit
from bayesprune.inference.training import checkpoint
from bayesprune.inference.tuning.trials import Trials
from bayesprune.inference.tuning.tuning import Tuned
from bayesprune.inference.watching.trace_file import WriteTrace
from bayesprune.runs.run_folder import read_summary
from tests.oracles.same_runs import numbers

DEAD = {
    "guide": "map",
    "kl_weight": 1.0,
    "kl_warmup": 0.0,
    "learning_rate": 0.01,
    "device": "cpu",
    "execution": "plain",
}
"""HALO dies at these: its prior costs more than the data can earn at the start."""


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """States are written after every epoch, whatever it costs."""
    monkeypatch.setattr(checkpoint, "SHARE", 1.0)
    monkeypatch.setattr(checkpoint, "LEAST", 0.0)
    monkeypatch.setattr("bayesprune.runs.run_folder.ARVIZ_DRAWS", 2)


@pytest.fixture
def arguments(data, networks_file):
    def make(out, *more, prior="spike-and-slab", tune="kl_weight=1,0.1,expected_density=0.5,0.2,0.1", epochs=3):
        fixed = ["--network", f"{networks_file}:small", "--epochs", epochs, "--batch-size", 30, "--execution", "plain"]
        return ["fit", "--data", data, "--prior", prior, "--out", out, *fixed, "--tune", tune, "--quiet", *more]

    return make


def same(one, other):
    """As `is_same`, but for the seconds of trials."""
    found = []
    for run in (one, other):
        summary, tensors, trace = numbers(run)
        trials = [{**row, "seconds": 0.0} for row in summary.pop("tuned")]
        found.append(({**summary, "trials": trials}, tensors, trace))
    (summary, tensors, trace), (others, theirs, their_trace) = found
    equal = all(bool((value == theirs[file][name]).all()) for file in tensors for name, value in tensors[file].items())
    return summary == others and equal and trace.identical(their_trace)


# -- what it is for ------------------------------------------------------------------------------------------


def test_one_command_mends_a_fit_at_chance(networks_file, tmp_path):
    named = {"data": "digits", "network": f"{networks_file}:small", "prior": "halo", "epochs": 15, **DEAD}
    named["settings"] = {"kappa": 1000}
    before = fit_run(tmp_path / "before", **named)
    after = fit_run(tmp_path / "after", tune={"kl_weight": (1, 0.1, 0.01)}, **named)
    assert before["test_accuracy"] < 0.4 and after["test_accuracy"] > 0.85  # the first one is also the control
    assert (before["tuned"], before["kl_weight"], after["kl_weight"]) == (None, 1.0, 0.01)
    assert after["tempered"] and "kl_weight 0.01 in place of kl_weight 1" in after["notes"][-1]
    chosen = [row for row in after["tuned"] if row["chosen"]]
    assert len(chosen) == 1 and chosen[0]["values"] == {"kl_weight": 0.01} and chosen[0]["warm_from"] is None
    assert read_summary(tmp_path / "after")["tuned"] == after["tuned"]
    assert [path.name for path in tmp_path.iterdir()].count("after.part") == 0


def test_the_command_prints_its_trials_and_what_was_chosen(arguments, command, tmp_path):
    given = [part for part in arguments(tmp_path / "run") if part != "--quiet"]
    code, printed, _ = command(*given)
    found = read_summary(tmp_path / "run")
    lines = printed.splitlines()
    assert code == 0 and lines[0].split()[:3] == ["knob", "value", "start"]
    assert sum(line.rstrip().endswith("chosen") for line in lines) == 1 == sum(row["chosen"] for row in found["tuned"])
    assert sum(line.startswith(("kl_weight ", "expected_density ")) for line in lines) == len(found["tuned"])
    assert any(line.startswith("note: tuned on validation data") for line in lines)
    values = next(row["values"] for row in found["tuned"] if row["chosen"])
    assert found["kl_weight"] == values["kl_weight"]
    assert found["prior_settings"] == {"expected_density": values["expected_density"]}
    steps = {row["steps"] for row in found["tuned"]}
    assert max(steps) == found["steps"]  # a trial is no longer than the fit
    assert command("show", tmp_path / "run")[0] == 0


def test_a_knob_that_set_gives_starts_there(arguments, command, tmp_path):
    given = arguments(tmp_path / "run", "--set", "expected_density=0.3", tune="expected_density", epochs=1)
    assert command(*given)[0] == 0
    rows = read_summary(tmp_path / "run")["tuned"]
    assert rows[0]["values"] == {"expected_density": 0.3}
    assert {row["values"]["expected_density"] for row in rows} == {0.0411, 0.114, 0.3, 0.563, 0.811}


def test_with_a_budget_every_trial_and_the_run_end_at_its_density(arguments, command, tmp_path):
    given = [part for part in arguments(tmp_path / "run", tune="kl_weight=1,0.1", epochs=2) if part != "--quiet"]
    code, printed, _ = command(*given, "--kl-weight", 1, "--budget", "density=0.1")
    found = read_summary(tmp_path / "run")
    assert code == 0 and "by itself" in printed
    assert [row["warm_from"] for row in found["tuned"]] == [None, None]
    whole = found["weights"]
    for row in found["tuned"]:
        assert round(row["density"] * whole) == round(0.1 * whole) and row["density_before"] > 0.0
    assert found["nonzero"] == round(0.1 * whole)
    assert command("show", tmp_path / "run")[0] == 0


# -- going on ------------------------------------------------------------------------------------------------


class Broken(Exception):
    """What ends a fit in these tests."""


def test_a_command_that_was_interrupted_in_a_trial_goes_on_with_the_same_numbers(
    arguments, command, tmp_path, monkeypatch
):
    assert command(*arguments(tmp_path / "whole"))[0] == 0
    tried = len(read_summary(tmp_path / "whole")["tuned"])
    assert tried >= 4
    real, calls = next_fit.fit, []

    def fit(*given, **more):
        calls.append(1)
        if len(calls) == 3:
            raise Broken
        return real(*given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(next_fit, "fit", fit)
        code, _, err = command(*arguments(tmp_path / "run"))
    part = tmp_path / "run.part"
    assert code == 1 and f"{part} keeps 2 trials of --tune: the same command goes on there" in err
    code, shown, _ = command("show", tmp_path / "run")
    assert code == 0 and "trials of --tune, 2 so far: the same command goes on there" in shown
    assert command(*arguments(tmp_path / "run")) == (0, "", "")
    assert same(tmp_path / "whole", tmp_path / "run") and not part.exists()
    assert command(*arguments(tmp_path / "other", "--seed", 1))[0] == 0
    assert not same(tmp_path / "whole", tmp_path / "other")  # control


def test_a_command_that_was_interrupted_in_the_full_fit_tries_nothing_again(arguments, command, tmp_path, monkeypatch):
    assert command(*arguments(tmp_path / "whole"))[0] == 0

    def on_step(watcher, state):
        if state.epoch == 2:
            raise Broken

    with monkeypatch.context() as patched:
        patched.setattr(WriteTrace, "on_step", on_step)
        code, _, err = command(*arguments(tmp_path / "run"))
    assert code == 1 and "keeps the state after epoch 2" in err
    monkeypatch.setattr(next_fit, "fit", None)  # trials cannot be run any more
    assert command(*arguments(tmp_path / "run")) == (0, "", "")
    assert same(tmp_path / "whole", tmp_path / "run")


def test_another_tuning_is_refused_where_one_was_interrupted(arguments, command, refused, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(WriteTrace, "on_step", lambda *_: (_ for _ in ()).throw(Broken()))
        assert command(*arguments(tmp_path / "run"))[0] == 1
    refused(arguments(tmp_path / "run", tune="kl_weight"), "with --tune {'kl_weight': [1.0, 0.1]", "begin anew")
    assert command(*arguments(tmp_path / "run", "--fresh", tune="kl_weight=1,0.1", epochs=1))[0] == 0


def test_the_fit_before_goes_on_too_where_it_has_to_be_made(arguments, command, tmp_path, monkeypatch):
    """The full fit at what was chosen is worse than the start here, because its score is made so."""
    real, trial_scored = Tuned._scored, Trials._scored

    def better_each_time(trials, *given):
        trial = trial_scored(trials, *given)
        return replace(trial, nll=3.0 - 0.1 * trial.number)

    def scored(tuned, fit_at, values):
        fitted, loss = real(tuned, fit_at, values)
        return fitted, loss + 100.0 * (values == tuned.values)

    monkeypatch.setattr(Tuned, "_scored", scored)
    monkeypatch.setattr(Trials, "_scored", better_each_time)
    given = {out: arguments(tmp_path / out, tune="kl_weight=0.7,0.6") for out in ("whole", "run")}
    assert command(*given["whole"])[0] == 0
    kept = read_summary(tmp_path / "whole")
    assert "the settings before tuning are kept" in kept["notes"][-1] and kept["tuned"][0]["chosen"]

    def on_step(watcher, state):
        if (tmp_path / "run.part" / "state-before").is_dir() and state.epoch == 2:  # in the second of the two
            raise Broken

    with monkeypatch.context() as patched:
        patched.setattr(WriteTrace, "on_step", on_step)
        assert command(*given["run"])[0] == 1
    assert (tmp_path / "run.part" / "state-before" / "restart-0.json").is_file()
    assert command(*given["run"])[0] == 0
    assert same(tmp_path / "whole", tmp_path / "run")
    assert not (tmp_path / "run.part").exists()


# -- wrong usage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tune", "parts"),
    [
        ("kl_weigt", ("--tune knows no 'kl_weigt' (did you mean 'kl_weight'?)", "the settings of halo, kappa, prior")),
        ("expected_densty", ("did you mean 'expected_density'?",)),
        ("data_size", ("--tune knows no 'data_size'",)),
        ("kappa", ("the knob kappa leaves it to the prior", "as --tune kappa=A,B,C")),
        ("kappa=1,-1", ("HALO(kappa=...) must not be negative, not -1",)),
        ("kl_weight=1,-1", ("kl_weight must not be negative",)),
        ("kl_weight=x", ("--tune takes names of knobs, each with finite numbers or without",)),
        ("0.1", ("--tune takes names of knobs",)),
        ("", ("--tune takes names of knobs",)),
        ("kl_weight=nan", ("--tune takes names of knobs",)),
        ("kl_weight,1", ("--tune takes names of knobs",)),
        ("kl_weight,kl-weight", ("--tune gives 'kl_weight' twice",)),
        ("kl_weight=" + ",".join(map(str, range(60))), ("more than 50 values",)),
        ("kl_weight=1,1", ("1 to 50 values, each once",)),
    ],
)  # fmt: skip
def test_what_is_no_knob_is_told_in_one_line(tune, parts, arguments, refused, tmp_path):
    refused(arguments(tmp_path / "run", prior="halo", tune=tune), *parts)
    assert not list(tmp_path.iterdir())


def test_other_priors_and_fits_say_what_they_can_tune(arguments, refused, tmp_path):
    refused(arguments(tmp_path / "run", tune="level"), "the knob level is 'weight', but only numbers are tuned")
    own = tmp_path / "own.py"
    own.write_text(
        "import bayesprune as bp\n\ndef mine(width=1.0):\n    return bp.Gaussian(width)\n\nfixed = bp.Gaussian(1.0)\n"
    )
    refused(
        arguments(tmp_path / "run", prior=f"{own}:mine", tune="wdth"), "did you mean 'width'?", "own.py:mine, width"
    )
    refused(arguments(tmp_path / "run", prior=f"{own}:fixed", tune="width"), "own.py:fixed has no settings")
    refused(
        arguments(tmp_path / "run", "--set", "kappa=3", prior="halo", tune="expected_density"),
        "HALO takes one of kappa, prior_sd and expected_density",
    )
    nothing = [*arguments(tmp_path / "run", prior="reduction", epochs=0), "--weights", tmp_path / "w.safetensors"]
    refused(nothing, "--epochs 0 trains nothing, so there is nothing to tune")


def test_a_prior_of_ones_own_is_tuned(arguments, command, tmp_path):
    own = tmp_path / "own.py"
    own.write_text("import bayesprune as bp\n\ndef mine(width=1.0):\n    return bp.Gaussian(width)\n")
    assert command(*arguments(tmp_path / "run", prior=f"{own}:mine", tune="width=2,0.5", epochs=1))[0] == 0
    rows = read_summary(tmp_path / "run")["tuned"]
    assert [row["values"]["width"] for row in rows][:3] == [1.0, 2.0, 0.5] and rows[2]["warm_from"] == 1


def test_data_without_validation_examples_are_told(arguments, refused, tmp_path, monkeypatch):
    real = bayesprune.commands.fitting.load_data

    def without(*given, **more):
        splits = real(*given, **more)
        x, y = splits.validation
        return replace(splits, validation=(x[:0], y[:0]))

    monkeypatch.setattr(bayesprune.commands.fitting, "load_data", without)
    refused(arguments(tmp_path / "run"), "has no validation data, on which --tune chooses: give more examples")
    assert not list(tmp_path.iterdir())


def test_texts_and_mappings_ask_for_the_same():
    text = asked_tuning(["expected_density=0.3,0.1,kl-weight"], "halo", {}, 5)
    assert text == asked_tuning({"kl_weight": None, "expected_density": (0.3, 0.1)}, "halo", {}, 5)
    assert text == asked_tuning(["expected_density=0.3,0.1", "kl_weight"], "halo", {}, 5)
    assert list(text.knobs) == ["kl_weight", "expected_density"]
    assert json.dumps(text.knobs)
    assert text != asked_tuning(["expected_density=0.3,kl_weight"], "halo", {}, 5)  # control


def test_the_price_of_unit_gates_has_a_start_that_is_known_with_the_data():
    assert asked_tuning(["log_gamma"], "unit-gates", {}, 5).start == {"log_gamma": None}
    with pytest.raises(ValueError, match="the knob kappa leaves it to the prior"):
        asked_tuning(["kappa"], "unit-gates", {}, 5)
