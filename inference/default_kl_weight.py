"""The weight of the KL term of a fit that was told none, and the share of its steps over which it rises to that.

1 is the ELBO, whose optimum is the nearest approximation of the posterior. Mean-field posteriors of whole networks with
fewer data than that go wrong at 1 (they explain the data badly and leave most weights at the prior: docs/kl_weight.md),
so that the rule tempers them, and only them. A term that is there in full at the start makes a network nothing before
the data can make it something: 50,000 dense weights cost more nats than the data are worth.
"""

from __future__ import annotations

import math

from bayesprune.inference.guides import Guide, GuideChoice, assign_families
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["DATA_PER_WEIGHT", "FADE_IN", "LEAST_WEIGHT", "default_kl_warmup", "default_kl_weight"]

LEAST_WEIGHT = 0.1
"""Of networks with more weights than data."""
DATA_PER_WEIGHT = 10.0
"""Examples for each weight from which on the KL term has its full weight."""

FADE_IN = 0.6
"""Share of the steps over which the KL term fades in."""


def default_kl_weight(model: BayesianNetwork, guide: GuideChoice = None) -> float:
    """The KL weight by default: 1, or less for networks of many weights.

    It is N / (10 D), between 0.1 and 1, for N data and D weights with a prior, rounded to two digits: 0.1 for every
    network with more weights than data, 1 from ten data a weight on. It is 1, without regard to N and D,

    * where one tensor alone has a prior (a linear model, or a network's last layer), whose posterior is found well;
    * where units have gates, whose price is stated by itself;
    * where a prior states constants of a paper (``full_kl``), which say what they weigh;
    * where all weights are points and the likelihood learns the scale of its noise: points that follow the data shrink
      the noise, which makes the data weigh more, until it is nothing.

    Args:
        model: The model.
        guide: As `fit` takes it; default None: each prior's own.
    """
    priors = model.priors.values()
    if model.gates is not None or len(priors) <= 1 or _states_constants(model) or _shrinks_noise(model, guide):
        return 1.0
    share = model.data_size / (DATA_PER_WEIGHT * sum(math.prod(prior.shape) for prior in priors))
    return float(f"{min(1.0, max(LEAST_WEIGHT, share)):.2g}")


def default_kl_warmup(model: BayesianNetwork, guide: Guide) -> float:
    """The share of the steps by default: 0.6.

    It is 0 where units have gates, whose price waits by itself (`Gating`), and where all is a point and a prior states
    constants of a paper, whose updates are then followed from the first one on.

    Args:
        model: The model.
        guide: Its guide.
    """
    as_published = guide.is_point_but_for_gates and (model.gates is not None or _states_constants(model))
    return 0.0 if as_published else FADE_IN


def _shrinks_noise(model: BayesianNetwork, guide: GuideChoice) -> bool:
    if not any(parameter.requires_grad for parameter in model.likelihood.parameters()):
        return False
    return all(family == "delta" for family in assign_families(model, guide).values())


def _states_constants(model: BayesianNetwork) -> bool:
    return any(prior.hierarchy.full_kl for prior in model.priors.values())
