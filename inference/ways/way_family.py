"""Guides of ways: q over what lies between drawn weights and the network, such as gates on its units.

A way that draws nothing (a mask) has none. One that does registers the class of its guide (`@way_family`); `Guide`
makes one for every way of its model that has one, under the way's name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bayesprune.models.ways.way import Way

__all__ = ["WayFamily", "family_of_way", "way_family"]


class WayFamily(nn.Module):
    """Base of guides of ways; called without arguments, it runs as Pyro statements and returns values by site.

    Args:
        way: The way.
        like: A tensor whose dtype and device the guide's have.

    Attributes:
        why_no_elbo: Why the objective is no bound on the evidence, a sentence without its stop; default empty: it is.
    """

    why_no_elbo: str = ""

    def __init__(self, way: Way, like: Tensor) -> None:
        super().__init__()

    def family_of(self) -> dict[str, str]:
        """The name of the guide family of each of its sites, by site."""
        raise NotImplementedError(f"{type(self).__name__} does not name the families of its sites: define family_of")

    def is_certain(self) -> bool:
        """Whether all its draws are the same."""
        return False

    def forward(self) -> dict[str, Tensor]:
        """Draws every site by `pyro.sample`; returns the values by site."""
        raise NotImplementedError(f"{type(self).__name__} has no Pyro statements: define forward")

    def sample(self) -> dict[str, Tensor]:
        """One draw of the way's `sets`, by site, without gradients and without Pyro."""
        raise NotImplementedError(f"{type(self).__name__} cannot be drawn from: define sample")

    def probabilities(self) -> dict[str, Tensor]:
        """Probabilities of ones, by site, `(count,)`, without gradients: the means of what is drawn."""
        raise NotImplementedError(f"{type(self).__name__} has no probabilities: define probabilities")

    @torch.no_grad()
    def decided(self, threshold: float) -> dict[str, Tensor]:
        """Ones where the probability exceeds a threshold, else zeros, by site: at 1/2 the most probable values."""
        return {site: (value > threshold).to(value.dtype) for site, value in self.probabilities().items()}

    def tensors_closed(self, threshold: float) -> tuple[str, ...]:
        """Names of the network's tensors that are zero as a whole where probabilities up to a threshold are zeros.

        Those alone that stand for what closes as one thing, such as the scale of a residual branch; default: none.
        """
        return ()


Kind = TypeVar("Kind", bound=type[WayFamily])

_FAMILIES: dict[type[Way], Callable[[Any, Tensor], WayFamily]] = {}


def way_family(way: type[Way]) -> Callable[[Kind], Kind]:
    """Decorator: registers the class of the guide of a way and of what derives from it.

    Args:
        way: The class of the way.
    """

    def register(kind: Kind) -> Kind:
        _FAMILIES[way] = kind
        return kind

    return register


def family_of_way(way: Way, like: Tensor) -> list[WayFamily]:
    """The guide of a way, made for it; none where it draws nothing.

    Args:
        way: The way.
        like: A tensor whose dtype and device the guide's have.

    Raises:
        ValueError: If it draws something and no guide is registered.
    """
    made = [_FAMILIES[kind](way, like) for kind in type(way).__mro__ if kind in _FAMILIES]
    if way.sets and not made:
        raise ValueError(
            f"{type(way).__name__} draws {', '.join(way.sets)}, for which there is no guide: register a WayFamily by "
            f"@way_family({type(way).__name__})"
        )
    return made[:1]
