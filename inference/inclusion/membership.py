"""Probability that a weight belongs to the slab of its mixture prior, from draws of the weight alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bayesprune.inference.fit_result import Fit
from bayesprune.models.language.tensor_prior import TensorPrior


def log_odds_at(prior: TensorPrior, values: dict[str, Tensor]) -> Tensor:
    """Log odds of the slab at one draw, `(out, in, ...)`.

    Args:
        prior: A prior whose event is `slab_membership`.
        values: Values by name of site.
    """
    return prior.membership_log_odds({latent: values[site.name] for latent, site in prior.sites.items()})


def membership_log_odds(fit: Fit, restart: int = 0, draws: int = 200) -> dict[str, Tensor]:
    """Log odds of the posterior probability E_q(w)[p(slab | w)] of every weight whose event is `slab_membership`.

    Logarithms of p and of 1 - p are averaged apart, so that probabilities which round to 1 keep their order.

    Args:
        fit: The fit.
        restart: Which restart; default the first.
        draws: Draws of the weights; default 200 (one for a MAP, at whose point the probability is taken).

    Returns:
        Nats by name of tensor, `(out, in, ...)`, float64, on the CPU; their sigmoid is the probability.
    """
    one = fit.restarts[restart]
    asked = [prior for prior in one.model.priors.values() if _is_membership(prior)]
    if not asked:
        return {}
    inside: dict[str, Tensor] = {}
    outside: dict[str, Tensor] = {}

    def add(draw: dict[str, Tensor]) -> None:
        for prior in asked:
            odds = log_odds_at(prior, draw).double().cpu()
            nothing = torch.full_like(odds, -torch.inf)
            inside[prior.name] = torch.logaddexp(inside.get(prior.name, nothing), logsigmoid(odds))
            outside[prior.name] = torch.logaddexp(outside.get(prior.name, nothing), logsigmoid(-odds))

    fit.map_draws(add, 1 if one.guide.is_map else draws, restart)
    return {name: inside[name] - outside[name] for name in inside}


def _is_membership(prior: TensorPrior) -> bool:
    event = prior.hierarchy.included
    return event is not None and event.kind == "membership"
