"""Expectations: how the data term is averaged over what the guide's draw leaves open, such as gates of units.

The extension point ``Expectation``. A way that needs more than one run of the network at the guide's draw registers its
own (`@way_expectation`); all other models take `Once`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor

from bayesprune.inference.guides.guide import Guide
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.ways.way import Way

__all__ = ["Expectation", "Expected", "Nll", "Once", "expectation_for", "way_expectation"]

Nll = Callable[[Mapping[str, Tensor]], Tensor]
"""Values of what ways draw, by site, to the negative log-likelihood of each example in nats, `(batch,)`, differentiable
in weights and values. The first call moves the statistics of batch normalisation; later ones may be under
`torch.func.vmap`."""


@dataclass(frozen=True)
class Expected:
    """What an expectation comes to, in full-data nats.

    Attributes:
        nll: A scalar: its value estimates the expected negative log-likelihood of all the data, its gradient the
            gradient of that.
        terms: Further parts of the KL term by name, scalars; default none.
    """

    nll: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)


class Expectation(Protocol):
    """Averages the data term of one draw of the guide."""

    def __call__(self, nll: Nll, batch: int, data_size: int) -> Expected:
        """Returns the estimate of one step.

        Args:
            nll: The negative log-likelihood of each example of the batch.
            batch: Number of examples.
            data_size: Number of all the data.
        """


@dataclass(frozen=True)
class Once:
    """One run of the network at the guide's draw, ways open: there is nothing else to average over."""

    def __call__(self, nll: Nll, batch: int, data_size: int) -> Expected:
        """Returns the estimate of one step."""
        return Expected(nll({}).sum() * (data_size / batch))


Maker = TypeVar("Maker", bound=Callable[..., Expectation])

_MAKERS: dict[type[Way], Callable[[Any, BayesianNetwork, Guide], Expectation]] = {}


def way_expectation(way: type[Way]) -> Callable[[Maker], Maker]:
    """Decorator: registers ``make(way, model, guide) -> Expectation`` for a way and what derives from it.

    Args:
        way: The class of the way.
    """

    def register(make: Maker) -> Maker:
        _MAKERS[way] = make
        return make

    return register


def expectation_for(model: BayesianNetwork, guide: Guide) -> Expectation:
    """The expectation that a model's ways ask for; `Once` where none does.

    Args:
        model: The model.
        guide: Its guide.

    Raises:
        ValueError: If two ways ask for one.
    """
    asking = [
        (way, next(kind for kind in type(way).__mro__ if kind in _MAKERS))
        for way in model.ways
        if any(kind in _MAKERS for kind in type(way).__mro__)
    ]
    if len(asking) > 1:
        names = " and ".join(type(way).__name__ for way, _ in asking)
        raise ValueError(f"{names} each average the data term in their own way: declare one of them")
    return _MAKERS[asking[0][1]](asking[0][0], model, guide) if asking else Once()
