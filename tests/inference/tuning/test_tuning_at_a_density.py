"""Tuning at a density: every fit ends there, from a cold start, and is scored as a whole or as its median model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

import bayesprune as bp
from bayesprune.inference.sparsity_path import next_fit
from bayesprune.inference.tuning.trials import TRIALS_FILE

FEATURES, CLASSES, SIZE = 12, 3, 90
HOW = {"device": "cpu", "batch_size": 30, "learning_rate": 0.02, "execution": "plain", "first_steps": 60, "steps": 20}
KNOBS = {"kl_weight": (1.0, 0.1), "expected_density": (0.3, 0.1)}


def data(seed=0):
    """Training and validation data of three classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2 * SIZE, FEATURES, generator=generator)
    y = (x[:, :CLASSES] + 0.5 * torch.randn(len(x), CLASSES, generator=generator)).argmax(1)
    return (x[:SIZE], y[:SIZE]), (x[SIZE:], y[SIZE:])


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(FEATURES, 10), torch.nn.ReLU(), torch.nn.Linear(10, CLASSES))


def model_at(expected_density=0.3):
    return bp.BayesianNetwork(network(), {"*.weight": bp.SpikeAndSlab(expected_density)}, data_size=SIZE)


def without_clocks(tuned):
    return [replace(trial, seconds=0.0) for trial in tuned.trials]


def test_every_trial_and_the_full_fit_end_at_the_density_from_cold_starts():
    train, validation = data()
    whole = 10 * (FEATURES + CLASSES)
    tuned = bp.tune(model_at, train, validation, KNOBS, density=0.2, kl_weight=1.0, **HOW)
    assert {trial.knob for trial in tuned.trials} == set(KNOBS) and len(tuned.trials) == 3
    for trial in tuned.trials:
        assert trial.density == pytest.approx(0.2) and trial.sparsity == pytest.approx(0.8)
        assert trial.warm_from is None and trial.steps == HOW["first_steps"]
    assert any(trial.density_before != trial.density for trial in tuned.trials)  # it was told apart from what is landed
    assert "by itself" in str(tuned) and json.loads(json.dumps(tuned.rows()))[0]["density"] == tuned.before.density
    fitted = tuned.fit(steps=40)
    assert fitted.settings["budget"][0]["reached_count"] == round(0.2 * whole)
    free = bp.tune(model_at, train, validation, KNOBS, kl_weight=1.0, **HOW)  # control
    assert any(trial.warm_from is not None for trial in free.trials) and "by itself" not in str(free)
    assert {trial.density for trial in free.trials} == {None}
    assert any(trial.sparsity != pytest.approx(0.8) for trial in free.trials)


def test_it_is_a_budget_among_the_rules():
    train, validation = data()
    one = bp.tune(model_at, train, validation, {"kl_weight": (1.0, 0.1)}, density=0.2, **HOW)
    other = bp.tune(model_at, train, validation, {"kl_weight": (1.0, 0.1)}, rules=[bp.Budget(density=0.2)], **HOW)
    assert without_clocks(one) == without_clocks(other)
    third = bp.tune(model_at, train, validation, {"kl_weight": (1.0, 0.1)}, density=0.3, **HOW)
    assert without_clocks(third) != without_clocks(one)  # control


def test_the_median_model_is_scored_at_its_means():
    train, (x, y) = data()
    how = {name: value for name, value in HOW.items() if name not in ("first_steps", "steps")}
    tuned = bp.tune(model_at, train, (x, y), {"kl_weight": (0.5,)}, density=0.2, kl_weight=0.5, form="means", **HOW)
    fit = bp.fit(model_at(), train, kl_weight=0.5, steps=60, rules=[bp.Budget(density=0.2)], **how)
    kept = {name: p > 0.5 for name, p in fit.inclusion_probabilities().items()}
    weights = fit.included_weights()
    plain = network()
    state = fit.model.network.state_dict()
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            value = state[name]
            if name in kept:
                value = weights[name] * torch.tensor(kept[name].values)
            parameter.copy_(value)
        expected = float(cross_entropy(plain(x), y))
    assert tuned.before.nll == pytest.approx(expected, abs=1e-5) and tuned.form == "means"
    assert fit.score(x, y)["nll"] != pytest.approx(expected, abs=1e-3)  # control: the averaged prediction is another
    with_error = bp.tune(
        model_at, train, (x, y), {"kl_weight": (0.5,)}, density=0.2, kl_weight=0.5, form="means",
        rule="one-standard-error", **HOW,
    )  # fmt: skip
    with torch.no_grad():
        losses = cross_entropy(plain(x), y, reduction="none")
    assert with_error.before.standard_error == pytest.approx(float(losses.std() / len(x) ** 0.5), rel=0.7)


