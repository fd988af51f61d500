"""Evaluation mode for a while: every module of a network gets its own mode back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluation_mode"]


@contextmanager
def evaluation_mode(*networks: nn.Module) -> Iterator[None]:
    """Puts networks in evaluation mode and, at the end or on an error, each module back in the mode it was in.

    Modules may be in different modes, as where batch normalisation is held in evaluation mode during training.

    Args:
        networks: The networks; nothing else of them is touched.
    """
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode
