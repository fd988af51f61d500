"""The inclusion prior that follows a density: thresholds, what they imply, and the knob along its schedule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.masks.bayesian_scores import implied_densities
from bayesprune.inference.masks.density_schedules import ConstantDensity, CubicDensity, CyclicDensity, DensitySchedule
from bayesprune.inference.masks.dynamic_masks import DynamicMasks
from bayesprune.inference.masks.knob_schedule import KnobSchedule
from bayesprune.inference.training import checkpoint as checkpoints
from bayesprune.inference.watching.callbacks import Callback
from bayesprune.models.distributions.inclusion_threshold import implied_density, inclusion_threshold
from bayesprune.models.priors.continuous_spike_and_slab import MOST, ScheduledSpikeAndSlab
from tests.oracles.tempered_inclusion import crossing, inclusion

WIDTHS = [(0.3, 0.01, 0.2), (0.05, 0.005, 0.2), (1e-5, 2e-5**0.5, 0.2), (1e-7, 6e-5**0.5, 0.2), (0.6, 0.1, 1.0)]
"""Density, spike and slab; the third and fourth are those of Sun, Song & Liang 2021."""
RANDOM = torch.Generator().manual_seed(2)
X = torch.randn(48, 6, generator=RANDOM)
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long()
STEPS = 40


def model(prior=None):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 2))
    return bp.BayesianNetwork(network, {"*.weight": prior or ScheduledSpikeAndSlab(0.2)}, data_size=len(X))


def fitted(rules, prior=None, guide="map", **more):
    how = {"steps": STEPS, "batch_size": 12, "device": "cpu", "precision": "float64", "execution": "plain"}
    return bp.fit(model(prior), (X, Y), guide, rules=rules, **{**how, **more})


class Knobs(Callback):
    """Where the knob stands in each step, while it is taken."""

    is_resumable = True

    def __init__(self, interrupt_at=None):
        self.seen, self.interrupt_at = [], interrupt_at

    def on_step(self, state):
        self.seen.append(state.objective.model.knobs["density"].value)
        if state.step == self.interrupt_at:
            raise KeyboardInterrupt


# -- thresholds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("density", "spike", "slab"), WIDTHS)
def test_at_the_threshold_the_inclusion_probability_is_one_half(density, spike, slab):
    tau = float(inclusion_threshold(density, spike, slab))
    assert inclusion(tau, density, spike, slab) == pytest.approx(0.5, abs=1e-9)
    assert tau == pytest.approx(crossing(density, spike, slab), rel=1e-9)
    assert inclusion(1.01 * tau, density, spike, slab) > 0.501  # control
    assert inclusion(tau, density, spike, 2.0 * slab) < 0.499


@pytest.mark.parametrize(("density", "spike", "slab"), WIDTHS)
def test_a_threshold_implies_the_density_that_it_is_of(density, spike, slab):
    tau = inclusion_threshold(density, spike, slab)
    assert float(implied_density(tau, spike, slab)) == pytest.approx(density, rel=1e-9)
    assert float(implied_density(1.01 * tau, spike, slab)) < 0.99 * density  # control: sparser


def test_published_thresholds():
    """What Sun, Song & Liang's settings come to: .0248, .0483, .0372 and .0148."""
    settings = {(2e-5, 1e-5): 0.0248, (6e-5, 1e-7): 0.0483, (4e-5, 1e-6): 0.0372, (6e-6, 1e-6): 0.0148}
    for (variance, density), tau in settings.items():
        assert float(inclusion_threshold(density, variance**0.5, 0.2)) == pytest.approx(tau, abs=6e-5)