class Interrupted(BaseException):
    """Like KeyboardInterrupt: nothing may catch it."""


def test_an_interrupted_search_goes_on_with_the_same_numbers_and_another_density_is_refused(tmp_path, monkeypatch):
    train, validation = data()
    given = (model_at, train, validation, KNOBS)
    how = {"density": 0.2, "kl_weight": 1.0, "form": "means", **HOW}
    whole = bp.tune(*given, **how)
    real, calls = next_fit.fit, []

    def fit(*more, **named):
        calls.append(1)
        if len(calls) == 3:
            raise Interrupted
        return real(*more, **named)

    with monkeypatch.context() as patched:
        patched.setattr(next_fit, "fit", fit)
        with pytest.raises(Interrupted):
            bp.tune(*given, folder=tmp_path, **how)
    assert len(json.loads((tmp_path / TRIALS_FILE).read_text())["trials"]) == 2
    again = bp.tune(*given, folder=tmp_path, **how)
    assert without_clocks(again) == without_clocks(whole)
    with pytest.raises(ValueError, match="keeps trials with how"):
        bp.tune(*given, folder=tmp_path, **{**how, "density": 0.3})
    with pytest.raises(ValueError, match="keeps trials with form"):
        bp.tune(*given, folder=tmp_path, **{**how, "form": "averaged"})


def test_trials_of_earlier_versions_go_on(tmp_path):
    train, validation = data()
    given = (model_at, train, validation, {"kl_weight": (1.0, 0.1)})
    before = bp.tune(*given, folder=tmp_path, kl_weight=1.0, **HOW)
    found = json.loads((tmp_path / TRIALS_FILE).read_text())
    for row in found["trials"]:
        assert row.pop("density") is None and row.pop("density_before") is None
    (tmp_path / TRIALS_FILE).write_text(json.dumps(found))
    assert bp.tune(*given, folder=tmp_path, kl_weight=1.0, **HOW).trials == before.trials  # of a clock's figures too
    found["trials"][0]["other"] = 1
    (tmp_path / TRIALS_FILE).write_text(json.dumps(found))
    with pytest.raises(ValueError, match="its trials have other keys"):
        bp.tune(*given, folder=tmp_path, kl_weight=1.0, **HOW)


def gaussian(expected_density=0.3):
    return bp.BayesianNetwork(network(), {"*.weight": bp.Gaussian()}, data_size=SIZE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"density": 0.2, "rules": [bp.Budget(density=0.1)]}, "rules= has one already: give one of the two"),
        ({"density": 1.5}, r"a share in \(0, 1\) or a whole number of them, not 1.5"),
        ({"density": 10**6}, "more than all there are"),
        ({"form": "mean"}, "form 'mean' is unknown: expected one of averaged, means"),
        ({"model": gaussian, "density": 0.2}, "moves a knob, but Gaussian"),
        ({"model": gaussian, "form": "means"}, "no prior of this model has gates: leave it out"),
    ],
)
def test_wrong_usage_is_told_in_a_sentence_before_anything_is_fitted(change, said, monkeypatch):
    monkeypatch.setattr(next_fit, "fit", None)
    train, validation = data()
    given = {"model": model_at, **change}
    with pytest.raises(ValueError, match=said) as raised:
        bp.tune(given.pop("model"), train, validation, "kl_weight", **given)
    assert "\n" not in str(raised.value)
