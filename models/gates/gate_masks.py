"""Masks of gates on what layers read and put out, while a network runs; examples may have gates of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from bayesprune.models.gates.gate_sets import GateSlice

__all__ = ["masked", "take_masks"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def take_masks(network: nn.Module, readers: Iterable[GateSlice]) -> bool:
    """Whether every reader is a linear layer or convolution."""
    layers = (network.get_submodule(reader.layer) for reader in readers)
    return all(isinstance(layer, (nn.Linear, *_CONVOLUTIONS)) for layer in layers)


@contextmanager
def masked(
    network: nn.Module,
    readers: Iterable[GateSlice],
    values: Mapping[str, Tensor],
    branches: Iterable[tuple[str, Tensor]],
) -> Iterator[None]:
    """Lets a network run with gates on what its layers read and on what branches put out.

    Args:
        network: The network.
        readers: What reads units with a gate.
        values: Gates by site, `(count,)` or `(batch, count)`.
        branches: Name of the layer that scales all that a branch puts out, and the gate of the branch, `(1,)` or
            `(batch, 1)`.
    """
    handles = []
    try:
        for reader in readers:
            mask = reader.mask(values)
            hook = _multiply_input(mask, network.get_submodule(reader.layer))
            handles.append(network.get_submodule(reader.layer).register_forward_pre_hook(hook))
        for name, gate in branches:
            handles.append(network.get_submodule(name).register_forward_hook(_multiply_output(gate)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _multiply_input(mask: Tensor, layer: nn.Module) -> Any:
    """A hook that multiplies the channels that a layer reads: `(channels,)` or `(batch, channels)`."""
    if isinstance(layer, nn.Linear):

        def multiply(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = args[0]
            shaped = mask if mask.ndim == 1 else mask.reshape(len(mask), *[1] * (x.ndim - 2), -1)
            return (x * shaped, *args[1:])

        return multiply
    # A weight has the columns of one group of a grouped convolution, and the rows of all groups of a transposed one.
    groups = layer.groups if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) else 1
    channels = mask.repeat(*[1] * (mask.ndim - 1), groups) if groups != 1 else mask

    def multiply_channels(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0]
        return (x * channels.reshape(*channels.shape, *[1] * (x.ndim - 2)), *args[1:])

    return multiply_channels


def _multiply_output(gate: Tensor) -> Any:
    """A hook that multiplies what a layer puts out by one gate, `(1,)` or `(batch, 1)`."""

    def multiply(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output * (gate if gate.ndim == 1 else gate.reshape(len(gate), *[1] * (output.ndim - 1)))

    return multiply
