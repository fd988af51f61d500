"""The share that a process takes of a batch of the data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LEAST", "WHOLE", "Share"]

LEAST = 2
"""Examples that a process gets at least: one alone has no variance for batch normalisation."""


@dataclass(frozen=True)
class Share:
    """Which examples of each batch a process takes: as many as the others, or one more.

    A batch that has not two examples for every process is taken whole by all: each then computes the same mean.

    Attributes:
        rank: Number of the process, from 0.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    def rows(self, size: int) -> slice:
        """Its examples of a batch.

        Args:
            size: Number of examples of the batch.
        """
        if not self._is_shared(size):
            return slice(0, size)
        each, more = divmod(size, self.world)
        first = self.rank * each + min(self.rank, more)
        return slice(first, first + each + (self.rank < more))

    def weight(self, size: int) -> float:
        """Factor on the mean over its examples, such that the mean over the processes is that over the batch.

        Args:
            size: Number of examples of the batch.
        """
        rows = self.rows(size)
        return self.world * (rows.stop - rows.start) / size if self._is_shared(size) else 1.0

    def _is_shared(self, size: int) -> bool:
        return self.world > 1 and size >= LEAST * self.world


WHOLE = Share()
"""All of every batch: of a process alone."""
