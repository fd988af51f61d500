"""Known networks with random dead units, prepared so that their outputs vary with their inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from bayesprune.models.networks.lenet import lenet_5, lenet_300_100
from bayesprune.models.networks.mobilenet import mobilenet_v1
from bayesprune.models.networks.resnet import resnet_20
from tests.oracles.units_reference import GROUPS, Dead, Group, enliven, gated, random_dead, zero_parameters

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet_300_100": (lenet_300_100, (1, 28, 28)),
    "lenet_5": (lenet_5, (1, 28, 28)),
    "vgg16_bn": (lambda: torchvision.models.vgg16_bn(num_classes=10), (3, 32, 32)),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), (3, 64, 64)),
    "resnet_20": (resnet_20, (3, 32, 32)),
    "resnet50": (lambda: torchvision.models.resnet50(num_classes=10), (3, 64, 64)),
    "mobilenet_v1": (lambda: mobilenet_v1(classes=10), (3, 64, 64)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=10), (3, 64, 64)),
    "densenet121": (lambda: torchvision.models.densenet121(num_classes=10), (3, 64, 64)),
    "googlenet": (
        lambda: torchvision.models.googlenet(num_classes=10, aux_logits=False, init_weights=False),
        (3, 64, 64),
    ),
    "squeezenet1_1": (lambda: torchvision.models.squeezenet1_1(num_classes=10), (3, 64, 64)),
}
"""How to build a network and the shape of its inputs, by name."""


@dataclass(frozen=True)
class Prepared:
    """A network with dead units.

    Attributes:
        dense: The network before, with all units alive.
        network: The same with zeros where units are dead.
        groups: Its units, written out by hand.
        chosen: Dead units of each group.
        dead: Output channels that are dead, by layer.
        shape: Shape of one input.
    """

    dense: nn.Module
    network: nn.Module
    groups: list[Group]
    chosen: list[list[int]]
    dead: Dead
    shape: tuple[int, ...]

    def inputs(self, count: int) -> Tensor:
        """Random inputs."""
        return torch.randn(count, *self.shape, dtype=torch.float64)


def prepared(name: str, fraction: float, seed: int) -> Prepared:
    """A network of float64 of whose units this share is dead in each group."""
    build, shape = NETWORKS[name]
    torch.manual_seed(seed)
    dense = build().double()
    groups = GROUPS[name](dense)
    chosen = random_dead(groups, fraction, seed)
    dead = gated(groups, chosen)
    enliven(dense, dead, torch.randn(8, *shape, dtype=torch.float64), seed)
    network = copy.deepcopy(dense)
    zero_parameters(network, dead)
    return Prepared(dense, network, groups, chosen, dead, shape)
