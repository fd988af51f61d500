"""Which examples of a `Dataset` a process loads, where each batch is shared out among processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler

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

    def loaded(self, loader: DataLoader[Any], order: torch.Generator | None) -> Iterator[Any]:
        """Yields what a loader of these batches yields; what a data set draws meanwhile, such as crops, is its own.

        Processes load unlike examples, and draw for them unlike numbers, by rank and pass; torch's generator, which is
        common to all, stays as it was.

        Args:
            loader: The loader.
            order: The generator of the order, whose state tells passes apart; None: torch's own.
        """
        common = torch.get_rng_state() if order is None else order.get_state()
        said = common.numpy().tobytes() + str(self.share.rank).encode()
        seed = int.from_bytes(hashlib.blake2b(said, digest_size=4).digest(), "big")
        own, batches = torch.Generator().manual_seed(seed).get_state(), iter(loader)
        while True:
            before = torch.get_rng_state()
            torch.set_rng_state(own)
            try:
                batch = next(batches, None)
            finally:
                own = torch.get_rng_state()
                torch.set_rng_state(before)
            if batch is None:
                return
            yield batch
