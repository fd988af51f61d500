"""Removal from networks with depthwise convolutions where filters are zero, and the shift behind them is not.

So `SoftThreshold` and other priors on weights leave them: batch normalisation then puts out a constant.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bayesprune.models.networks.mobilenet import mobilenet_v1, mobilenet_v2
from bayesprune.models.units.compact import compact
from tests.oracles.units_reference import enliven, recalibrate, spread

EXACT = 1e-10  # of the outputs' standard deviation
SHAPE = (3, 64, 64)
NETWORKS = {"mobilenet-v1": mobilenet_v1, "mobilenet-v2": mobilenet_v2}


def lively(make, width=0.5, seed=0):
    """A network of float64 whose normalisations shift by something, and whose outputs vary."""
    torch.manual_seed(seed)
    network = make(classes=10, width=width).double()
    enliven(network, {}, torch.randn(8, *SHAPE, dtype=torch.float64), seed)
    return network


def with_zero_filters(network, share, seed, only=lambda layer: True):
    """A copy in which this share of the filters of convolutions is zero, statistics being anew; with their numbers."""
    network, generator, zeros = copy.deepcopy(network), torch.Generator().manual_seed(seed), {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d) and only(layer):
            count = len(layer.weight)
            zeros[name] = set(torch.randperm(count, generator=generator)[: round(share * count)].tolist())
            with torch.no_grad():
                layer.weight[sorted(zeros[name])] = 0.0
    recalibrate(network, torch.randn(8, *SHAPE, dtype=torch.float64, generator=generator))
    return network, zeros


def is_depthwise(layer):
    return layer.groups > 1


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("share", "only"),
    [(0.3, lambda layer: True), (0.7, is_depthwise), (0.7, lambda layer: not is_depthwise(layer))],
    ids=["all", "depthwise", "others"],
)
def test_outputs_are_equal_where_filters_are_zero(name, share, only):
    network, _ = with_zero_filters(lively(NETWORKS[name]), share, 1, only)
    result = compact(network, torch.randn(2, *SHAPE, dtype=torch.float64))
    x = 3.0 * torch.randn(6, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        before, after = network(x), result.network(x)
        sd = spread(before)
        assert sd > 0.01  # it is not constant
        assert float((after - before).abs().max()) < EXACT * sd
        one = next(layer for layer in result.network.modules() if isinstance(layer, nn.Conv2d) and is_depthwise(layer))
        one.weight[0] *= 1.1  # control: one kernel that is left matters
        assert float((result.network(x) - before).abs().max()) > 1e-6 * sd
    assert result.report.parameters_after < result.report.parameters_before


def test_just_the_units_of_mobilenet_v1_go_that_are_constant_for_every_reader():
    """By hand: a depthwise kernel of zeros leaves a constant, which the 1 x 1 convolution takes into its bias.

    A filter of zeros before it leaves one too, but the depthwise convolution pads that with zeros: unless the constant
    is itself zero, what comes out is none.
    """
    network, zeros = with_zero_filters(lively(mobilenet_v1), 0.3, 2)
    plan = compact(network, torch.randn(2, *SHAPE, dtype=torch.float64)).plan["tensors"]
    maker, norm, seen = "conv1", network.bn1, set()
    for place in range(1, 14):
        name = f"block{place}.depthwise"
        after = norm.bias - norm.running_mean * norm.weight / (norm.running_var + norm.eps).sqrt()  # of a zero filter
        gone = zeros[name] | {unit for unit in zeros[maker] if after[unit] <= 0.0}
        seen |= {("kernel", bool(zeros[name] - zeros[maker])), ("zero filter stays", bool(zeros[maker] - gone))}
        kept = [unit for unit in range(len(norm.weight)) if unit not in gone]
        assert plan[f"{maker}.weight"]["kept"]["0"] == kept, maker
        assert plan[f"{name}.weight"]["kept"]["0"] == kept, name
        maker, norm = f"block{place}.pointwise", network.get_submodule(f"block{place}.bn2")
    assert plan["fc.weight"]["kept"]["1"] == [unit for unit in range(len(norm.weight)) if unit not in zeros[maker]]
    assert seen >= {("kernel", True), ("zero filter stays", True)}
