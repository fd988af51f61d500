"""OneProcess: a fit in one process on one device, the default."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bayesprune.inference.runtime.denormals import flushed_denormals

__all__ = ["OneProcess", "derived_seed"]

T = TypeVar("T")


class OneProcess:
    """One process on one device, the default; see `Runtime`.

    Args:
        device: Where.
        dtype: dtype of parameters and of floating-point data.
        autocast: dtype in which the network runs, or None (default) for its own.
    """

    rank, world, plain = 0, 1, ""

    def __init__(self, device: torch.device, dtype: torch.dtype, autocast: torch.dtype | None = None) -> None:
        self.device, self.dtype, self.autocast = device, dtype, autocast
        self.data_order = torch.Generator()

    @contextmanager
    def restart(self, seed: int) -> Iterator[None]:
        """See `Runtime.restart`."""
        devices = [self.device] if self.device.type == "cuda" else []
        with flushed_denormals(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            self.data_order.manual_seed(derived_seed(f"order of the data, seed {seed}"))
            yield

    def noise(self, step: int) -> AbstractContextManager[None]:
        """Torch's own generator draws the noise."""
        return nullcontext()

    def setup(self, objective: nn.Module, optimizer: Optimizer) -> None:
        """Nothing is to be done."""

    def level(self, objective: nn.Module) -> None:
        """Nothing is to be done."""

    def reduce(self, tensors: Sequence[Tensor], numbers: Tensor, weight: float = 1.0) -> Tensor:
        """Nothing is to be done."""
        return numbers

    def agreed(self, decision: T) -> T:
        """The decision itself."""
        return decision

    def expect_same(self, facts: Mapping[str, str]) -> None:
        """Nothing is to be compared."""


def derived_seed(what: str) -> int:
    """A seed for random numbers of another purpose, of 62 bits: that of the noise would give the same numbers.

    Args:
        what: The purpose, with the seed of the noise in it.
    """
    return int.from_bytes(hashlib.blake2b(what.encode(), digest_size=8).digest(), "big") >> 2
