"""The ready networks by name: a builder each, which fits a network to inputs and notes how to build it again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from bayesprune.models.checks.size_bounds import checked_count, checked_input_shape, checked_width, require_holdable
from bayesprune.models.genomes.genome import Genome
from bayesprune.models.genomes.genome_network import GENOME, network_of
from bayesprune.models.networks.dyrelu_networks import DYRELU, with_dyrelu
from bayesprune.models.networks.fast_grnn import fast_grnn
from bayesprune.models.networks.lenet import lenet_5, lenet_300_100
from bayesprune.models.networks.mobilenet import mobilenet_v1, mobilenet_v2
from bayesprune.models.networks.recurrent import gru, lstm
from bayesprune.models.networks.resnet import (
    resnet_18,
    resnet_18_imagenet,
    resnet_20,
    resnet_32,
    resnet_34,
    resnet_34_cifar,
    resnet_50,
    resnet_50_cifar,
    resnet_56,
)
from bayesprune.models.networks.shared_blocks import SHARED, share_blocks
from bayesprune.models.networks.vgg import vgg_16_bn
from bayesprune.models.networks.widths import scaled
from bayesprune.models.structure.graph_network import GRAPH
from bayesprune.models.structure.ready_graphs import READY_GRAPHS, graph_network_again, random_graph_network
from bayesprune.models.structure.recurrent_layer import KINDS
from bayesprune.models.structure.recurrent_stack import recurrent_stack

__all__ = ["NETWORKS", "OF_TOKENS", "STEM", "Builder", "make_ready", "network_from_config"]

STEM = "stem_stride"
"""Key of `network.config` that says the stride of the first convolution, where it is another than 1."""

_LONGEST_STRIDE, _MOST_BLOCKS = 8, 100  # that a file may ask for
_SMALLEST = 32  # of networks that halve their images five times: to one position


_STACKS = {f"{kind}-stack": kind for kind in KINDS}
OF_TOKENS = tuple(_STACKS)
"""Networks that read sequences of tokens, whole numbers; all others read measurements."""


class Builder(Protocol):
    """Makes a network for inputs of this shape."""

    def __call__(self, input_shape: Sequence[int], classes: int, width: float = 1.0) -> nn.Module:
        """See `NETWORKS`."""
        ...


def _build_lenet_300_100(input_shape: Sequence[int], classes: int, width: float = 1.0) -> nn.Module:
    network = lenet_300_100(math.prod(input_shape), classes, width=width)
    return _named("lenet-300-100", input_shape, classes, width, network)


def _build_linear(input_shape: Sequence[int], classes: int, width: float = 1.0) -> nn.Module:
    """One linear layer, ``fc1``: a regression, without hidden layers that a width could multiply."""
    network = lenet_300_100(math.prod(input_shape), classes, hidden=tuple(scaled((), width)))
    return _named("linear", input_shape, classes, width, network)


def _build_lenet_5(input_shape: Sequence[int], classes: int, width: float = 1.0) -> nn.Module:
    if len(input_shape) != 3 or input_shape[1] != input_shape[2]:
        raise ValueError(
            f"lenet-5 got inputs of shape {tuple(input_shape)}, but it needs square images "
            "(channels, height, width): use lenet-300-100, which takes any shape"
        )
    network = lenet_5(input_shape[0], input_shape[1], classes, width)
    return _named("lenet-5", input_shape, classes, width, network)


def _image_builder(name: str, make: Callable[[int, int, float], nn.Module], halves: str = "") -> Builder:
    """The builder of a network of images: of any size, or what halves them five times, which needs 32 x 32 at least."""

    def build(input_shape: Sequence[int], classes: int, width: float = 1.0) -> nn.Module:
        _require_image(name, input_shape)
        if halves and min(input_shape[1:]) < _SMALLEST:
            raise ValueError(
                f"{name} got images of {input_shape[1]} x {input_shape[2]} pixels, but its {halves} need at least "
                f"{_SMALLEST} x {_SMALLEST}: use resnet-18 or lenet-5 instead"
            )
        return _named(name, input_shape, classes, width, make(input_shape[0], classes, width))

    return build


def _recurrent_builder(name: str, make: Callable[[Sequence[int], int, float], nn.Module]) -> Builder:
    """The builder of a recurrent network, which takes sequences, and images row by row."""

    def build(input_shape: Sequence[int], classes: int, width: float = 1.0) -> nn.Module:
        return _named(name, input_shape, classes, width, make(input_shape, classes, width))

    return build


def _graph_builder(name: str) -> Builder:
    """The builder of a network of a random graph, which is drawn when it is built."""

    def build(input_shape: Sequence[int], classes: int, width: float = 1.0) -> nn.Module:
        return random_graph_network(name, input_shape, classes, width)

    return build


def _require_image(name: str, input_shape: Sequence[int]) -> None:
    if len(input_shape) != 3:
        raise ValueError(
            f"{name} got inputs of shape {tuple(input_shape)}, but it needs images (channels, height, width): "
            "use lenet-300-100, which takes any shape"
        )


def _named(name: str, input_shape: Sequence[int], classes: int, width: float, network: nn.Module) -> nn.Module:
    """Notes on the network how to build it again, so that a saved fit can be read without its code."""
    config = {"name": name, "input_shape": list(input_shape), "classes": classes, "width": width}
    network.config = config  # type: ignore[assignment]
    return network


NETWORKS: dict[str, Builder] = {
    "lenet-300-100": _build_lenet_300_100,
    "lenet-5": _build_lenet_5,
    "vgg-16-bn": _image_builder("vgg-16-bn", vgg_16_bn, halves="five poolings"),
    "resnet-18": _image_builder("resnet-18", resnet_18),
    "resnet-20": _image_builder("resnet-20", resnet_20),
    "resnet-32": _image_builder("resnet-32", resnet_32),
    "resnet-56": _image_builder("resnet-56", resnet_56),
    "resnet-18-imagenet": _image_builder("resnet-18-imagenet", resnet_18_imagenet, halves="five halvings"),
    "resnet-34": _image_builder("resnet-34", resnet_34, halves="five halvings"),
    "resnet-50": _image_builder("resnet-50", resnet_50, halves="five halvings"),
    "resnet-34-cifar": _image_builder("resnet-34-cifar", resnet_34_cifar),
    "resnet-50-cifar": _image_builder("resnet-50-cifar", resnet_50_cifar),
    "mobilenet-v1": _image_builder("mobilenet-v1", mobilenet_v1, halves="five halvings"),
    "mobilenet-v2": _image_builder("mobilenet-v2", mobilenet_v2, halves="five halvings"),
    "fast-grnn": _recurrent_builder("fast-grnn", fast_grnn),
    "gru": _recurrent_builder("gru", gru),
    "lstm": _recurrent_builder("lstm", lstm),
    **{name: _graph_builder(name) for name in READY_GRAPHS},
    **{name: _recurrent_builder(name, recurrent_stack(kind)) for name, kind in _STACKS.items()},
    "linear": _build_linear,
}
"""Networks by the name the command line uses; each builder takes `(input_shape, classes, width=1.0)`."""


_STEMS: dict[str, Callable[..., nn.Module]] = {
    "resnet-18": resnet_18,
    "resnet-20": resnet_20,
    "resnet-32": resnet_32,
    "resnet-56": resnet_56,
    "resnet-34-cifar": resnet_34_cifar,
    "resnet-50-cifar": resnet_50_cifar,
}
"""Networks whose first convolution may have another stride."""


def make_ready(
    name: str,
    input_shape: Sequence[int],
    classes: int,
    width: float = 1.0,
    stem_stride: int = 1,
    shared_blocks: int = 0,
    dyrelu: bool = False,
    genome: Any = None,
) -> nn.Module:
    """Makes a network of `NETWORKS`, once it is known that it can be held.

    Args:
        name: Its name, or ``"genome"``.
        input_shape: Shape of one input.
        classes: Number of outputs.
        width: Multiplies the widths of the hidden layers; default 1.
        stem_stride: Stride of the first convolution of a residual network for small images; default 1.
        shared_blocks: Blocks of each stage that own their convolutions, which later ones use (`share_blocks`); default
            0: all blocks own theirs.
        dyrelu: Whether its activations are `DyReLU`s (`with_dyrelu`); default False.
        genome: What `Genome.as_dict` returned, for ``"genome"``, and only there; default None.

    Raises:
        ValueError: If the name is unknown, the network does not take such inputs, has none of what is asked for, or has
            more than `bayesprune.models.checks.size_bounds.MOST_PARAMETERS` parameters.
    """
    if not isinstance(name, str) or name not in (*NETWORKS, GENOME):
        raise ValueError(f"network {name!r} is unknown: expected one of {', '.join(NETWORKS)}, or {GENOME}")
    if (name == GENOME) != (genome is not None):
        raise ValueError(
            f"network {name!r} {'lacks a genome' if name == GENOME else 'has no genome'}: give one to {GENOME}, and to "
            "no other network"
        )
    found = Genome.from_dict(genome) if name == GENOME else None
    if stem_stride != 1 and name not in _STEMS:
        raise ValueError(f"{name} has no {STEM}: leave it out, or take one of {', '.join(_STEMS)}")

    def make() -> nn.Module:
        if found is not None:
            network: nn.Module = network_of(found, input_shape, classes, width)
        elif stem_stride == 1:
            network = NETWORKS[name](input_shape, classes, width)
        else:
            _require_image(name, input_shape)
            network = _STEMS[name](input_shape[0], classes, width, stem_stride)
            network = _named(name, input_shape, classes, width, network)
            network.config = {**network.config, STEM: stem_stride}  # type: ignore[assignment, dict-item]
        network = share_blocks(network, shared_blocks) if shared_blocks else network
        return with_dyrelu(network) if dyrelu else network

    require_holdable(make, name)
    return make()


def network_from_config(config: Any) -> nn.Module:
    """Makes a ready network again from what a builder noted on it (`network.config`), as a file has it.

    Args:
        config: Has ``name``, ``input_shape``, ``classes`` and, since there are widths, ``width``; where they are not
            the usual ones, ``stem_stride``, ``shared_blocks`` and ``dyrelu``; those of graphs their ``graph``, that of
            a genome its ``genome``.

    Raises:
        ValueError: In one sentence, if it is something else or out of bounds
            (`bayesprune.models.checks.size_bounds`).
    """
    if not isinstance(config, Mapping):
        raise ValueError("network is not what a ready network's config was: expected name, input_shape and classes")
    if not isinstance(config.get(DYRELU, False), bool):
        raise ValueError(f"{DYRELU} is {config[DYRELU]!r}, but true or false is expected"[:200])
    input_shape = checked_input_shape(config.get("input_shape"))
    classes, width = checked_count(config.get("classes"), "classes"), checked_width(config.get("width", 1.0))
    if GRAPH in config:
        return _graph_again(config, input_shape, classes)
    return make_ready(
        config.get("name", ""),
        input_shape,
        classes,
        width,
        checked_count(config.get(STEM, 1), STEM, _LONGEST_STRIDE),
        checked_count(config[SHARED], SHARED, _MOST_BLOCKS) if SHARED in config else 0,
        config.get(DYRELU, False),
        config.get(GENOME),
    )


def _graph_again(config: Mapping[str, Any], input_shape: Sequence[int], classes: int) -> nn.Module:
    """The network of a graph that was drawn or given when it was first made."""
    name = config.get("name")
    if name != GRAPH and (not isinstance(name, str) or name not in READY_GRAPHS):
        raise ValueError(
            f"network {str(name)[:60]!r} has no graph: expected {GRAPH}, or one of {', '.join(READY_GRAPHS)}"
        )
    require_holdable(lambda: graph_network_again(config, input_shape, classes), name)
    return graph_network_again(config, input_shape, classes)
