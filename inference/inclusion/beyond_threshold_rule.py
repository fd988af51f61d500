"""Probability that a weight exceeds a learned threshold: that it is not exactly zero."""

from __future__ import annotations

from torch import Tensor

from bayesprune.inference.fitted import Fitted
from bayesprune.inference.guides.beyond_threshold import beyond_of, mean_of_included
from bayesprune.inference.inclusion.event_rule import EventRule, event_rule
from bayesprune.inference.restart import Restart
from bayesprune.models.language.inclusion import BeyondThreshold
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = ["BeyondThresholdRule"]


@event_rule(BeyondThreshold)
class BeyondThresholdRule(EventRule):
    """Of soft thresholds, P(|raw| > threshold): of points zero or one, of Normals in closed form or by quadrature.

    It is closed form where raw is a Normal under the guide and what the threshold is made of are points, and a
    quadrature where that is one Normal or LogNormal: see `bayesprune.inference.guides.beyond_threshold`. Where the
    guide holds raw by another family, or the threshold depends on several latents that are no points, the weights that
    are not zero are counted over draws, and there are no log odds.
    """

    of_point = True
    ranks_by_default = True
    criterion = "sign"
    meaning = (
        "the probability of a soft threshold is that of a weight other than zero, of either sign: a wide posterior "
        "around zero exceeds a small threshold too, so that it is high where the data are silent and the threshold low"
    )

    def included(self, one: Restart, prior: TensorPrior, values: dict[str, Tensor], weight: Tensor) -> Tensor:
        """Where the drawn weight is not zero."""
        return weight != 0

    def probabilities(self, fit: Fitted, restart: int, priors: list[TensorPrior], draws: int) -> dict[str, Tensor]:
        """Zeros and ones of points, closed forms and quadratures of Normals; others are counted over draws."""
        one = fit.restart(restart)
        found: dict[str, Tensor] = {}
        points = [prior for prior in priors if one.guide.are_points(prior)]
        weights = one.model.ungated_weights_at(one.guide.means()) if points else {}
        for prior in priors:
            if prior in points:
                found[prior.name] = (weights[prior.name] != 0).to(weights[prior.name].dtype)
            elif (known := beyond_of(one.guide, prior)) is not None:
                found[prior.name] = known.probability
        return found

    def log_odds(self, fit: Fitted, restart: int, priors: list[TensorPrior]) -> dict[str, Tensor] | None:
        """Log odds by closed form or quadrature, float64; None where a tensor has points or is counted over draws."""
        one = fit.restart(restart)
        known = {prior.name: beyond_of(one.guide, prior) for prior in priors}
        found = {name: value.log_odds for name, value in known.items() if value is not None}
        return found if len(found) == len(priors) else None

    def is_left_to_units(self, one: Restart, prior: TensorPrior) -> bool:
        """Never: a point below its threshold is zero, whatever the gates of units say."""
        return False

    def deployed(self, one: Restart, prior: TensorPrior) -> Tensor | None:
        """E[weight | included] under the Normal, of soft-thresholded weights: the centre's are nearer to zero."""
        return mean_of_included(one.guide, prior)
