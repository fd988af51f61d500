"""Budgets by layer in a fit: every tensor ends at its own count; knobs are steered apart where they are apart."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from sklearn.datasets import load_digits

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.rules.budget_count import weights_left

PIXELS, LABELS = load_digits(return_X_y=True)
X, Y = torch.tensor(PIXELS / 16.0, dtype=torch.float32), torch.tensor(LABELS)
NAMES = ("fc1.weight", "fc2.weight", "fc3.weight")


def digits(make, patterns=("*.weight",), hidden=(30, 20)):
    torch.manual_seed(0)
    priors = {pattern: make() for pattern in patterns}
    return bp.BayesianNetwork(bp.lenet_300_100(64, hidden=hidden), priors, data_size=len(X))


def fitted(model, budget, steps=150, **how):
    return bp.fit(model, (X, Y), steps=steps, rules=[bp.Budget(density=budget)], execution="plain", device="cpu", **how)


def counts(fit):
    return {name: int(left.sum()) for name, left in weights_left(fit.restarts[0].guide).items()}


PRIORS = {
    "soft thresholds": bp.SoftThreshold,
    "soft thresholds of rows": lambda: bp.SoftThreshold(per="output"),
    "one soft threshold": lambda: bp.SoftThreshold(per="network"),
    "halo": bp.HALO,
    "spike and slab": bp.SpikeAndSlab,
}


@pytest.mark.parametrize("patterns", [("*.weight",), NAMES])
@pytest.mark.parametrize("prior", PRIORS)
def test_each_tensor_ends_at_its_own_count(prior, patterns):
    model = digits(PRIORS[prior], patterns)
    asked = bp.LayerBudget.erk(model, 0.15)
    fit = fitted(model, asked)
    assert counts(fit) == {one.tensor: one.left for one in asked.layers}
    assert fit.layer_budget() == bp.LayerBudget.of(fit) == asked
    (said,) = fit.settings["budget"]
    assert said["layers"]["fc2.weight"]["asked"] == said["layers"]["fc2.weight"]["reached"] == asked.layers[1].left
    assert said["reached_count"] == said["asked_count"] == asked.left and len(said["knobs"]) == len(patterns)
    names = [str(name) for name in fit.trace["budget"].budget_name.values]
    assert names == [*(f"knob {key}" for key in said["knobs"]), "target", "reached"]


def test_tensors_that_are_not_named_stay_free():
    model = digits(bp.HALO, NAMES)
    fit = fitted(model, {"fc1.weight": 0.05, "fc2.weight": 100})
    found = counts(fit)
    assert (found["fc1.weight"], found["fc2.weight"]) == (96, 100)
    (said,) = fit.settings["budget"]
    assert said["whole"] == 64 * 30 + 30 * 20 and set(said["knobs"]) == {"fc1.weight.kappa", "fc2.weight.kappa"}
    assert fit.model.knobs["fc3.weight.kappa"].value == 1.0 and set(said["counted"]) == {"fc1.weight", "fc2.weight"}


def test_the_threshold_of_all_is_not_moved_for_one():
    model = digits(lambda: bp.SoftThreshold(per="network"))
    fit = fitted(model, {"fc1.weight": 200})
    free = fitted(digits(lambda: bp.SoftThreshold(per="network")), {"fc1.weight": 300})
    assert counts(fit)["fc1.weight"] == 200 and counts(free)["fc1.weight"] == 300
    assert counts(fit)["fc3.weight"] > 0


# -- the controllers -----------------------------------------------------------------------------------------


class Plant:
    """A run of a model whose weights follow their knobs at once, but for a delay."""

    step, epoch, steps, restart, final_kl_weight = 0, 0, 2500, 0, 1.0


def settled(patterns, budget):
    """Runs controllers on weights whose log density falls by half of what the knob of their tensor has risen by."""
    model = digits(bp.HALO, patterns)
    guide, run = Guide(model, "map"), Plant()
    run.objective = copy.copy(run)
    run.objective.model, run.objective.guide = model, guide
    active = bp.Budget(density=budget).begin(run)
    places = {
        piece.site.name: piece.of(family.location.data)
        for family in guide.families
        for piece in family.slices()
        if piece.parameter == "location" and piece.site.name in NAMES
    }
    logs = dict.fromkeys(NAMES, math.log(0.9))
    for step in range(1, run.steps + 1):
        run.step = step
        fade = min(1.0, step / (0.6 * run.steps))
        for name, place in places.items():
            pattern = name if name in patterns else "*.weight"
            rest = -fade * (0.5 + 0.5 * math.log(model.knobs[f"{pattern}.kappa"].factor))
            logs[name] += (rest - logs[name]) / (0.03 * run.steps)
            order = torch.linspace(0.0, 1.0, place.numel()).view(place.shape)
            place.copy_(torch.where(order < math.exp(logs[name]), 1.0, 1e-6))
        active.after_step(bp.Taken(step, X[:1], Y[:1], None))
    return {name: math.exp(value) for name, value in logs.items()}


def test_tensors_with_knobs_of_their_own_are_steered_by_them():
    asked = {"fc1.weight": 0.02, "fc2.weight": 0.1, "fc3.weight": 0.4}
    found = settled(NAMES, asked)
    assert all(found[name] == pytest.approx(asked[name], rel=0.15) for name in NAMES)


def test_tensors_that_share_a_knob_are_steered_by_their_sum():
    asked = {"fc1.weight": 0.02, "fc2.weight": 0.1, "fc3.weight": 0.4}
    found = settled(("*.weight",), asked)
    sizes = {"fc1.weight": 1920, "fc2.weight": 600, "fc3.weight": 200}
    in_all = sum(asked[name] * sizes[name] for name in NAMES)
    assert sum(found[name] * sizes[name] for name in NAMES) == pytest.approx(in_all, rel=0.15)
    assert found["fc3.weight"] == pytest.approx(found["fc1.weight"])  # control: no tensor by itself


# -- going on ------------------------------------------------------------------------------------------------


class Kill(bp.Callback):
    is_resumable = True

    def on_epoch(self, state):
        if state.epoch == 5:
            raise KeyboardInterrupt


def test_it_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("bayesprune.inference.training.checkpoint.LEAST", 0.0)
    monkeypatch.setattr("bayesprune.inference.training.checkpoint.SHARE", 1.0)
    asked = bp.LayerBudget.erk(digits(bp.HALO, NAMES), 0.1)
    whole = fitted(digits(bp.HALO, NAMES), asked)
    with pytest.raises(KeyboardInterrupt):
        fitted(digits(bp.HALO, NAMES), asked, callbacks=[Kill()], checkpoint=tmp_path / "state")
    again = fitted(digits(bp.HALO, NAMES), asked, checkpoint=tmp_path / "state")
    assert again.settings["resumed_at_epoch"] > 1 and again.settings["budget"] == whole.settings["budget"]
    other = bp.LayerBudget.uniform(digits(bp.HALO, NAMES), 0.1)
    with pytest.raises(ValueError, match="holds a fit with rule budget"):
        fitted(digits(bp.HALO, NAMES), other, checkpoint=tmp_path / "state")


def begun(budget, patterns=("*.weight",)):
    run = Plant()
    model = digits(bp.HALO, patterns)
    run.objective = copy.copy(run)
    run.objective.model, run.objective.guide = model, Guide(model, "map")
    return bp.Budget(density=budget).begin(run)


EARLIER = {
    "moved": 0.7, "begun_at": 900.0, "before": 6.1, "slope": -2.0, "row": {"knob": 2.0}, "landing": {},
    "at_start": {"*.weight.kappa": 1.0}, "latest": {},
}  # fmt: skip
"""What a checkpoint of the version before held."""


def test_what_the_version_before_kept_is_gone_on_with():
    active = begun(0.05)
    active.load_state_dict(EARLIER)
    (state,) = active.state_dict()["controllers"]
    assert state.pop("quicker") == 1.0  # all knobs moved at one pace then
    assert state == {key: EARLIER[key] for key in state} and active.row() == {"budget": {"knob": 2.0}}


@pytest.mark.parametrize(
    ("budget", "patterns", "says"),
    [
        (0.05, NAMES, "its budget moves \\*.weight.kappa, not fc1.weight.kappa"),
        ({"fc1.weight": 0.1, "fc2.weight": 0.1}, NAMES, "its budget has 1 parts, not 2"),
    ],
)
def test_what_another_budget_kept_is_refused(budget, patterns, says):
    with pytest.raises(ValueError, match=says):
        begun(budget, patterns).load_state_dict(EARLIER)


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [{}, {"a": 0.0}, {"a": 1.5}, {"a": -2}, {"a": "x"}, "a.json", [0.1]])
def test_a_density_that_is_none_is_refused_when_it_is_declared(density):
    with pytest.raises(ValueError, match="."):
        bp.Budget(density=density)


def test_what_is_asked_for_stays_that():
    given = {"fc1.weight": 0.1}
    budget = bp.Budget(density=given)
    given["fc1.weight"] = 0.9
    assert budget.density == {"fc1.weight": 0.1}
    with pytest.raises(ValueError, match="no single number"):
        budget.target(100.0)


@pytest.mark.parametrize(
    ("density", "says"),
    [
        ({"fc9.weight": 0.1}, "matches no tensor that it may be of"),
        ({"fc1.weight": 10**6}, "which has 320: ask for less"),
        ({"fc1.weight": 0.1, "fc2.weight": 0.1}, "moves a knob, but Gaussian\\(\\) on fc2.weight has none: leave"),
    ],
)
def test_a_budget_that_the_model_cannot_meet_is_refused_before_training(density, says):
    torch.manual_seed(0)
    priors = {"fc1.weight": bp.HALO(), "fc2.weight": bp.Gaussian()}
    model = bp.BayesianNetwork(bp.lenet_300_100(64, hidden=(5, 4)), priors, data_size=len(X))
    with pytest.raises(ValueError, match=says):
        fitted(model, density, steps=2)
