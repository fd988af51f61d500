"""Counts by layer: exactly as many as were asked for, on the networks of the paper, by a solver of its own."""

from __future__ import annotations

import functools
import math

import pytest
import torch

import bayesprune as bp
from bayesprune.inference.masks.layouts import counts_without_growth, layout_of, layout_of_masks, scaled_counts
from bayesprune.models.costs.layer_budgets import LayerBudget
from bayesprune.models.masks.mask_way import random_masks
from tests.oracles.erk_reference import erk_densities

DENSITIES = (0.1, 0.01, 0.001, 0.0005, 0.0001)
TOTALS = {"resnet_18": 11_164_352, "resnet_34": 21_265_088, "resnet_50": 23_467_712}
"""Convolutions and classifier with ten outputs and a stem for small images; the last two are the paper's."""


@functools.cache
def model_of(name):
    """A model whose tensors have shapes and no numbers; convolutions and the classifier have priors."""
    with torch.device("meta"):
        network = getattr(bp, name)(classes=10)
        if name != "resnet_18":  # those are for large images
            network.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    names = [name for name, tensor in network.named_parameters() if tensor.ndim >= 2]
    return bp.BayesianNetwork(network, dict.fromkeys(names, bp.Gaussian(0.1)), None, 100)


@pytest.mark.parametrize("rule", ["erk", "uniform"])
@pytest.mark.parametrize("name", TOTALS)
def test_counts_are_exactly_the_target_on_the_networks_of_the_paper(name, rule):
    model = model_of(name)
    for density in DENSITIES:
        layout = layout_of(model, density, rule)
        assert sum(layout.sizes.values()) == TOTALS[name]
        assert layout.total == round(density * TOTALS[name]) == sum(layout.counts.values())
        assert all(1 <= count <= layout.sizes[tensor] for tensor, count in layout.counts.items())
        for tripled in (3.0 * layout.density, layout.density):
            counts = layout.at(tripled)
            assert sum(counts.values()) == round(tripled * TOTALS[name])
        assert layout.at(layout.density) == layout.counts


@pytest.mark.parametrize("name", TOTALS)
def test_they_are_those_of_erdos_renyi_to_a_weight(name):
    model = model_of(name)
    for density in (0.3, *DENSITIES):
        layout = layout_of(model, density, "erk")
        wanted = erk_densities(layout.shapes, layout.total, 120)
        for tensor, count in layout.counts.items():
            assert abs(count - wanted[tensor] * layout.sizes[tensor]) < 1.0 + 1e-6
        uniform = layout_of(model, density, "uniform").counts
        assert any(abs(uniform[one] - layout.counts[one]) > 2 for one in uniform)  # control


def test_masks_have_the_counts_of_the_layout():
    layout = layout_of(model_of("resnet_18"), 0.0001, "erk")
    masks = random_masks(layout.shapes, layout.counts)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == layout.counts
    assert sum(layout.counts.values()) == 1116


def test_a_budget_by_layer_is_met_and_followed_in_proportion():
    model = bp.BayesianNetwork(bp.lenet_300_100(), {"*.weight": bp.Gaussian()}, None, 100)
    budget = LayerBudget.from_densities({"fc1.weight": 0.01, "fc2.weight": 0.1, "fc3.weight": 1.0})
    layout = layout_of(model, None, budget)
    assert layout.counts == {"fc1.weight": 2352, "fc2.weight": 3000, "fc3.weight": 1000}
    more = layout.at(3.0 * layout.density)
    assert sum(more.values()) == 3 * 6352 and more["fc3.weight"] == 1000
    assert abs(more["fc1.weight"] / more["fc2.weight"] - 2352 / 3000) < 1e-3


def test_what_is_full_leaves_the_rest_to_the_others():
    sizes = {"a": 10, "b": 100, "c": 1000}
    for total in range(3, 1111, 37):
        found = scaled_counts({"a": 8, "b": 50, "c": 20}, sizes, total)
        assert sum(found.values()) == total and all(1 <= found[name] <= sizes[name] for name in sizes)
    assert scaled_counts({"a": 8, "b": 50, "c": 20}, sizes, 195) == {"a": 10, "b": 100, "c": 85}


def test_counts_that_may_not_grow_have_the_same_sum_below_what_there_is():
    now = {"a": 5, "b": 40, "c": 100}
    found = counts_without_growth({"a": 7, "b": 30, "c": 50}, now)
    assert sum(found.values()) == 87 and all(found[name] <= now[name] for name in now) and found["a"] == 5
    assert counts_without_growth({"a": 4, "b": 30, "c": 50}, now) == {"a": 4, "b": 30, "c": 50}
    assert counts_without_growth({"a": 50, "b": 50, "c": 50}, now) == now
    far = counts_without_growth({"a": 10**6, "b": 1, "c": 1}, {"a": 10, "b": 10**6, "c": 10**6})
    assert sum(far.values()) == 10**6 + 2 and far["a"] == 10


def test_given_masks_are_a_layout():
    model = bp.BayesianNetwork(bp.lenet_300_100(), {"*.weight": bp.Gaussian()}, None, 100)
    masks = {"fc2.weight": torch.zeros(100, 300, dtype=torch.bool)}
    masks["fc2.weight"][0, :7] = True
    layout = layout_of_masks(model, masks)
    assert layout.counts == {"fc2.weight": 7} and layout.density == 7 / 30_000
    assert math.isclose(layout.at(0.01)["fc2.weight"], 300)
