"""Sparse training by magnitude and gradient is the zero-temperature case of spike and slab whose density cycles."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.masks import bayesian_scores
from bayesprune.inference.masks.density_schedules import CubicDensity, CyclicDensity
from bayesprune.inference.masks.dynamic_masks import DynamicMasks
from bayesprune.inference.masks.knob_schedule import KnobSchedule
from bayesprune.inference.watching.callbacks import Callback
from bayesprune.models.priors.continuous_spike_and_slab import ScheduledSpikeAndSlab

RANDOM = torch.Generator().manual_seed(4)
X = torch.randn(256, 12, generator=RANDOM)
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long()
EAST = {"drop": "magnitude", "grow": "gradient"}
BAYES = {"drop": "inclusion", "grow": "bayes-factor-flat"}
SPIKES = {"0.weight": 0.01, "2.weight": 0.03, "4.weight": 0.002}


class EveryMask(Callback):
    """The masks and weights after every step."""

    def __init__(self):
        self.masks, self.weights = [], []

    def on_step(self, state):
        model, guide = state.objective.model, state.objective.guide
        self.masks.append({name: mask.clone() for name, mask in model.ways[0].masks.items()})
        self.weights.append({name: value.clone() for name, value in guide.means().items()})


@functools.cache
def course(execution="plain", across="layer", spikes=None, **rule):
    """Masks and weights of a whole fit: two cycles, then exchange at a constant density."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 2))
    priors = {
        name: ScheduledSpikeAndSlab(0.1, slab_sd=0.4, spike_sd=dict(spikes)[name] if spikes else 0.01)
        for name in SPIKES
    }
    bnn = bp.BayesianNetwork(network, priors, data_size=len(X))
    schedule = CyclicDensity() if across == "layer" else CubicDensity()  # over the network there is no growth
    masks = DynamicMasks(density=0.1, schedule=schedule, every=5, within=4, across=across, **rule)
    seen = EveryMask()
    rules = [masks, KnobSchedule("density", schedule)]
    how = {"steps": 240, "batch_size": 32, "device": "cpu", "execution": execution, "seed": 2}
    fit = bp.fit(bnn, (X, Y), "map", rules=rules, callbacks=[seen], **how)
    return seen, fit


def are_same(one, other):
    return len(one) == len(other) == 240 and all(
        a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("execution", ["plain", "fused"])
def test_at_zero_temperature_and_one_curvature_a_tensor_it_is_east_bit_for_bit(execution):
    east, fit = course(execution, **EAST)
    bayes, other = course(execution, **BAYES)
    assert are_same(east.masks, bayes.masks) and are_same(east.weights, bayes.weights)
    assert fit.settings["masks"] == other.settings["masks"] and fit.settings["masks"][0]["exchanged"] > 100
    counts = [sum(int(mask.sum()) for mask in masks.values()) for masks in east.masks]
    assert max(counts) > 2.5 * counts[-1] == 2.5 * round(0.1 * (480 + 1200 + 60))  # it did cycle


def test_it_stays_so_with_other_spikes_a_tensor_as_long_as_each_tensor_keeps_its_own_count():
    spikes = tuple(SPIKES.items())
    east, _ = course(spikes=spikes, **EAST)
    bayes, _ = course(spikes=spikes, **BAYES)
    assert are_same(east.masks, bayes.masks) and are_same(east.weights, bayes.weights)


def test_across_the_network_it_is_east_where_all_spikes_are_alike():
    east, _ = course(across="network", **EAST)
    bayes, _ = course(across="network", **BAYES)
    assert are_same(east.masks, bayes.masks) and are_same(east.weights, bayes.weights)


def test_across_the_network_spikes_of_their_own_rank_otherwise():
    """Control: thresholds differ between tensors, so that log odds are in another order than magnitudes."""
    spikes = tuple(SPIKES.items())
    east, _ = course(across="network", spikes=spikes, **EAST)
    bayes, _ = course(across="network", spikes=spikes, **BAYES)
    assert not are_same(east.masks, bayes.masks)


def test_above_zero_temperature_it_is_not():
    east, _ = course(**EAST)
    warm, _ = course(**BAYES, temperature=0.1)
    assert not are_same(east.masks, warm.masks)


def test_with_a_curvature_a_weight_it_is_not():
    east, _ = course(**EAST)
    bayes, _ = course(drop="inclusion", grow="bayes-factor")
    assert not are_same(east.masks, bayes.masks)


def test_with_the_gradient_s_sign_in_place_of_its_square_it_is_not(monkeypatch):
    east, _ = course(**EAST)
    exact = bayesian_scores.log_bayes_factor
    monkeypatch.setattr(bayesian_scores, "log_bayes_factor", lambda g, h, sd: g.sign() * exact(g, h, sd))
    course.cache_clear()
    try:
        assert not are_same(east.masks, course(**BAYES)[0].masks)
    finally:
        course.cache_clear()


def test_it_costs_as_many_weights_whatever_the_scores():
    counts = [course(**rule)[1].settings["masks"][0]["layers"] for rule in (EAST, BAYES)]
    assert counts[0] == counts[1] and sum(counts[0].values()) == 174
