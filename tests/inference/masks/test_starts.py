"""Where masks start: SynFlow against its two passes, magnitudes of layers, and masks that are given."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.masks.density_schedules import CubicDensity, CyclicDensity
from bayesprune.inference.masks.dynamic_masks import DynamicMasks
from bayesprune.inference.masks.starts import START, GivenMasks, synflow_masks
from bayesprune.models.networks.standardisation import put_in_units
from tests.inference.masks.watched_training import fitted, model, network
from tests.oracles.sparse_training import synflow

NAMES = ["0.weight", "2.weight", "4.weight"]


def perceptron(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4))


def by_hand(layers, total, **how):
    parts = [(one.weight.detach().double().numpy(), one.bias.detach().double().numpy()) for one in layers[::2]]
    return synflow(parts, total, **how)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("total", [100, 40, 15])
def test_synflow_is_that_of_its_two_passes(seed, total):
    layers = perceptron(seed)
    before = copy.deepcopy(layers.state_dict())
    found = synflow_masks(layers, NAMES, total, torch.zeros(1, 6))
    wanted = by_hand(layers, total)
    assert all(np.array_equal(found[name].numpy(), mask > 0) for name, mask in zip(NAMES, wanted, strict=True))
    assert sum(int(mask.sum()) for mask in found.values()) == total
    assert all(torch.equal(value, before[name]) for name, value in layers.state_dict().items())
    once = by_hand(layers, total, once=True)  # control: in one round, which loses layers
    assert not all(np.array_equal(found[name].numpy(), mask > 0) for name, mask in zip(NAMES, once, strict=True))


def test_synflow_of_a_convolutional_network_is_exact_and_looks_at_no_data():
    torch.manual_seed(0)
    layers = bp.resnet_20(in_channels=1)
    names = [name for name, tensor in layers.named_parameters() if tensor.ndim >= 2]
    found = synflow_masks(layers.train(), names, 500, torch.zeros(1, 1, 8, 8), rounds=5)
    other = synflow_masks(layers.eval(), names, 500, torch.randn(1, 1, 8, 8), rounds=5)
    assert sum(int(mask.sum()) for mask in found.values()) == 500 and all(bool(mask.any()) for mask in found.values())
    assert all(torch.equal(found[name], other[name]) for name in names)


def test_a_network_that_standardises_its_inputs_has_the_flow_of_one_that_does_not():
    layers = perceptron(1)
    found = synflow_masks(layers, NAMES, 40, torch.zeros(1, 6))
    put_in_units(layers, {"data_input_mean": torch.full((6,), 30.0), "data_input_sd": torch.full((6,), 0.1)})
    again = synflow_masks(layers, NAMES, 40, torch.zeros(1, 6))
    assert all(torch.equal(found[name], again[name]) for name in NAMES)


def test_a_flow_that_is_no_number_is_refused():
    layers = perceptron(0)
    with torch.no_grad():
        layers[0].bias[0] = float("inf")
    with pytest.raises(ValueError, match="the synaptic flow of the network is (inf|nan): start='random'"):
        synflow_masks(layers, NAMES, 40, torch.zeros(1, 6))


def places(fit):
    way = fit.model.ways[0]
    return {name: mask.clone() for name, mask in way.masks.items()}


def test_a_fit_that_starts_from_synflow_and_stays_has_its_masks():
    fit = fitted(DynamicMasks(40, start="synflow", share=0.0, grow=None), steps=20)
    wanted = synflow_masks(network(), NAMES, 40, torch.zeros(1, 7))
    assert all(torch.equal(places(fit)[name], wanted[name]) for name in NAMES)
    assert fit.settings["masks"][0]["reached_count"] == 40


def test_a_start_that_has_no_use_for_the_layout_says_it_for_the_exchange():
    fit = fitted(DynamicMasks(40, start="synflow", every=2), steps=40)
    wanted = synflow_masks(network(), NAMES, 40, torch.zeros(1, 7))
    assert fit.settings["masks"][0]["layers"] == {name: int(mask.sum()) for name, mask in wanted.items()}
    assert fit.settings["masks"][0]["exchanged"] > 20
    assert not all(torch.equal(places(fit)[name], wanted[name]) for name in NAMES)


def test_magnitudes_are_those_of_each_layer():
    fit = fitted(DynamicMasks(0.3, start="magnitude", share=0.0, grow=None), steps=8)
    for name, mask in places(fit).items():
        weight = network().get_parameter(name).detach().abs()
        assert float(weight[mask].min()) > float(weight[~mask].max())


def given(density=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(network().get_parameter(name).shape, generator=generator) < density for name in NAMES[:2]}


def test_given_masks_are_where_it_starts_and_their_counts_stay():
    masks = given()
    fit = fitted(DynamicMasks(start=masks, share=0.0, grow=None), steps=8)
    assert all(torch.equal(places(fit)[name], mask) for name, mask in masks.items()) and len(places(fit)) == 2
    moved = fitted(DynamicMasks(start={n: m.numpy() for n, m in masks.items()}, every=2), steps=40)
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    assert moved.settings["masks"][0]["layers"] == counts and moved.settings["masks"][0]["exchanged"] > 10
    cycled = fitted(DynamicMasks(start=masks, every=2, schedule=CyclicDensity(1)), steps=40)
    assert cycled.settings["masks"][0]["layers"] == counts


def test_masks_that_are_given_are_known_again_by_their_digest():
    one, other = DynamicMasks(start=given()), DynamicMasks(start=given(seed=1))
    assert one == DynamicMasks(start=given()) and one != other and repr(one) != repr(other)
    assert isinstance(one.start, GivenMasks) and len(repr(one)) < 600


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (lambda: {"start": "snip"}, "takes one of random, magnitude, synflow, or masks by name of tensor, not 'snip'"),
        (lambda: {"start": None}, "takes one of random"),
        (lambda: {"start": {}}, "takes at least one mask by name of tensor"),
        (lambda: {"start": {"0.weight": torch.ones(14, 7)}}, "mask of 0.weight is a boolean tensor"),
        (lambda: {"start": {"0.weight": [[True]]}}, "mask of 0.weight is a boolean tensor"),
        (lambda: {"start": {"0.weight": torch.zeros(14, 7, dtype=torch.bool)}}, "leaves no weight in"),
        (lambda: {"start": given(), "density": 0.1}, "given masks say themselves how many weights are in"),
        (lambda: {"start": given(), "layout": "uniform"}, "given masks say themselves how many weights are in"),
    ],
)
def test_starts_that_make_no_sense_are_refused_in_a_sentence(rule, said):
    with pytest.raises(ValueError, match=said) as told:
        DynamicMasks(**rule())
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            lambda: {"start": {"9.weight": torch.ones(2, 2, dtype=torch.bool)}},
            "'9.weight', which is no weight with a prior",
        ),
        (
            lambda: {"start": {"0.weight": torch.ones(7, 14, dtype=torch.bool)}},
            r"shape \(7, 14\), but the weights \(14, 7\)",
        ),
        (lambda: {"start": {"0.bias": torch.ones(14, dtype=torch.bool)}}, "'0.bias', which is no weight with a prior"),
        (
            lambda: {"density": 0.1, "start": "synflow", "schedule": CubicDensity()},
            "start='synflow'.* begins with more",
        ),
        (lambda: {"start": given(), "schedule": CubicDensity()}, r"start=masks\) says .* begins with more"),
    ],
)
def test_starts_of_another_network_are_refused_before_training(rule, said):
    with pytest.raises(ValueError, match=said) as told:
        fitted(DynamicMasks(**rule()), given=model(), steps=8)
    assert "\n" not in str(told.value)


def test_every_start_makes_exact_masks():
    assert list(START)[:3] == ["random", "magnitude", "synflow"]
    for name in list(START)[:2]:
        fit = fitted(DynamicMasks(55, start=name, share=0.0, grow=None), steps=4)
        assert fit.settings["masks"][0]["reached_count"] == 55
