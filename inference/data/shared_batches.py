"""Which examples of a `Dataset` a process loads, where each batch is shared out among processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import BatchSampler, Sampler

from bayesprune.inference.runtime.share import Share

__all__ = ["SharedBatches"]


class SharedBatches(Sampler[list[int]]):
    """The share of a process of each batch of a sampler's order, which is the same in all processes.

    Args:
        sampler: What draws the order; it has a length.
        batch_size: Size of a whole batch.
        share: The share of this process; it may be set anew.
    """

    def __init__(self, sampler: Any, batch_size: int, share: Share) -> None:
        self.sampler, self.batch_size, self.share = sampler, batch_size, share
        self._whole = BatchSampler(sampler, batch_size, drop_last=False)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._whole)

    def __iter__(self) -> Iterator[list[int]]:
        """Yields the numbers of this process's examples of each batch."""
        for rows in self._whole:
            yield rows[self.share.rows(len(rows))]

    def size(self, number: int) -> int:
        """Number of examples of the whole batch of this number, from 1."""
        return min(self.batch_size, len(self.sampler) - (number - 1) * self.batch_size)
