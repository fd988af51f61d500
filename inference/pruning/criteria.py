"""Criteria: the extension point ``criterion(fit, restart) -> score per weight`` that says what pruning keeps.

A criterion returns one tensor a parameter tensor, of its shape (for units one number a channel, the contract of
Torch-Pruning's importances); the higher, the sooner it is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.beyond_threshold import beyond_of
from bayesprune.inference.guides.factors import NormalFactor
from bayesprune.inference.guides.left_in import included_weights
from bayesprune.inference.guides.truncated_lognormal import TruncatedLogNormalFactor
from bayesprune.inference.inclusion.events import rule_of
from bayesprune.inference.inclusion.reduction import reduction
from bayesprune.models.language.latent import WEIGHT

Criterion = Callable[[Fit, int], dict[str, Tensor]]


def inclusion(fit: Fit, restart: int = 0) -> dict[str, Tensor]:
    """Posterior inclusion probability.

    Log odds for gates, membership and reduction, so that probabilities which round to 1 keep their order.
    """
    one = fit.restarts[restart]
    priors = list(one.model.priors.values())
    if all(prior.hierarchy.included is not None for prior in priors) and len({rule_of(prior) for prior in priors}) == 1:
        found = rule_of(priors[0]).log_odds(fit, restart, priors)
        if found is not None:
            return found
    probabilities = fit.inclusion_probabilities(restart)
    return {str(name): torch.as_tensor(value.values) for name, value in probabilities.items()}


def magnitude(fit: Fit, restart: int = 0) -> dict[str, Tensor]:
    """|E[weight | included]| at the guide's locations; what HALO and magnitude pruning rank by.

    Of soft thresholds under Normals it is the size of the weight's median: what exceeds a threshold by chance is of no
    size.
    """
    return {name: weight.abs() for name, weight in included_weights(fit.restart(restart).guide).items()}


def signal_to_noise(fit: Fit, restart: int = 0, draws: int = 100) -> dict[str, Tensor]:
    """|mean| / sd of the weight over draws of the posterior (Graves 2011; Blundell et al. 2015)."""
    if fit.restarts[restart].guide.is_map:
        raise ValueError("this fit is a MAP: points have no noise to compare with; use criterion='magnitude'")
    scores = {}
    for name, weights in fit.draws(draws, restart, sites=fit.model.priors.__contains__).items():
        scores[name] = weights.mean(dim=0).abs() / weights.std(dim=0).clamp_min(1e-30)
    return scores


def sign(fit: Fit, restart: int = 0, draws: int = 200) -> dict[str, Tensor]:
    """The larger of P(weight > 0) and P(weight < 0); its log odds where they are closed form (soft thresholds).

    An inclusion probability counts both signs: what is wide around zero exceeds a threshold as well, and is of no use.
    It is one less the local false sign rate (Stephens 2017), and above 1/2 where the posterior's median is not zero:
    what `left_in` leaves of soft thresholds.
    """
    one = fit.restart(restart)
    if one.guide.is_map:
        raise ValueError("this fit is a MAP: the signs of points are certain; use criterion='magnitude'")
    known = {name: beyond_of(one.guide, prior, of_sign=True) for name, prior in one.model.priors.items()}
    found = {name: value.log_odds for name, value in known.items() if value is not None}
    if len(found) == len(known):
        return found
    drawn = fit.draws(draws, restart, sites=one.model.priors.__contains__)
    return {n: torch.maximum((w > 0).float().mean(dim=0), (w < 0).float().mean(dim=0)) for n, w in drawn.items()}


@torch.no_grad()
def dropout_rate(fit: Fit, restart: int = 0) -> dict[str, Tensor]:
    """Minus log alpha = log(mean^2 / variance) of the multiplicative noise, under q; spread over the group's weights.

    Of the weight itself for sparse variational dropout, else of the group's noise (its signal-to-noise ratio squared).

    Raises:
        ValueError: For a prior without such noise, or one whose noise has another guide than its own.
    """
    one = fit.restarts[restart]
    device = next(one.guide.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        factors = one.guide.draw()
    scores = {}
    for name, prior in one.model.priors.items():
        latent = prior.hierarchy.noise
        factor = None if latent is None else factors[prior.sites[latent].name]
        if type(factor) is NormalFactor:
            size = factor.location.abs().clamp_min(torch.finfo(factor.location.dtype).tiny)
            score = 2.0 * (size.log() - factor.log_scale)
        elif isinstance(factor, TruncatedLogNormalFactor):
            score = factor.distribution().log_signal_to_noise
        else:
            raise ValueError(
                f"the prior on {name} has no multiplicative noise with a dropout rate: rank by another criterion, "
                "e.g. 'inclusion' or 'magnitude'"
            )
        scores[name] = score if latent == WEIGHT else prior.spread(str(latent), score)
    return scores


CRITERIA: dict[str, Criterion] = {
    "inclusion": inclusion,
    "magnitude": magnitude,
    "signal-to-noise": signal_to_noise,
    "sign": sign,
    "dropout-rate": dropout_rate,
    "reduction": reduction,
}
