"""Rules of the events that need no computation of their own: exact zeros, shrinkage and relative thresholds."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from bayesprune.inference.fitted import Fitted
from bayesprune.inference.inclusion.event_rule import EventRule, event_rule
from bayesprune.inference.posterior.shrinkage import shrinkage_at, shrinkage_form
from bayesprune.inference.restart import Restart
from bayesprune.models.language.inclusion import ExactZero, InclusionEvent, RelativeThreshold, ShrinkageBelow
from bayesprune.models.language.scale_mixture import is_scale_mixture
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = ["ExactZeroRule", "RelativeRule", "ShrinkageRule"]


@event_rule(ExactZero)
class ExactZeroRule(EventRule):
    """Of weights that are exactly zero: by the guide's gates where there are any, else by draws."""

    ranks_by_default = True

    def included(self, one: Restart, prior: TensorPrior, values: dict[str, Tensor], weight: Tensor) -> Tensor:
        """Where the drawn weight is not zero."""
        return weight != 0

    def probabilities(self, fit: Fitted, restart: int, priors: list[TensorPrior], draws: int) -> dict[str, Tensor]:
        """Those that the guide has for the gates, of priors that name theirs."""
        closed = fit.restart(restart).guide.inclusion()
        return {prior.name: prior.spread(gate, closed[prior.sites[gate].name]) for prior, gate in _gated(priors)}

    def log_odds(self, fit: Fitted, restart: int, priors: list[TensorPrior]) -> dict[str, Tensor] | None:
        """The guide's, where every prior names its gate."""
        gated = _gated(priors)
        if len(gated) < len(priors):
            return None
        found = fit.restart(restart).guide.log_odds()
        return {prior.name: prior.spread(gate, found[prior.sites[gate].name]) for prior, gate in gated}

    def is_left_to_units(self, one: Restart, prior: TensorPrior) -> bool:
        """Where it has no gate of its own: the weights are never zero by themselves."""
        event = prior.hierarchy.included
        return event is not None and event.gate is None


def _gated(priors: list[TensorPrior]) -> list[tuple[TensorPrior, str]]:
    """The priors whose event names a gate, with its name."""
    found = [(prior, prior.hierarchy.included) for prior in priors]
    return [(prior, event.gate) for prior, event in found if event is not None and event.gate is not None]


@event_rule(ShrinkageBelow)
class ShrinkageRule(EventRule):
    """Of scale mixtures: by their shrinkage factors at draws of the scales."""

    meaning = (
        "a shrinkage probability is that of a shrinkage factor below the threshold, where the data and not the prior "
        "decide a weight, and not that of a weight other than zero: no weight is zero under this prior"
    )

    def included(self, one: Restart, prior: TensorPrior, values: dict[str, Tensor], weight: Tensor) -> Tensor:
        """Where the factor is below the threshold."""
        if not is_scale_mixture(prior):
            raise ValueError(f"the prior on {prior.name} is no scale mixture: use another event")
        event = prior.hierarchy.included
        assert isinstance(event, ShrinkageBelow)
        return shrinkage_at(one, prior, values) < event.threshold

    def stated(self, one: Restart, prior: TensorPrior) -> InclusionEvent:
        """The event with the form of the factor that it has in this fit."""
        event = super().stated(one, prior)
        assert isinstance(event, ShrinkageBelow)
        return replace(event, by=shrinkage_form(one, prior)) if is_scale_mixture(prior) else event


@event_rule(RelativeThreshold)
class RelativeRule(EventRule):
    """Of large weights: by draws of them."""

    def included(self, one: Restart, prior: TensorPrior, values: dict[str, Tensor], weight: Tensor) -> Tensor:
        """Where the drawn weight exceeds the share."""
        event = prior.hierarchy.included
        assert isinstance(event, RelativeThreshold)
        return event.holds(weight)
