"""Ties: channels that can only be removed together are tied and make one unit; pinned ones stay, with the reason.

Channels are numbered across the whole network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bayesprune.models.tracing.activation import NO_CHANNEL, collapsed, spread, varying_dimensions


class Ties:
    """Which channels are tied to each other, and which are pinned (a union-find forest)."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}

    def new(self, count: int) -> Tensor:
        """Makes new channels and returns their numbers, `(count,)`."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def tie(self, one: Tensor, other: Tensor) -> Tensor:
        """Ties the channels of two tensors, entry by entry, and returns those of the result.

        An entry without a channel takes the other's. A channel that is broadcast over many others is needed as long
        as one of these is there: it stays. What would be tied to a channel that stays is pinned, and remains a unit
        of its own.
        """
        dims = max(one.ndim, other.ndim)
        one, other = (part.view((1,) * (dims - part.ndim) + part.shape) for part in (one, other))
        varying = varying_dimensions(one), varying_dimensions(other)
        if any(one.shape[dim] < other.shape[dim] for dim in varying[1]):
            self.pin(one, "it is broadcast over channels")
            one = torch.tensor(NO_CHANNEL).expand(one.shape)
        if any(other.shape[dim] < one.shape[dim] for dim in varying[0]):
            self.pin(other, "it is broadcast over channels")
            other = torch.tensor(NO_CHANNEL).expand(other.shape)
        if len(varying[0]) < len(varying[1]):
            one, other = other, one
        one, other = torch.broadcast_tensors(one, other)
        left, right = _together(one, other)
        both = (left != NO_CHANNEL) & (right != NO_CHANNEL) & (left != right)
        if bool(both.any()):
            pairs = torch.unique(torch.stack([left[both], right[both]]), dim=1)
            for a, b in pairs.t().tolist():
                self._join(a, b)
        return torch.where(left == NO_CHANNEL, right, left).expand(one.shape)

    def pin(self, channels: Tensor, reason: str) -> None:
        """Says that these channels may not be removed; the first reason given stands."""
        for channel in _present(channels):
            self._reasons.setdefault(self.root(channel), reason)

    def root(self, channel: int) -> int:
        """The one channel that stands for all that are tied to this one."""
        while self._parent[channel] != channel:
            self._parent[channel] = self._parent[self._parent[channel]]
            channel = self._parent[channel]
        return channel

    def roots(self) -> Tensor:
        """The channel that stands for each channel, `(number of channels,)`."""
        return torch.tensor([self.root(channel) for channel in range(len(self._parent))], dtype=torch.int64)

    def reason(self, channel: int) -> str | None:
        """Why a channel may not be removed, or None."""
        return self._reasons.get(self.root(channel))

    def pinned(self) -> Tensor:
        """Roots that may not be removed."""
        return torch.tensor(sorted(self._reasons), dtype=torch.int64)

    def along(self, channels: Tensor, dim: int) -> Tensor:
        """Ties what differs across the other dimensions, and returns the channels along one, `(size of dim,)`."""
        rows = collapsed(channels).movedim(dim, 0)
        rows = rows.reshape(len(rows), -1)
        if rows.shape[0] != channels.shape[dim]:  # the dimension itself is expanded
            rows = rows.expand(channels.shape[dim], -1)
        first = rows[:, :1]
        if rows.shape[1] > 1 and not bool((rows == first).all()):
            self.tie(first.expand_as(rows), rows)
        return rows.amax(dim=1)  # some may have no channel

    def one_dimension(self, channels: Tensor) -> Tensor:
        """Ties channels until they differ along one dimension only, so that any part that is kept is rectangular.

        That is the dimension of channels in PyTorch, 1, where they differ there and the tensor is a batch of maps
        (three or four dimensions); else the longest one along which they differ.
        """
        varying = varying_dimensions(channels)
        if len(varying) > 1:
            channels = spread(self._rooted, channels)  # tied ones do not differ
            varying = varying_dimensions(channels)
        if len(varying) < 2:
            return channels
        kept = 1 if 1 in varying and channels.ndim in (3, 4) else max(varying, key=lambda d: channels.shape[d])
        line = self.along(channels, kept)
        shape = [-1 if d == kept else 1 for d in range(channels.ndim)]
        return line.view(shape).expand(channels.shape)

    def _rooted(self, channels: Tensor) -> Tensor:
        found, place = torch.unique(channels, return_inverse=True)
        roots = [channel if channel == NO_CHANNEL else self.root(channel) for channel in found.tolist()]
        return torch.tensor(roots)[place]

    def _join(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        if a == b:
            return
        reason = self._reasons.get(a) or self._reasons.get(b)
        if reason is not None:
            self._reasons.setdefault(a, reason)
            self._reasons.setdefault(b, reason)
            return
        first, second = min(a, b), max(a, b)
        self._parent[second] = first


def _together(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors of one shape without the dimensions along which both are expanded."""
    for dim in range(one.ndim):
        if one.shape[dim] > 1 and one.stride(dim) == 0 and other.stride(dim) == 0:
            one, other = one.narrow(dim, 0, 1), other.narrow(dim, 0, 1)
    return one, other


def _present(channels: Tensor) -> list[int]:
    found: list[int] = torch.unique(collapsed(channels)).tolist()
    return [channel for channel in found if channel != NO_CHANNEL]
