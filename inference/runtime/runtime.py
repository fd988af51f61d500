"""Runtime: where a fit runs, and with what random numbers; the one seam for more processes than one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["Runtime"]

T = TypeVar("T")


class Runtime(Protocol):
    """What a fit asks of the place in which it runs; the extension point for many processes.

    Of several processes each takes its share of every batch (`Share`), and all hold the same parameters.

    Attributes:
        device: Where tensors are.
        dtype: dtype of parameters and of floating-point data.
        autocast: dtype in which the network runs, or None: its own.
        rank: Number of this process, from 0.
        world: How many processes there are.
        data_order: The generator that permutes the data; it draws nothing else, and nothing else draws from it. All
            processes have the same.
        plain: Why steps have to be plain, as the end of a sentence; empty: they may be fused.
    """

    device: torch.device
    dtype: torch.dtype
    autocast: torch.dtype | None
    rank: int
    world: int
    data_order: torch.Generator
    plain: str

    def restart(self, seed: int) -> AbstractContextManager[None]:
        """Seeds torch's generator and that of the data's order; afterwards all is as before.

        What draws from torch's generator outside of `noise`, such as starting values and rules, draws the same numbers
        in all processes.
        """

    def noise(self, step: int) -> AbstractContextManager[None]:
        """Where a process computes its loss and gradient of the step of this number, from 0: with numbers of its own.

        Afterwards torch's generator is as it was before.
        """

    def setup(self, objective: nn.Module, optimizer: Optimizer) -> None:
        """Makes objective and optimizer ready, IN PLACE, each time that they are made: the same in all processes."""

    def level(self, objective: nn.Module) -> None:
        """Makes parameters and buffers the same in all processes, IN PLACE: after an epoch, and after rules' changes.

        They are those of the first process; running statistics of batch normalisation are the mean over all.
        """

    def reduce(self, tensors: Sequence[Tensor], numbers: Tensor, weight: float = 1.0) -> Tensor:
        """Makes gradients, IN PLACE in ``.grad``, their mean over all processes; returns that of numbers.

        Args:
            tensors: In the same order in all processes; one whose ``.grad`` is None counts as zero, and stays without
                one only where it has none in any process.
            numbers: A vector of the gradients' dtype that goes with them.
            weight: Factor on the gradients of this process; the weights of all have mean 1. Default 1.
        """

    def agreed(self, decision: T) -> T:
        """The decision of the first process, which all others take: to stop, say. Anything that can be pickled."""

    def expect_same(self, facts: Mapping[str, str]) -> None:
        """Refuses processes that do not fit the same.

        Args:
            facts: What has to be the same in all, by name.

        Raises:
            ValueError: In all processes, if one differs.
        """
