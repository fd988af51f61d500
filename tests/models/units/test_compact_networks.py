"""Compaction of known networks equals masking by hooks, and takes out exactly the units that were masked."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import fx, nn

from bayesprune.models.units.channel_groups import ChannelGroups
from bayesprune.models.units.compact import compact
from tests.oracles.known_networks import NETWORKS, prepared
from tests.oracles.units_reference import gated, outputs_without, recalibrate, spread

EXACT = 1e-10  # of the outputs' standard deviation
VISIBLE = 1e-3
VARIED = 0.1  # the outputs are of size one

QUICK = [
    ("lenet_300_100", 0.5, 0),
    ("lenet_300_100", 0.95, 1),
    ("lenet_5", 0.5, 0),
    ("lenet_5", 0.95, 1),
    ("resnet18", 0.8, 0),
    ("resnet_20", 0.5, 2),
    ("mobilenet_v1", 0.8, 0),
    ("mobilenet_v2", 0.8, 1),
    ("squeezenet1_1", 0.5, 2),
]
ALL = [(name, fraction, seed) for name in NETWORKS for fraction in (0.5, 0.8, 0.95) for seed in (0, 1, 2)]


def measure(name, fraction, seed):
    """The network, its compact form, and the error of that and of a negative control in sd of the outputs."""
    case = prepared(name, fraction, seed)
    x = case.inputs(16)
    reference = outputs_without(case.dense, case.dead, x)
    result = compact(case.network, x[:2])
    with torch.no_grad():
        found = result.network(x)
    sd = spread(reference)
    first_live = next(unit for unit in range(case.groups[0].count) if unit not in case.chosen[0])
    one_more = gated(case.groups, [[*case.chosen[0], first_live], *case.chosen[1:]])
    control = outputs_without(case.dense, one_more, x)
    error, visible = (float((other - reference).abs().max()) / sd for other in (found, control))
    return case, result, sd, error, visible


def check(name, fraction, seed):
    case, result, sd, error, visible = measure(name, fraction, seed)
    assert sd > VARIED
    assert error < EXACT
    assert visible > VISIBLE
    assert result.report.output_sd > VARIED / 2
    assert result.report.max_output_difference < EXACT * result.report.output_sd
    for group, units in zip(case.groups, case.chosen, strict=True):
        kept = [unit for unit in range(group.count) if unit not in units]
        for maker in group.makers:
            assert len(result.network.get_submodule(maker).weight) == len(kept), maker
            assert result.plan["tensors"][f"{maker}.weight"]["kept"]["0"] == kept, maker


@pytest.mark.parametrize(("name", "fraction", "seed"), QUICK)
def test_a_compact_network_equals_the_masked_one_and_has_just_the_live_units(name, fraction, seed):
    check(name, fraction, seed)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fraction", "seed"), [case for case in ALL if case not in QUICK])
def test_a_compact_network_equals_the_masked_one_and_has_just_the_live_units_everywhere(name, fraction, seed):
    check(name, fraction, seed)


ZOO = {
    "shufflenet_v2_x0_5": ({}, "refuse", True),
    "mnasnet0_5": ({}, "refuse", False),
    "efficientnet_b0": ({}, "refuse", False),
    "mobilenet_v3_small": ({}, "refuse", False),
    "resnext50_32x4d": ({}, "refuse", False),
    "regnet_y_400mf": ({}, "refuse", False),
    "convnext_tiny": ({}, "refuse", False),
    "alexnet": ({}, "refuse", False),
    "inception_v3": ({"init_weights": False, "aux_logits": True}, "refuse", False),
    "googlenet": ({"init_weights": False, "aux_logits": True}, "refuse", False),
    "vit_b_32": ({"image_size": 64}, "keep", False),
}
"""Options, what to do with the unknown, whether numbers of channels are written in the code."""


def test_the_zoo_is_there():
    assert all(hasattr(torchvision.models, name) for name in ZOO)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* units are dead")
@pytest.mark.parametrize("name", list(ZOO))
def test_networks_with_other_layers_are_exact_and_lose_their_dead_units(name):
    options, unknown, written = ZOO[name]
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(num_classes=10, **options).double()
    x = torch.randn(8, 3, *(96, 96) if name == "inception_v3" else (64, 64), dtype=torch.float64)
    normalised = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    with torch.no_grad():
        for layer in normalised:
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.uniform_(-0.5, 0.5)
        for parameter_name, parameter in network.named_parameters():
            if parameter_name.endswith("layer_scale"):  # else blocks add next to nothing
                parameter.fill_(0.5)
            if parameter_name.startswith("heads"):  # starts at zero
                parameter.normal_(0.0, 0.05)
    groups = ChannelGroups(network, x[:2], unknown)
    chosen = {}
    for set_name, units in groups.sets.items():
        free = units.removable.nonzero().flatten()
        if len(free) > 1:
            chosen[set_name] = free[torch.randperm(len(free))[: len(free) // 2]].sort().values.tolist()
    groups.zero(network, chosen)
    recalibrate(network, x)
    result = compact(network, x[:2], unknown=unknown)
    with torch.no_grad():
        expected, found = network(x), result.network(x)
    sd = spread(expected)
    assert sd > 1e-3 * float(expected.abs().max()) > 0
    assert float((expected - found).abs().max()) < EXACT * sd
    assert isinstance(result.network, fx.GraphModule) == written
    for set_name, units in chosen.items():
        last = "one is kept" in result.report.kept.get(set_name, "")
        assert len(set(units) & set(result.plan["units"][set_name]["kept"])) <= last, set_name
    assert result.report.parameters_after < 0.7 * result.report.parameters_before
    assert bool(result.report.idle) == options.get("aux_logits", False)
    with torch.no_grad():  # the negative control: one more unit of the first set
        first = next(iter(chosen))
        live = next(unit for unit in result.plan["units"][first]["kept"] if groups.sets[first].removable[unit])
        groups.zero(network, {first: [live]})
        assert float((network(x) - expected).abs().max()) > VISIBLE * sd
