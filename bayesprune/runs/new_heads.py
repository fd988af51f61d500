"""`--new-head`: which layers of a network start anew where a file of trained weights was made for other outputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from bayesprune.models.networks.placing import zeros_for

__all__ = ["layer_of", "named", "output_layer", "resized_layers"]


def layer_of(name: str) -> str:
    """The name of the layer that a tensor of a state dict belongs to; empty in a network that is one layer."""
    return name.rpartition(".")[0]


def named(layers: tuple[str, ...], own: Mapping[str, Tensor]) -> str:
    """Layers as a sentence has them; one without a name by its tensors.

    Args:
        layers: Names.
        own: The state dict of the network.
    """
    return " and ".join(layer or " and ".join(name for name in own if not layer_of(name)) for layer in layers)


def resized_layers(
    network: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor], input_shape: tuple[int, ...] | None
) -> tuple[tuple[str, ...], bool]:
    """The layers whose tensors have other shapes in a file, and whether all of them differ in their outputs alone.

    A layer whose outputs alone differ is a last one: the layers after it would differ in their inputs.

    Args:
        network: The network.
        own: Its state dict.
        state: That of the file.
        input_shape: As in `output_layer`.
    """
    layers = tuple(dict.fromkeys(layer_of(n) for n in own if n in state and own[n].shape != state[n].shape))
    return layers, all(_same_inputs(network, layer, own, state, input_shape) for layer in layers)


def _same_inputs(
    network: nn.Module,
    layer: str,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    input_shape: tuple[int, ...] | None,
) -> bool:
    module = network.get_submodule(layer)
    pairs = [(own[n].shape, state[n].shape) for n in own if layer_of(n) == layer and n in state]
    if any(len(mine) != len(there) for mine, there in pairs):
        return False
    if not isinstance(module, nn.Linear | nn.Bilinear | _ConvNd):  # which dimension is its outputs is not known
        return all(len(mine) < 2 or _apart(mine, there) < 2 for mine, there in pairs) and (
            output_layer(network, input_shape) == layer
        )
    if isinstance(module, _ConvNd) and module.groups != 1:  # the shape does not tell its inputs
        return False
    outputs = 1 if isinstance(module, _ConvNd) and module.transposed else 0
    wide = [pair for pair in pairs if len(pair[0]) > 1]
    return bool(wide) and all(
        [*mine[:outputs], *mine[outputs + 1 :]] == [*there[:outputs], *there[outputs + 1 :]] for mine, there in wide
    )


def _apart(mine: torch.Size, there: torch.Size) -> int:
    return sum(one != other for one, other in zip(mine, there, strict=True))


def output_layer(network: nn.Module, input_shape: tuple[int, ...] | None) -> str | None:
    """The layer that makes the outputs, found by running one example of zeros; the order of declaration says nothing.

    It is the one that returned them; else the last linear layer or convolution that ran, if it has as many outputs
    (softmax, pooling or flattening may come after it).

    Args:
        network: The network; a copy is run.
        input_shape: Shape of one input; None: not known.

    Returns:
        Its name; None where it cannot be told, or the network does not run.
    """
    if input_shape is None:
        return None
    ran: list[tuple[str, nn.Module, Any]] = []

    def watch(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _module, _inputs, outputs: ran.append((name, module, outputs)))

    probe = copy.deepcopy(network).eval()
    for name, module in probe.named_modules():
        is_leaf = not any(True for child in module.children() for _ in child.parameters())
        if is_leaf and any(parameter.ndim > 1 for parameter in module.parameters(recurse=False)):
            watch(name, module)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            result = probe(zeros_for(probe, input_shape))
    except Exception:  # of somebody else's forward
        return None
    if not isinstance(result, Tensor):
        return None
    for name, _, outputs in reversed(ran):
        if outputs is result:
            return name
    for name, module, outputs in reversed(ran):
        if isinstance(module, nn.Linear | nn.Bilinear | _ConvNd):
            made = outputs.shape[-1] if isinstance(module, nn.Linear | nn.Bilinear) else module.out_channels
            return name if made in result.shape[1:] or made == result.numel() else None
    return None
