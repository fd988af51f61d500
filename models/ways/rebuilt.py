"""Ways that a file can name: they are made again from what they were declared by, without code of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from bayesprune.models.ways.way import Way

__all__ = ["is_rebuilt", "rebuilt", "rebuilt_way"]

W = TypeVar("W", bound=type[Way])
Maker = Callable[[Mapping[str, Any], nn.Module], Way]

_MAKERS: dict[str, Maker] = {}


def rebuilt(maker: Callable[[W], Maker]) -> Callable[[W], W]:
    """Decorates a way that is made again from its `config`, such as one that a rule of training has added to a model.

    Args:
        maker: From the class, what makes one of a config and a network; its tensors are read from the file afterwards.
    """

    def register(kind: W) -> W:
        _MAKERS[kind.name] = maker(kind)
        return kind

    return register


def is_rebuilt(name: str) -> bool:
    """Whether ways of this name are made again by themselves."""
    return name in _MAKERS


def rebuilt_way(name: str, config: Any, network: nn.Module) -> Way:
    """A way as it was declared, of a network, with whatever values.

    Args:
        name: Its name.
        config: Its `Way.config`, as a file has it, whoever wrote it.
        network: The network.

    Raises:
        ValueError: In one sentence, if the config is none of such a way, or not of this network.
    """
    if name not in _MAKERS or not isinstance(config, Mapping):
        raise ValueError(f"{name!r} between weights and network is not what a file can say")
    return _MAKERS[name](config, network)
