"""Probability that a weight belongs to the slab of its mixture prior, from draws of the weight alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bayesprune.inference.fitted import Fitted
from bayesprune.inference.inclusion.event_rule import EventRule, event_rule
from bayesprune.inference.restart import Restart
from bayesprune.models.language.inclusion import SlabMembership
from bayesprune.models.language.tensor_prior import TensorPrior


def log_odds_at(prior: TensorPrior, values: dict[str, Tensor]) -> Tensor:
    """Log odds of the slab at one draw, `(out, in, ...)`.

    Args:
        prior: A prior whose event is `slab_membership`.
        values: Values by name of site.
    """
    return prior.membership_log_odds({latent: values[site.name] for latent, site in prior.sites.items()})


def membership_log_odds(
    fit: Fitted, restart: int = 0, draws: int = 200, priors: Sequence[TensorPrior] | None = None
) -> dict[str, Tensor]:
    """Log odds of the posterior probability E_q(w)[p(slab | w)] of every weight whose event is `slab_membership`.

    Logarithms of p and of 1 - p are averaged apart, so that probabilities which round to 1 keep their order.

    Args:
        fit: The fit.
        restart: Which restart; default the first.
        draws: Draws of the weights; default 200 (one for a MAP, at whose point the probability is taken).
        priors: Of which tensors; default all whose event it is.

    Returns:
        Nats by name of tensor, `(out, in, ...)`, float64, on the CPU; their sigmoid is the probability.
    """
    one = fit.restart(restart)
    every = list(one.model.priors.values()) if priors is None else priors
    asked = [prior for prior in every if isinstance(prior.hierarchy.included, SlabMembership)]
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


@event_rule(SlabMembership)
class MembershipRule(EventRule):
    """Of mixtures: probabilities given the weight, averaged over draws of it; a point has one too."""

    of_point = True

    def included(self, one: Restart, prior: TensorPrior, values: dict[str, Tensor], weight: Tensor) -> Tensor:
        """Drawn with the probability that the drawn weight has."""
        return torch.bernoulli(log_odds_at(prior, values).sigmoid()).bool()

    def probabilities(self, fit: Fitted, restart: int, priors: list[TensorPrior], draws: int) -> dict[str, Tensor]:
        """The mean of those probabilities over draws."""
        return {name: odds.sigmoid() for name, odds in membership_log_odds(fit, restart, draws, priors).items()}

    def log_odds(self, fit: Fitted, restart: int, priors: list[TensorPrior]) -> dict[str, Tensor] | None:
        """See `membership_log_odds`."""
        return membership_log_odds(fit, restart, priors=priors)

    def is_left_to_units(self, one: Restart, prior: TensorPrior) -> bool:
        """Never: it has a probability of its own."""
        return False
