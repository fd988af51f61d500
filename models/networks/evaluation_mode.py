"""Evaluation mode for a while, or for as long as the user wants: modules keep the modes that they were given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["begin_training", "evaluation_mode", "held_in_evaluation", "remember_held"]

HELD = "_held_in_evaluation_mode"
"""Attribute of a module that the user held in evaluation mode when its network was trained."""


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


def held_in_evaluation(network: nn.Module) -> list[nn.Module]:
    """Modules that the user holds in evaluation mode, such as frozen batch normalisation.

    Of a network in training mode these are the modules that are not. Of one in evaluation mode they are those that it
    held when it was last trained (see `remember_held`), or none: a network that is in evaluation mode as a whole is
    trained as a whole. `network.train()` lets all go.
    """
    if network.training:
        return [module for module in network.modules() if not module.training]
    return [module for module in network.modules() if HELD in module.__dict__]


def remember_held(network: nn.Module) -> list[nn.Module]:
    """Marks the modules that a network holds, so that they are known once it is in evaluation mode; returns them."""
    held = held_in_evaluation(network)
    for module in network.modules():
        module.__dict__.pop(HELD, None)
    for module in held:
        module.__dict__[HELD] = True
    return held


def begin_training(network: nn.Module, *others: nn.Module) -> None:
    """Puts a network in training mode, IN PLACE, but for the modules that it holds in evaluation mode, which it marks.

    Args:
        network: The network.
        others: Modules that are put in training mode with it; the network may be inside of them.
    """
    held = remember_held(network)
    for module in (network, *others):
        module.train()
    for module in held:
        module.training = False
