"""Units of networks written out by hand, and their removal by hooks: nothing here follows a network's graph.

A unit is dead in the reference if the outputs of its gates are set to zero by forward hooks. A gate is the last layer
of a unit that has parameters of its own before other units are mixed in: batch normalisation where there is one, else
the convolution or linear layer.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Dead = Mapping[str, Iterable[int]]
"""Output channels to be zeroed, by name of layer."""


@dataclass(frozen=True)
class Group:
    """Units that can only be removed together.

    Attributes:
        makers: Layers whose rows or filters make them.
        gates: Layers where they have to be zero, with the position of the first unit there.
        count: How many units.
    """

    makers: tuple[str, ...]
    gates: tuple[tuple[str, int], ...]
    count: int


class Net(nn.Module):
    """Layers by name, and a forward function of the network and its input."""

    def __init__(self, run: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Any) -> Any:
        """Runs the function."""
        return self.run(self, x)


@contextlib.contextmanager
def zeroed(network: nn.Module, dead: Dead, dim: int = 1) -> Iterator[nn.Module]:
    """The network with these channels of its layers' outputs set to zero by hooks."""
    handles = []
    for name, channels in dead.items():
        index = torch.tensor(sorted(channels), dtype=torch.int64)

        def hook(_: nn.Module, __: Any, output: Tensor, index: Tensor = index) -> Tensor:
            return output.index_fill(dim, index, 0.0)

        handles.append(network.get_submodule(name).register_forward_hook(hook))
    try:
        yield network
    finally:
        for handle in handles:
            handle.remove()


def outputs_without(network: nn.Module, dead: Dead, *inputs: Tensor) -> Tensor:
    """What the network gives in evaluation mode with these channels set to zero by hooks."""
    copied = copy.deepcopy(network).eval()
    with torch.no_grad(), zeroed(copied, dead):
        return copied(*inputs)


def gated(groups: Iterable[Group], chosen: Iterable[Iterable[int]]) -> dict[str, list[int]]:
    """Channels by gate, of units by group."""
    dead: dict[str, list[int]] = {}
    for group, units in zip(groups, chosen, strict=True):
        for gate, first in group.gates:
            dead.setdefault(gate, []).extend(first + unit for unit in units)
    return dead


def zero_parameters(network: nn.Module, dead: Dead) -> None:
    """Writes zeros into weight and bias of these channels, in place: rows, filters, scales and shifts."""
    with torch.no_grad():
        for name, channels in dead.items():
            layer = network.get_submodule(name)
            layer.weight[sorted(channels)] = 0.0
            if layer.bias is not None:
                layer.bias[sorted(channels)] = 0.0


def random_dead(groups: Iterable[Group], fraction: float, seed: int) -> list[list[int]]:
    """A random share of the units of each group, at least one and not all."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randperm(group.count, generator=generator)[: max(1, min(group.count - 1, round(fraction * group.count)))]
        .sort()
        .values.tolist()
        for group in groups
    ]


def enliven(network: nn.Module, dead: Dead, inputs: Tensor, seed: int) -> None:
    """Makes outputs vary with inputs although units are dead, in place; as built, they are all but constant.

    Scales and shifts of batch normalisation become random, its statistics those of these inputs. Linear layers, and
    convolutions where there is no batch normalisation, are scaled and shifted; outputs have standard deviation 1.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator, dtype=like.dtype)

    network.eval()
    normalised = any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    with torch.no_grad(), zeroed(network, dead), contextlib.ExitStack() as stack:
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.copy_(uniform(layer.weight, 0.5, 1.5))
                layer.bias.copy_(uniform(layer.bias, -0.5, 0.5))
                layer.reset_running_stats()
                layer.momentum = None  # the mean of all batches
                layer.train()
            elif isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and not normalised):
                stack.callback(layer.register_forward_hook(_standardise).remove)
        sd = spread(network(inputs))
    head = [layer for layer in network.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))][-1]
    with torch.no_grad():
        head.weight.div_(sd)
        head.bias.div_(sd)
    network.eval()


def recalibrate(network: nn.Module, inputs: Tensor) -> None:
    """Statistics of batch normalisation anew, those of these inputs, in place."""
    network.eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the mean of all batches
            layer.train()
    with torch.no_grad():
        network(inputs)
    network.eval()


def _standardise(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
    """Scales and shifts a layer to live outputs of mean 0.5, so that not all of them are cut off, and sd 1."""
    live = (output != 0).transpose(0, 1).flatten(1).any(dim=1)
    mean, sd = output[:, live].mean(), output[:, live].std()
    layer.weight.div_(sd)
    layer.bias.copy_((layer.bias - mean) / sd + 0.5)
    return torch.where(
        live.view([-1 if dim == 1 else 1 for dim in range(output.ndim)]), (output - mean) / sd + 0.5, 0.0
    )


def spread(outputs: Tensor) -> float:
    """Standard deviation over inputs, the mean over outputs."""
    return float(outputs.flatten(1).std(dim=0).mean())


# ------------------------------------------------------------------------------------------ groups, written out by hand


def _alone(network: nn.Module, maker: str, gate: str) -> Group:
    return Group((maker,), ((gate, 0),), len(network.get_submodule(maker).weight))


def _tied(network: nn.Module, makers: list[str], gates: list[str]) -> Group:
    return Group(tuple(makers), tuple((gate, 0) for gate in gates), len(network.get_submodule(makers[0]).weight))


def sequential_groups(network: nn.Module) -> list[Group]:
    """Linear layers and convolutions one after another, each its own gate; the last one makes the outputs."""
    names = [name for name, layer in network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    return [_alone(network, name, name) for name in names[:-1]]


def vgg_bn_groups(network: nn.Module) -> list[Group]:
    """Each convolution has its normalisation behind it; in the classifier there is none."""
    groups = [
        _alone(network, f"features.{place}", f"features.{place + 1}")
        for place, layer in enumerate(network.features)
        if isinstance(layer, nn.Conv2d)
    ]
    linear = [f"classifier.{place}" for place, layer in network.classifier.named_children() if hasattr(layer, "weight")]
    return groups + [_alone(network, name, name) for name in linear[:-1]]


def resnet_groups(network: nn.Module) -> list[Group]:
    """The blocks of a stage and what goes round them are tied; the stem belongs to stage 1 unless that projects."""
    inner, stages = [], []
    last = 3 if hasattr(network.layer1[0], "conv3") else 2
    for stage in range(1, 5):
        makers, gates = [], []
        for place, block in enumerate(getattr(network, f"layer{stage}")):
            name = f"layer{stage}.{place}"
            inner += [_alone(network, f"{name}.conv{i}", f"{name}.bn{i}") for i in range(1, last)]
            makers.append(f"{name}.conv{last}")
            gates.append(f"{name}.bn{last}")
            if block.downsample is not None:
                makers.append(f"{name}.downsample.0")
                gates.append(f"{name}.downsample.1")
        if stage == 1 and network.layer1[0].downsample is None:
            makers, gates = ["conv1", *makers], ["bn1", *gates]
        stages.append(_tied(network, makers, gates))
    stem = [] if network.layer1[0].downsample is None else [_alone(network, "conv1", "bn1")]
    return stem + inner + stages


def resnet_20_groups(network: nn.Module) -> list[Group]:
    """The convolutions inside blocks; shortcuts tie what goes round the blocks through all stages, and it stays."""
    blocks = [f"layer{stage}.{place}" for stage in (1, 2, 3) for place in (0, 1, 2)]
    return [_alone(network, f"{block}.conv1", f"{block}.bn1") for block in blocks]


def mobilenet_v1_groups(network: nn.Module) -> list[Group]:
    """A depthwise convolution belongs to the units that it reads, those of the layer before."""
    groups = []
    maker, gate = "conv1", "bn1"
    for place in range(1, 14):
        name = f"block{place}"
        groups.append(_tied(network, [maker, f"{name}.depthwise"], [gate, f"{name}.bn1"]))
        maker, gate = f"{name}.pointwise", f"{name}.bn2"
    return [*groups, _alone(network, maker, gate)]


def mobilenet_v2_groups(network: nn.Module) -> list[Group]:
    """A depthwise convolution belongs to the units that it reads; blocks with a residual sum share their outputs."""
    groups = [_tied(network, ["features.0.0", "features.1.conv.0.0"], ["features.0.1", "features.1.conv.0.1"])]
    makers, gates = ["features.1.conv.1"], ["features.1.conv.2"]
    for place in range(2, 18):
        name = f"features.{place}.conv"
        expand, depthwise = f"{name}.0", f"{name}.1"
        groups.append(_tied(network, [f"{expand}.0", f"{depthwise}.0"], [f"{expand}.1", f"{depthwise}.1"]))
        if not network.features[place].use_res_connect:
            groups.append(_tied(network, makers, gates))
            makers, gates = [], []
        makers.append(f"{name}.2")
        gates.append(f"{name}.3")
    return [*groups, _tied(network, makers, gates), _alone(network, "features.18.0", "features.18.1")]


def densenet_groups(network: nn.Module) -> list[Group]:
    """What a layer adds to the features is read by the normalisation of every later layer of its block."""
    groups = []
    features = network.features
    source = "features.conv0"
    for block in range(1, 5):
        layers = [f"features.denseblock{block}.{name}" for name, _ in getattr(features, f"denseblock{block}").items()]
        after = f"features.transition{block}.norm" if block < 4 else "features.norm5"
        readers = [*(f"{layer}.norm1" for layer in layers), after]
        width = len(network.get_submodule(source).weight)
        gates = [(reader, 0) for reader in readers]
        groups.append(Group((source,), tuple([("features.norm0", 0), *gates] if block == 1 else gates), width))
        for place, layer in enumerate(layers):
            groups.append(_alone(network, f"{layer}.conv1", f"{layer}.norm2"))
            grown = len(network.get_submodule(f"{layer}.conv2").weight)
            groups.append(Group((f"{layer}.conv2",), tuple((reader, width) for reader in readers[place + 1 :]), grown))
            width += grown
        source = f"features.transition{block}.conv"
    return groups


def googlenet_groups(network: nn.Module) -> list[Group]:
    """Every convolution has its normalisation; branches are concatenated only."""
    names = [name[:-5] for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)]
    return [_alone(network, f"{name}.conv", f"{name}.bn") for name in names]


GROUPS: dict[str, Callable[[nn.Module], list[Group]]] = {
    "lenet_300_100": sequential_groups,
    "lenet_5": sequential_groups,
    "vgg16_bn": vgg_bn_groups,
    "resnet18": resnet_groups,
    "resnet_20": resnet_20_groups,
    "resnet50": resnet_groups,
    "mobilenet_v1": mobilenet_v1_groups,
    "mobilenet_v2": mobilenet_v2_groups,
    "densenet121": densenet_groups,
    "googlenet": googlenet_groups,
    "squeezenet1_1": sequential_groups,
}
"""Groups by name of network."""
