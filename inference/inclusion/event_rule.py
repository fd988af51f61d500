"""Event rules: what a fit makes of an inclusion event. One rule a class of event, registered beside its computation.

@event_rule(ShrinkageBelow)
class ShrinkageRule(EventRule):
def included(self, one, prior, values, weight): ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from bayesprune.inference.fitted import Fitted
from bayesprune.inference.restart import Restart
from bayesprune.models.language.inclusion import InclusionEvent
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = ["EventRule", "event_rule", "registered_rule"]


class EventRule:
    """Base of the rules: an event that is looked at in every draw, and that a point has no probability of.

    Attributes:
        of_point: Whether it has a probability where the guide holds the weights as points.
        meaning: What its probability is not, in a sentence, where the name promises more than it is.
        ranks_by_default: Whether pruning to a sparsity ranks by `criterion` where nothing else is asked for.
        criterion: Name of the criterion that it then ranks by; default that of inclusion probabilities.
    """

    of_point: ClassVar[bool] = False
    meaning: ClassVar[str | None] = None
    ranks_by_default: ClassVar[bool] = False
    criterion: ClassVar[str] = "inclusion"

    def included(self, one: Restart, prior: TensorPrior, values: dict[str, Tensor], weight: Tensor) -> Tensor:
        """Which weights are included at a draw; drawn itself where the event has a probability given the draw.

        Args:
            one: The restart.
            prior: A prior with such an event.
            values: The draw, by name of site.
            weight: The weights at it, `(out, in, ...)`.

        Returns:
            Booleans, `(out, in, ...)`.

        Raises:
            ValueError: If it cannot be evaluated for this prior or fit.
        """
        raise NotImplementedError

    def probabilities(self, fit: Fitted, restart: int, priors: list[TensorPrior], draws: int) -> dict[str, Tensor]:
        """Posterior probabilities by name of tensor, `(out, in, ...)`, of those that need no draws of `included`.

        Default: none, so that all of them are counted over draws.
        """
        return {}

    def log_odds(self, fit: Fitted, restart: int, priors: list[TensorPrior]) -> dict[str, Tensor] | None:
        """Their log odds, which keep an order where probabilities round to 1; None (default) where it has none."""
        return None

    def deployed(self, one: Restart, prior: TensorPrior) -> Tensor | None:
        """E[weight | included], `(out, in, ...)`, which pruned networks have; default None: that at the guide's centre.

        Args:
            one: The restart.
            prior: A prior with such an event.
        """
        return None

    def is_left_to_units(self, one: Restart, prior: TensorPrior) -> bool:
        """Whether in a model with gates of units these alone decide: its weights are points and have no probability."""
        return one.guide.are_points(prior)

    def stated(self, one: Restart, prior: TensorPrior) -> InclusionEvent:
        """The event as results print it."""
        event = prior.hierarchy.included
        assert event is not None
        return event


_RULES: dict[type[InclusionEvent], EventRule] = {}


def event_rule(event: type[InclusionEvent]) -> Callable[[type[EventRule]], type[EventRule]]:
    """Registers a rule for a class of events, and for those derived from it that have none of their own."""

    def register(rule: type[EventRule]) -> type[EventRule]:
        _RULES[event] = rule()
        return rule

    return register


def registered_rule(event: InclusionEvent) -> EventRule:
    """The rule of an event: that of its class, or of the nearest class above.

    Raises:
        ValueError: If there is none.
    """
    for kind in type(event).__mro__:
        if kind in _RULES:
            return _RULES[kind]
    raise ValueError(
        f"{type(event).__name__} has no rule for fits: register one by @event_rule({type(event).__name__})"
    )
