"""Runtime: where a fit runs, and with what random numbers; the one seam for more processes than one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bayesprune.inference.execution.denormals import flushed_denormals

__all__ = ["OneProcess", "Runtime"]

T = TypeVar("T")


class Runtime(Protocol):
    """What a fit asks of the place in which it runs; the extension point for many processes.

    Attributes:
        device: Where tensors are.
        dtype: dtype of parameters and of floating-point data.
        autocast: dtype in which the network runs, or None: its own.
        rank: Number of this process, from 0.
        world: How many processes there are.
        data_order: The generator that permutes the data; it draws nothing else, and nothing else draws from it.
    """

    device: torch.device
    dtype: torch.dtype
    autocast: torch.dtype | None
    rank: int
    world: int
    data_order: torch.Generator

    def restart(self, seed: int) -> AbstractContextManager[None]:
        """Seeds torch's generator, which draws the noise, and that of the data's order; afterwards all is as before."""

    def setup(self, objective: nn.Module, optimizer: Optimizer) -> None:
        """Makes objective and optimizer ready, IN PLACE, each time that they are made: the same in all processes."""

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients of a plain step; of several processes, which step plainly, their mean."""

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""

    def agreed(self, decision: T) -> T:
        """The decision of the first process, which all others take: to stop, say."""


class OneProcess:
    """One process on one device, the default; see `Runtime`.

    Args:
        device: Where.
        dtype: dtype of parameters and of floating-point data.
        autocast: dtype in which the network runs, or None (default) for its own.
    """

    rank, world = 0, 1

    def __init__(self, device: torch.device, dtype: torch.dtype, autocast: torch.dtype | None = None) -> None:
        self.device, self.dtype, self.autocast = device, dtype, autocast
        self.data_order = torch.Generator()

    @contextmanager
    def restart(self, seed: int) -> Iterator[None]:
        """See `Runtime.restart`."""
        devices = [self.device] if self.device.type == "cuda" else []
        with flushed_denormals(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            self.data_order.manual_seed(_seed_of_order(seed))
            yield

    def setup(self, objective: nn.Module, optimizer: Optimizer) -> None:
        """Nothing is to be done."""

    def backward(self, loss: Tensor) -> None:
        """By autograd."""
        loss.backward()

    def mean(self, value: Tensor) -> Tensor:
        """The tensor itself."""
        return value

    def agreed(self, decision: T) -> T:
        """The decision itself."""
        return decision


def _seed_of_order(seed: int) -> int:
    """A seed for the order of the data: the noise's own would give the two generators the same numbers."""
    digest = hashlib.blake2b(f"order of the data, seed {seed}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2
