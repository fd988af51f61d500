"""Masks as a way: exact zeros, factors that follow, and masks that are made again."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.models.masks.mask_way import Masks, counts_of, random_masks
from bayesprune.models.ways.rebuilt import is_rebuilt, rebuilt_way


def made(seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    return network, Masks(random_masks({"0.weight": (4, 5), "1.weight": (3, 4)}, {"0.weight": 7, "1.weight": 2}))


def weights_of(way, network):
    return way.weights({"0.weight": network[0].weight}, {}, network)


def agrees(way, network):
    found = weights_of(way, network)
    for name, mask in way.masks.items():
        weight = network.get_parameter(name)
        assert torch.equal(found[name], torch.where(mask, weight, torch.zeros_like(weight)))
        assert torch.equal(way.open({}, network)[name], mask.to(weight.dtype))


def test_weights_are_those_of_the_mask_and_exact_zeros():
    network, way = made()
    agrees(way, network)
    assert way.counts() == {"0.weight": 7, "1.weight": 2} == counts_of(dict(way.masks.items()))
    assert str(way) == "9 of 32 weights in 2 tensors"
    weight = network[0].weight
    (slope,) = torch.autograd.grad(weights_of(way, network)["0.weight"].sum(), weight)
    assert torch.equal(slope, way.masks["0.weight"].float())


def test_the_factors_follow_every_change_of_the_masks():
    network, way = made()
    other = made(1)[1]
    assert not torch.equal(other.masks["0.weight"], way.masks["0.weight"])
    way.put({"0.weight": other.masks["0.weight"]})
    agrees(way, network)
    copied = copy.deepcopy(way)
    copied.load_state_dict(other.state_dict())
    agrees(copied, network)
    assert torch.equal(copied.masks["1.weight"], other.masks["1.weight"])
    around = bp.BayesianNetwork(network, {"*.weight": bp.Gaussian()}, None, 10)
    around.ways.append(way)
    state = {name: value.logical_not() for name, value in around.ways.state_dict().items()}
    around.ways.load_state_dict(state)
    agrees(way, network)
    way.masks["1.weight"].logical_not_()
    with pytest.raises(AssertionError):  # control: in place, by themselves
        agrees(way, network)
    way.refresh()
    agrees(way, network)


def test_masks_are_state_in_a_byte_a_weight_and_factors_are_made_of_them():
    _, way = made()
    state = way.state_dict()
    assert {str(value.dtype) for value in state.values()} == {"torch.bool"} and len(state) == 2
    assert way.double().factors["0.weight"].dtype == torch.float64 and way.masks["0.weight"].dtype == torch.bool


def test_masks_are_made_again_of_the_names_of_their_tensors():
    network, way = made()
    assert is_rebuilt("masks") and way.config == {"tensors": ["0.weight", "1.weight"]}
    again = rebuilt_way("masks", way.config, network)
    again.load_state_dict(way.state_dict())
    agrees(again, network)
    assert again.counts() == way.counts()
    for config in ({"tensors": ["2.weight"]}, {"tensors": []}, {}, {"tensors": "0.weight"}, None, {"tensors": [["a"]]}):
        with pytest.raises(ValueError, match="masks are of tensors of another network|is not what a file can say"):
            rebuilt_way("masks", config, network)


def test_masks_of_nothing_are_refused():
    with pytest.raises(ValueError, match="takes at least one mask by name of tensor"):
        Masks({})
    with pytest.raises(ValueError, match="the mask of a leaves no weight in"):
        Masks({"a": torch.zeros(2, 2, dtype=torch.bool)})
