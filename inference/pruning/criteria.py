"""Criteria: the extension point ``criterion(fit, restart) -> score per weight`` that says what pruning keeps.

A criterion returns one tensor a parameter tensor, of its shape (for units one number a channel, the contract of
Torch-Pruning's importances); the higher, the sooner it is kept. One that has parameters `data` or `seed` is given those
of `prune`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bayesprune.inference.data.batches import Data
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.beyond_threshold import beyond_of
from bayesprune.inference.guides.factors import NormalFactor
from bayesprune.inference.guides.left_in import included_weights, left_in
from bayesprune.inference.guides.truncated_lognormal import TruncatedLogNormalFactor
from bayesprune.inference.inclusion.events import rule_of
from bayesprune.inference.inclusion.reduction import reduction
from bayesprune.inference.pruning.masks import masked_network
from bayesprune.inference.pruning.plain_criteria import PLAIN_CRITERIA, PlainNetwork
from bayesprune.models.language.latent import WEIGHT

Criterion = Callable[..., dict[str, Tensor]]


def scores_of(criterion: Criterion, fit: Any, restart: int, data: Data | None, seed: int) -> dict[str, Tensor]:
    """What a criterion says of a fit, on the CPU.

    Args:
        criterion: The criterion.
        fit: The fit, or what else it takes.
        restart: Which restart.
        data: Given to criteria that have a parameter of this name; None: what the fit keeps.
        seed: The same.
    """
    try:
        known = inspect.signature(criterion).parameters
    except (TypeError, ValueError):  # callables of other languages do not say what they take
        known = {}  # type: ignore[assignment]
    more = {name: value for name, value in (("data", data), ("seed", seed)) if name in known}
    return {name: score.detach().cpu() for name, score in criterion(fit, restart, **more).items()}


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


def at_random(fit: Fit, restart: int = 0, seed: int = 0) -> dict[str, Tensor]:
    """Uniform numbers of a seed: a control that every criterion has to beat."""
    return _of_plain("random", fit, restart, None, seed)


def optimal_brain_damage(fit: Fit, restart: int = 0, data: Data | None = None) -> dict[str, Tensor]:
    """1/2 w^2 d^2 loss / dw^2 of the mean negative log-likelihood, in nats an example (LeCun, Denker & Solla 1990).

    Of the network as the fit leaves it; the curvature is exact, on `data` or the examples that the fit keeps.

    Raises:
        ValueError: If there are no examples.
    """
    return _of_plain("optimal-brain-damage", fit, restart, fit.examples if data is None else data)


def deletion(fit: Fit, restart: int = 0, data: Data | None = None) -> dict[str, Tensor]:
    """What the mean negative log-likelihood is predicted to rise by without the weight, in nats an example.

    Of the network as the fit leaves it, from the slope and the curvature of a gate on each weight, on `data` or the
    examples that the fit keeps. Of units, inputs and blocks, at other networks, and averaged over draws:
    `bayesprune.deletion_scores`, whose result is a criterion too.

    Raises:
        ValueError: If there are no examples.
    """
    return _of_plain("deletion", fit, restart, fit.examples if data is None else data)


def _of_plain(name: str, fit: Fit, restart: int, data: Data | None = None, seed: int = 0) -> dict[str, Tensor]:
    """A criterion of plain networks; what the fit has left out scores below all else."""
    one = fit.restart(restart)
    active = {tensor: there.cpu() for tensor, there in left_in(one.guide).items()}
    network = masked_network(one.model.network, fit.included_weights(restart), active)
    with torch.no_grad():
        for tensor in (closed for q in one.guide.ways.values() for closed in q.tensors_closed(0.5)):
            network.get_parameter(tensor).zero_()
    likelihood = copy.deepcopy(one.model.likelihood).cpu()
    scores = PLAIN_CRITERIA[name](PlainNetwork(network, active, likelihood, data, seed))
    lowest = min(float(score.min()) for score in scores.values()) - 1.0
    return {tensor: torch.where(active[tensor], score, lowest) for tensor, score in scores.items()}


CRITERIA: dict[str, Criterion] = {
    "inclusion": inclusion,
    "magnitude": magnitude,
    "signal-to-noise": signal_to_noise,
    "sign": sign,
    "dropout-rate": dropout_rate,
    "reduction": reduction,
    "random": at_random,
    "optimal-brain-damage": optimal_brain_damage,
    "deletion": deletion,
}