def test_where_all_weights_are_rather_of_the_slab_the_threshold_is_zero():
    assert float(inclusion_threshold(0.95, 0.1, 1.0)) == 0.0 < float(inclusion_threshold(0.9, 0.1, 1.0))
    assert float(implied_density(0.0, 0.1, 1.0)) == pytest.approx(1.0 / 1.1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: inclusion_threshold(0.1, 0.2, 0.1), "expected 0 < spike_sd < slab_sd, not 0.2 and 0.1"),
        (lambda: inclusion_threshold(0.0, 0.1, 0.2), "strictly between 0 and 1, not 0"),
        (lambda: implied_density(-1.0, 0.1, 0.2), "thresholds of at least zero, not -1"),
        (lambda: implied_density(float("nan"), 0.1, 0.2), "thresholds of at least zero, not nan"),
    ],
)
def test_thresholds_refuse(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# -- the knob ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("annealing", [0.0, 0.8])
def test_the_prior_is_the_mixture_at_the_density_of_its_knob(annealing):
    bnn = model(ScheduledSpikeAndSlab(0.2, slab_sd=0.5, spike_sd=0.02, annealing=annealing)).double()
    weight = torch.linspace(-1.0, 1.0, 72, dtype=torch.float64).view(12, 6)
    for density in (0.2, 0.6):
        bnn.knobs["density"].set(density)
        odds = bnn.priors["0.weight"].membership_log_odds({"weight": weight})
        expected = inclusion(weight.numpy(), density, 0.02, 0.5)
        np.testing.assert_allclose(odds.sigmoid().numpy(), expected, rtol=1e-9)
        assert not np.allclose(odds.sigmoid().numpy(), inclusion(weight.numpy(), 0.4, 0.02, 0.5), rtol=1e-3)


@pytest.mark.parametrize("execution", ["plain", "fused"])
@pytest.mark.parametrize("schedule", [CyclicDensity(), CubicDensity(ends=0.7), ConstantDensity()])
def test_the_knob_follows_the_schedule_and_ends_where_it_was_declared(schedule, execution):
    knobs = Knobs()
    fit = fitted([KnobSchedule("density", schedule)], callbacks=[knobs], execution=execution)
    expected = [min(schedule.at(step / STEPS, 0.2), MOST) for step in range(STEPS)]
    assert knobs.seen == pytest.approx(expected, rel=1e-12)
    assert fit.model.knobs["density"].value == 0.2
    assert fit.settings["knob_schedule"] == [{"knobs": {"*.weight.density": 0.2}}]


def test_both_executions_follow_it_to_the_same_weights():
    plain, fused = (fitted([KnobSchedule()], execution=one).guide.means() for one in ("plain", "fused"))
    still = fitted([]).guide.means()
    for name, weight in plain.items():
        torch.testing.assert_close(fused[name], weight, rtol=1e-9, atol=1e-12)
        assert not torch.allclose(still[name], weight, rtol=1e-3)  # control


@pytest.mark.parametrize("at", [9, 23])
def test_a_fit_that_was_killed_in_a_cycle_ends_as_one_that_was_not(at, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARE", 1.0)
    monkeypatch.setattr(checkpoints, "LEAST", 0.0)
    rules = [
        DynamicMasks(density=0.2, schedule=CyclicDensity(ends=0.8), within=3, until=1.0),
        KnobSchedule("density", CyclicDensity(ends=0.8)),
    ]
    whole = fitted(rules)
    with pytest.raises(KeyboardInterrupt):
        fitted(rules, callbacks=[Knobs(at)], checkpoint=tmp_path / "fit")
    resumed = fitted(rules, checkpoint=tmp_path / "fit")
    assert resumed.settings["resumed_at_epoch"] == at // 4 + 1
    assert all(torch.equal(one, resumed.guide.means()[name]) for name, one in whole.guide.means().items())
    assert not all(torch.equal(one, fitted(rules, seed=1).guide.means()[n]) for n, one in whole.guide.means().items())


def test_each_prior_s_knob_moves_from_its_own_value_and_one_alone_leaves_the_others():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 2))
    priors = {"0.weight": ScheduledSpikeAndSlab(0.1), "2.weight": ScheduledSpikeAndSlab(0.3)}
    bnn = bp.BayesianNetwork(network, priors, data_size=len(X))
    how = {"steps": 8, "batch_size": 12, "device": "cpu", "execution": "plain"}

    class Middle(Callback):
        def on_step(self, state):
            if state.step == 5:  # half of the fit was done before it: the middle of the only cycle
                seen.update(state.objective.model.knobs["density"].values)

    seen: dict[str, float] = {}
    bp.fit(bnn, (X, Y), "map", rules=[KnobSchedule("density", CyclicDensity(1, ends=1.0))], callbacks=[Middle()], **how)
    assert seen == pytest.approx({"0.weight": 0.3, "2.weight": 0.9}, rel=1e-6)
    alone = KnobSchedule("0.weight.density", CyclicDensity(1, ends=1.0))
    bp.fit(bnn, (X, Y), "map", rules=[alone], callbacks=[Middle()], **how)
    assert seen == pytest.approx({"0.weight": 0.3, "2.weight": 0.3}, rel=1e-6)


