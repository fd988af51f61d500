"""Probability that a weight exceeds a learned threshold: that it is not exactly zero."""

from __future__ import annotations

from torch import Tensor

from bayesprune.inference.fitted import Fitted
from bayesprune.inference.inclusion.event_rule import EventRule, event_rule
from bayesprune.inference.restart import Restart
from bayesprune.models.language.inclusion import BeyondThreshold
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = ["BeyondThresholdRule"]


@event_rule(BeyondThreshold)
class BeyondThresholdRule(EventRule):
    """Of soft thresholds: a point has a probability too, zero or one."""

    of_point = True

    def included(self, one: Restart, prior: TensorPrior, values: dict[str, Tensor], weight: Tensor) -> Tensor:
        """Where the drawn weight is not zero."""
        return weight != 0

    def probabilities(self, fit: Fitted, restart: int, priors: list[TensorPrior], draws: int) -> dict[str, Tensor]:
        """Zeros and ones of points; others are counted over draws."""
        one = fit.restart(restart)
        points = [prior for prior in priors if one.guide.are_points(prior)]
        weights = one.model.ungated_weights_at(one.guide.means()) if points else {}
        return {prior.name: (weights[prior.name] != 0).to(weights[prior.name].dtype) for prior in points}
