"""What channel tracing writes down while a network's graph is run: handlers of functions and layers report here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from bayesprune.models.tracing.activation import NO_CHANNEL, Activation, activations, along_dimension, unknown
from bayesprune.models.tracing.channel_records import Slice, Use
from bayesprune.models.tracing.channel_ties import Ties
from bayesprune.models.tracing.not_followed import NotFollowedError

__all__ = ["Recording"]


class Recording:
    """What is known of a network's channels so far, and the node that is being run.

    Args:
        keep_unknown: Whether channels that cannot be followed are kept; else they are refused.

    Attributes:
        ties: Which channels are tied or pinned.
        slices: Slices of parameters and buffers.
        uses: Readings of channels.
        features: Channels of normalisation layers, which note how many there are.
        sizes: Nodes whose arguments hold sizes: operation, target, arguments and keyword arguments, with `Count` there.
        examples: What each node really gives, on the meta device.
        node: The node that is being run.
        reads: What is known of all that it reads.
    """

    def __init__(self, keep_unknown: bool) -> None:
        self.keep_unknown = keep_unknown
        self.ties = Ties()
        self.slices: dict[tuple[str, int], Slice] = {}
        self.uses: list[Use] = []
        self.features: dict[str, Tensor] = {}
        self.sizes: dict[str, tuple[str, Any, tuple[Any, ...], dict[str, Any]]] = {}
        self.examples: dict[str, Any] = {}
        self.node: fx.Node
        self.reads: Any = ()
        self._whole: dict[str, str] = {}  # tensors that code uses as a whole, with the reason why they stay

    @property
    def example(self) -> Any:
        """What the node that is being run really gives, on the meta device."""
        return self.examples[self.node.name]

    def slice(self, tensor: str, dim: int, role: str, channel: Tensor) -> Tensor:
        """Records a slice; a layer that is called again ties its channels to those of the first call."""
        if tensor in self._whole:
            self.ties.pin(channel, self._whole[tensor])
        before = self.slices.get((tensor, dim))
        if before is not None:
            self.ties.tie(before.channel, channel)
            return before.channel
        self.slices[tensor, dim] = Slice(tensor, dim, role, channel)
        return channel

    def new_channels(self, tensor: str, dim: int, count: int) -> Tensor:
        """Channels that a layer makes: new ones, or those of its first call."""
        before = self.slices.get((tensor, dim))
        return self.ties.new(count) if before is None else before.channel

    def kept_whole(self, name: str, value: Tensor, reason: str) -> Activation:
        """A tensor that may not be cut, by the layer that owns it neither."""
        self._whole[name] = reason
        for part in self.slices.values():
            if part.tensor == name:
                self.ties.pin(part.channel, reason)
        if not value.ndim:
            return Activation(torch.tensor(NO_CHANNEL), value)
        dim = max(range(value.ndim), key=lambda each: value.shape[each])
        line = self.ties.new(value.shape[dim])
        self.ties.pin(line, reason)
        return Activation(along_dimension(line, dim, value.shape), value)

    def refuse(self, what: str, arguments: Any) -> Any:
        """Refuses an operation, or keeps all that it touches, where that was asked for."""
        where = f"{self.node.name!r}"
        if not self.keep_unknown:
            raise NotFollowedError(f"channels cannot be followed through node {where} ({what})")
        return self.ended(arguments, f"node {where} ({what}) is not understood")

    def ended(self, arguments: Any, reason: str) -> Any:
        """Keeps all channels that go into a node; what it gives has channels that stay, of the real shapes."""
        for activation in activations((arguments, self.reads)):
            self.ties.pin(activation.channel, reason)
        channel = self.ties.new(1)
        self.ties.pin(channel, reason)

        def pinned(found: Any) -> Any:
            if isinstance(found, (tuple, list)):
                return tuple(pinned(part) for part in found)
            if not torch.is_tensor(found):
                return found
            return Activation(channel.expand(found.shape) if found.ndim else channel[0], unknown(found.shape))

        return pinned(self.example)