@dataclass(frozen=True)
class Doubling(DensitySchedule):
    """Twice the value in the first half."""

    def at(self, share, final):
        return 2.0 * final if share < 0.5 else final


def test_a_schedule_of_one_s_own_moves_any_knob():
    class Strength(Callback):
        def on_step(self, state):
            seen.append(state.objective.model.knobs["strength"].value)

    seen: list[float] = []
    fitted([KnobSchedule("strength", Doubling())], bp.Laplace(), callbacks=[Strength()])
    assert seen == [2.0] * 20 + [1.0] * 20


@pytest.mark.parametrize(
    ("rule", "prior", "said"),
    [
        (lambda: KnobSchedule("kappa"), None, r"KnobSchedule\('kappa'\) names no knob .*: theirs are density"),
        (lambda: KnobSchedule(), bp.Gaussian(), "theirs are none"),
        (lambda: KnobSchedule("density", 0.3), None, r"takes CubicDensity\(\) or CyclicDensity\(\), not 0.3"),
        (lambda: KnobSchedule("rate"), bp.Hierarchy(
            weight=lambda rate: torch.distributions.Normal(0.0, rate), knobs={"rate": 5.0}, default_guide="map"
        ), "at most 1, but .*weight.rate is declared as 5"),
    ],
)  # fmt: skip
def test_schedules_of_knobs_refuse(rule, prior, said):
    with pytest.raises(ValueError, match=said) as told:
        fitted([rule()], prior)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("arguments", [{"expected_density": 1.0}, {"slab_sd": 0.0}, {"annealing": 2.0}])
def test_the_prior_refuses_by_its_own_name(arguments):
    with pytest.raises(ValueError, match="ScheduledSpikeAndSlab.*" + next(iter(arguments))):
        ScheduledSpikeAndSlab(**arguments)


# -- what masks imply ----------------------------------------------------------------------------------------


def test_masks_imply_the_density_whose_threshold_is_their_smallest_weight():
    prior = ScheduledSpikeAndSlab(0.2, slab_sd=0.5, spike_sd=0.1, annealing=0.0)
    fit = fitted([DynamicMasks(density=0.3)], prior)
    found = implied_densities(fit.guide)
    assert list(found) == ["0.weight", "2.weight"]
    for name, density in found.items():
        alive = fit.guide.model.weights_at(fit.guide.means())[name]
        alive = alive[alive != 0].abs().numpy()
        probabilities = inclusion(alive, density, 0.1, 0.5)
        assert probabilities.min() == pytest.approx(0.5, abs=1e-6)
        assert (probabilities >= 0.5 - 1e-6).all() and probabilities.max() > 0.6


def test_of_other_priors_masks_imply_nothing():
    with pytest.raises(ValueError, match="no tensor has both a mask and a mixture"):
        implied_densities(fitted([DynamicMasks(density=0.3)], bp.Gaussian()).guide)
