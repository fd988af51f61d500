"""Numbers that tell how many channels there are: where code computes with one, the channels have to stay.

A size that only shapes a tensor (`view`, `expand`, the bounds of a slice) follows what is left. A size that is divided
by, added or returned would be another number after a removal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from bayesprune.models.tracing.activation import NO_CHANNEL, Activation, activations, collapsed, varying_dimensions
from bayesprune.models.tracing.function_traces import FUNCTIONS, indexed, new_constant, padded, sized, split
from bayesprune.models.tracing.recording import Recording

__all__ = ["ChannelCounts"]

_ALL = ("numel", "nelement")


class ChannelCounts:
    """Which results of nodes tell how many of which channels there are."""

    def __init__(self) -> None:
        self._numbers: dict[fx.Node, Tensor] = {}  # channels that are counted
        self._sizes: dict[fx.Node, list[Tensor]] = {}  # the same for each size of several
        self._shapes: list[tuple[Tensor, Tensor, str]] = []  # channels counted, those of what is shaped by them, where

    def follow(self, recording: Recording, node: fx.Node, result: Any, results: Mapping[fx.Node, Any]) -> None:
        """Follows one node that has run; keeps the channels whose number goes into values.

        Args:
            recording: What is known of the channels.
            node: The node.
            result: What it gives.
            results: What the nodes before it gave, as far as it is still needed.
        """
        of = results.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
        if self._asks(node, of):
            return
        counted = [
            line
            for each in node.all_input_nodes
            for line in (self._numbers.get(each), *self._sizes.get(each, ()))
            if line is not None
        ]
        channels = torch.cat(counted) if counted else torch.zeros(0)
        if not channels.numel():
            return
        if node.op != "output" and not activations(result) and result is not None:
            self._numbers[node] = channels
        elif not self._only_shapes(recording, node, of, channels, result):
            recording.ties.pin(channels, f"node {node.name!r} computes with their number")

    def settle(self, recording: Recording) -> None:
        """Keeps channels whose number shapes a tensor that does not hold them, now that all ties are known."""
        for channels, own, name in self._shapes:
            held = {recording.ties.root(channel) for channel in own.tolist() if channel != NO_CHANNEL}
            if any(channel != NO_CHANNEL and recording.ties.root(channel) not in held for channel in channels.tolist()):
                recording.ties.pin(channels, f"node {name!r} shapes another tensor by their number")

    def _only_shapes(self, recording: Recording, node: fx.Node, of: Any, channels: Tensor, result: Any) -> bool:
        """Whether sizes follow what is left; for the shape of a tensor that is to be seen in the end."""
        handler = FUNCTIONS.get(_name(node))
        if handler in (indexed, new_constant, padded, split) and node.name in recording.sizes:
            left: list[fx.Node] = []
            fx.map_arg(recording.sizes[node.name][2:], left.append)
            return not any(self._counts(each) for each in left)
        if handler is not sized or not isinstance(of, Activation) or not isinstance(result, Activation):
            return False
        if _name(node) == "expand":
            written = node.args[1] if isinstance(node.args[1], (tuple, list)) else node.args[1:]
            if isinstance(node.args[1], fx.Node) and node.args[1] in self._sizes:
                written = tuple(self._sizes[node.args[1]])  # the channels in place of the nodes
            before = (1,) * (len(result.shape) - len(of.shape)) + tuple(of.shape)
            for size, one, other in zip(written, before, result.shape, strict=True):
                if one != other and (self._counts(size) if isinstance(size, fx.Node) else torch.is_tensor(size)):
                    return False
        self._shapes.append((channels, torch.unique(collapsed(of.channel)), node.name))
        return True

    def _counts(self, node: fx.Node) -> bool:
        """Whether a number tells of any channels."""
        return any(line.numel() for line in (*self._sizes.get(node, ()), self._numbers.get(node, torch.zeros(0))))

    def _asks(self, node: fx.Node, of: Any) -> bool:
        """Notes the answer of a node that asks for sizes of its first argument, or for one of several."""
        first = node.args[0] if node.args else None
        if not isinstance(first, fx.Node):
            return False
        if _name(node) == "getitem" and first in self._sizes:
            chosen = self._sizes[first][_plain(node.args[1])]
            if isinstance(chosen, list):
                self._sizes[node] = chosen
            else:
                self._numbers[node] = chosen
            return True
        asked = node.args[1:2] == ("shape",) if node.target is getattr else node.target in ("size", *_ALL)
        if not asked or not isinstance(of, Activation):
            return False
        lines = _lines(of.channel)
        if node.target in _ALL:
            self._numbers[node] = torch.cat(lines)
        elif node.target == "size" and len(node.args) > 1:
            dim = node.args[1]
            self._numbers[node] = lines[dim] if type(dim) is int else torch.cat(lines)
        else:
            self._sizes[node] = lines
        return True


def _lines(channel: Tensor) -> list[Tensor]:
    """Channels that each size counts: none along dimensions in which they do not differ; one may lie along any."""
    varying = varying_dimensions(channel) or [dim for dim in range(channel.ndim) if channel.shape[dim] == 1]
    every = torch.unique(collapsed(channel))
    return [every if dim in varying else every[:0] for dim in range(channel.ndim)]


def _plain(index: Any) -> Any:
    """An index of sizes; all of them where it is computed."""
    found: list[fx.Node] = []
    fx.map_arg((index,), found.append)
    return slice(None) if found or type(index) not in (int, slice) else index


def _name(node: fx.Node) -> str:
    if node.op == "call_method":
        return str(node.target)
    return str(getattr(node.target, "__name__", "")) if node.op == "call_function" else ""
