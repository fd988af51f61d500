"""Training inputs that are kept with a fit, for the statistics of batch normalisation that belong to a draw.

And a few examples with their targets, on which pruning is seen to do harm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from bayesprune.inference.data.batch_normalisation import tracked_layers
from bayesprune.inference.data.batches import Batches, Data, length_or_none

__all__ = ["INPUTS", "KeptInputs", "evenly_spaced", "inputs_of", "kept_examples"]

INPUTS = 2000
"""At most so many inputs are kept: see docs/posteriors.md for what fewer would cost."""
EXAMPLES, FEW_EXAMPLES, _LARGE = 2000, 512, 1_000_000
"""At most so many examples with their targets are kept, on which `prune` sees whether it has done harm: the second
number for networks with more parameters than the third."""
_NUMBERS = 2**26
"""At most so many numbers are kept, a quarter of a gigabyte in float32."""


class KeptInputs:
    """Keeps some of the inputs that pass by in training; of tensors in memory, evenly spaced rows.

    Of a loader they are evenly spaced examples of its latest whole pass (of the first one, as long as none is): nothing
    is read for this, and a fit that was interrupted keeps what it would have kept (`state`). Inputs of another shape
    than that of the first batch are left out.

    Args:
        batches: The training data.
        network: The network; nothing is kept where it tracks no statistics of batch normalisation.
        most: How many; default 2,000.

    Attributes:
        batches: As given.
    """

    def __init__(self, batches: Batches, network: nn.Module, most: int = INPUTS) -> None:
        self.batches, self._most = batches, most
        self._wanted = bool(tracked_layers(network))
        self._rows: Tensor | None = None
        if self._wanted and batches.tensors is not None:
            self._rows = evenly_spaced(batches.tensors[0], most)
        self._whole = self._now = _Thinned(most)

    def passing(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over the batches."""
        if not self._wanted or self._rows is not None:
            yield from self.batches
            return
        self._now = _Thinned(self._most)
        for x, y in self.batches:
            self._now.add(x)
            yield x, y
        self._whole = self._now

    def state(self) -> dict[str, Any] | None:
        """What an interrupted fit to a loader cannot have again, as tensors and numbers; None of tensors in memory."""
        if self.batches.tensors is not None:
            return None
        passes = [self._whole] if self._whole is self._now else [self._whole, self._now]
        return {**self.batches.targets_state(), "passes": [{"inputs": p.inputs, "seen": p.seen} for p in passes]}

    def go_on_from(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state` gave."""
        self.batches.restore_targets(state)
        passes = []
        for one in state["passes"]:
            thinned = _Thinned(self._most)
            thinned.put_back(None if one["inputs"] is None else self.batches.place(one["inputs"]), one["seen"])
            passes.append(thinned)
        self._whole, self._now = passes[0], passes[-1]

    @property
    def inputs(self) -> Tensor | None:
        """What is kept, `(n, ...)`; None where no statistics are tracked."""
        if not self._wanted:
            return None
        if self._rows is not None:
            return self._rows
        # A pass that steps end with is not known to be whole, and a finished fit that is asked for again has none.
        found = (self._now if self._now.seen >= self._whole.seen else self._whole).inputs
        return found if found is not None else inputs_of(self.batches, most=self._most)


class _Thinned:
    """Evenly spaced examples of a pass whose length is not known: at first all, then every second, fourth, ..."""

    def __init__(self, most: int) -> None:
        self._most, self._every, self.seen, self._count = most, 1, 0, 0
        self._parts: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        if self._parts and x.shape[1:] != self._parts[0].shape[1:]:
            return
        if not self._parts:
            self._most = _bounded(x, self._most)
        part = x[-self.seen % self._every :: self._every]
        self.seen += len(x)
        if not len(part):
            return
        self._parts.append(part.detach().clone())  # else it would hold the whole batch
        self._count += len(part)
        while self._count > self._most:
            kept = torch.cat(self._parts)[::2].clone()
            self._parts, self._count, self._every = [kept], len(kept), 2 * self._every

    @property
    def inputs(self) -> Tensor | None:
        return torch.cat(self._parts) if self._parts else None

    def put_back(self, inputs: Tensor | None, seen: int) -> None:
        self._parts, self.seen = [] if inputs is None else [inputs], seen


def kept_examples(batches: Batches, network: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Evenly spaced examples of tensors in memory, with their targets; None of other data.

    Args:
        batches: The training data.
        network: The network: of one of more than a million parameters, which is slow to run, fewer are kept.
    """
    if batches.tensors is None:
        return None
    x, y = batches.tensors
    most = _bounded(x, EXAMPLES if sum(p.numel() for p in network.parameters()) <= _LARGE else FEW_EXAMPLES)
    return evenly_spaced(x, most), evenly_spaced(y, most)


def evenly_spaced(x: Tensor, most: int = INPUTS) -> Tensor:
    """At most so many rows of inputs `(n, ...)`, evenly spaced; a copy, which later changes do not reach."""
    most = min(len(x), _bounded(x, most))
    return x[torch.linspace(0, len(x) - 1, most, dtype=torch.float64).round().long().to(x.device)]


def inputs_of(data: Data | Tensor | Batches, like: Tensor | None = None, most: int = INPUTS) -> Tensor:
    """Some of the inputs of training data, evenly spaced: of a loader that does not shuffle, over one pass of it.

    Args:
        data: Training data as `fit` takes them, or inputs `(n, ...)` alone.
        like: Says on which device they go, and the dtype of floating-point numbers; default None: those of `Batches`.
        most: How many; default 2,000.

    Returns:
        The inputs, `(n, ...)`.

    Raises:
        ValueError: If the data are none.
    """
    if torch.is_tensor(data):
        data = (data, data)
    if not isinstance(data, Batches):
        like = torch.empty(0) if like is None else like
        data = Batches(data, 256, like.device, like.dtype)
    if data.tensors is not None:
        return evenly_spaced(data.tensors[0], most)
    thinned, seen = _Thinned(most), 0
    shuffles = isinstance(data.loader, DataLoader) and isinstance(data.loader.sampler, RandomSampler)
    first_are_enough = shuffles or length_or_none(data.loader) is None  # a stream may have no end
    with torch.random.fork_rng(devices=[data.device] if data.device.type == "cuda" else []):
        torch.manual_seed(0)
        for x, _ in data:
            thinned.add(x)
            seen += len(x)
            if first_are_enough and seen >= most:
                break
    found = thinned.inputs
    if found is None and data.kept is not None:  # data that can be read only once
        found = data.kept[0]
    if found is None:
        raise ValueError("the data have no batches: give at least one example")
    return found


def _bounded(x: Tensor, most: int) -> int:
    """How many inputs may be kept, two at least."""
    return max(2, min(most, _NUMBERS // max(1, x[:1].numel())))
