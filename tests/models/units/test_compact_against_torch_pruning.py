"""The same units removed by Torch-Pruning leave a network of the same size that gives the same outputs."""

from __future__ import annotations

import copy

import pytest
import torch

from bayesprune.models.units.compact import compact
from tests.oracles.known_networks import prepared
from tests.oracles.units_reference import spread

tp = pytest.importorskip("torch_pruning")

EXACT = 1e-10  # of the outputs' standard deviation
VISIBLE = 1e-3


def removed_by_torch_pruning(network, groups, chosen, x):
    """Indices are those of each group's first layer, which no other group cuts: they stay those of the original."""
    network = copy.deepcopy(network)
    graph = tp.DependencyGraph().build_dependency(network, example_inputs=x)
    for group, units in zip(groups, chosen, strict=True):
        layer = network.get_submodule(group.makers[0])
        prune = graph.get_pruner_of_module(layer).prune_out_channels
        found = graph.get_pruning_group(layer, prune, idxs=list(units))
        assert graph.check_pruning_group(found)
        found.prune()
    return network.eval()


def check(name, fraction, seed):
    case = prepared(name, fraction, seed)
    x = case.inputs(16)
    ours = compact(case.network, x[:2]).network
    theirs = removed_by_torch_pruning(case.network, case.groups, case.chosen, x[:2])
    first_live = next(unit for unit in range(case.groups[0].count) if unit not in case.chosen[0])
    others = [[first_live, *case.chosen[0][1:]], *case.chosen[1:]]
    wrong = removed_by_torch_pruning(case.network, case.groups, others, x[:2])
    with torch.no_grad():
        expected, found, control = theirs(x), ours(x), wrong(x)
    sd = spread(expected)
    assert sd > 0.1
    assert float((found - expected).abs().max()) < EXACT * sd
    assert float((control - expected).abs().max()) > VISIBLE * sd
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == shapes
    assert sum(p.numel() for p in ours.parameters()) < sum(p.numel() for p in case.network.parameters())


def test_resnet18_is_what_torch_pruning_makes_of_it():
    check("resnet18", 0.5, 0)


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.5, 0.8])
@pytest.mark.parametrize("name", ["vgg16_bn", "resnet18", "mobilenet_v2", "densenet121", "googlenet"])
def test_a_network_is_what_torch_pruning_makes_of_it(name, fraction):
    check(name, fraction, 1)
