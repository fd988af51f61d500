"""Compaction of known networks equals masking by hooks, and takes out exactly the units that were masked."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from bayesprune.models.compact import compact
from bayesprune.models.networks import lenet_5, lenet_300_100
from tests.oracles.units_reference import (
    GROUPS,
    enliven,
    gated,
    outputs_without,
    random_dead,
    spread,
    zero_parameters,
)

EXACT = 1e-10  # of the outputs' standard deviation
VISIBLE = 1e-3
VARIED = 0.1  # the outputs are of size one

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet_300_100": (lenet_300_100, (1, 28, 28)),
    "lenet_5": (lenet_5, (1, 28, 28)),
    "vgg16_bn": (lambda: torchvision.models.vgg16_bn(num_classes=10), (3, 32, 32)),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), (3, 64, 64)),
    "resnet50": (lambda: torchvision.models.resnet50(num_classes=10), (3, 64, 64)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=10), (3, 64, 64)),
    "densenet121": (lambda: torchvision.models.densenet121(num_classes=10), (3, 64, 64)),
    "googlenet": (
        lambda: torchvision.models.googlenet(num_classes=10, aux_logits=False, init_weights=False),
        (3, 64, 64),
    ),
    "squeezenet1_1": (lambda: torchvision.models.squeezenet1_1(num_classes=10), (3, 64, 64)),
}
QUICK = [
    ("lenet_300_100", 0.5, 0),
    ("lenet_300_100", 0.95, 1),
    ("lenet_5", 0.5, 0),
    ("lenet_5", 0.95, 1),
    ("resnet18", 0.8, 0),
    ("mobilenet_v2", 0.8, 1),
    ("squeezenet1_1", 0.5, 2),
    ("densenet121", 0.95, 0),
]
ALL = [(name, fraction, seed) for name in NETWORKS for fraction in (0.5, 0.8, 0.95) for seed in (0, 1, 2)]


def measure(name, fraction, seed):
    """The dead units by group, the compact network, and its error and that of a negative control in sd of outputs."""
    build, shape = NETWORKS[name]
    torch.manual_seed(seed)
    dense = build().double()
    groups = GROUPS[name](dense)
    chosen = random_dead(groups, fraction, seed)
    dead = gated(groups, chosen)
    enliven(dense, dead, torch.randn(8, *shape, dtype=torch.float64), seed)
    network = copy.deepcopy(dense)
    zero_parameters(network, dead)
    x = torch.randn(16, *shape, dtype=torch.float64)
    reference = outputs_without(dense, dead, x)
    result = compact(network, x[:2])
    with torch.no_grad():
        found = result.network(x)
    sd = spread(reference)
    first_live = next(unit for unit in range(groups[0].count) if unit not in chosen[0])
    control = outputs_without(dense, gated(groups, [[*chosen[0], first_live], *chosen[1:]]), x)
    return {
        "groups": groups,
        "chosen": chosen,
        "result": result,
        "sd": sd,
        "error": float((found - reference).abs().max()) / sd,
        "control": float((control - reference).abs().max()) / sd,
    }


def check(name, fraction, seed):
    found = measure(name, fraction, seed)
    assert found["sd"] > VARIED
    assert found["error"] < EXACT
    assert found["control"] > VISIBLE
    result = found["result"]
    assert result.report.output_sd > VARIED / 2
    assert result.report.max_output_difference < EXACT * result.report.output_sd
    for group, units in zip(found["groups"], found["chosen"], strict=True):
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
