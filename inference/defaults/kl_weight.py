"""The weight of the KL term of a fit that was told none, and the share of its steps over which it rises to that.

1 is the ELBO, whose optimum is the nearest approximation of the posterior. Mean-field posteriors of whole networks with
few data for their weights go wrong at 1 (they explain the data badly and leave most weights at the prior:
docs/kl_weight.md), so that the rule tempers them, and only them. A term that is there in full at the start makes a
network nothing before the data can make it something: 50,000 dense weights cost more nats than the data are worth.
"""

from __future__ import annotations

import math

from bayesprune.inference.guides.guide import (
    GATE_START_SD,
    HIDDEN_GATE_START_SD,
    Guide,
    GuideChoice,
    assign_families,
)
from bayesprune.inference.guides.identified import identified_tensor
from bayesprune.inference.guides.registry import is_point
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = [
    "BESIDE_NOISE",
    "DATA_PER_WEIGHT",
    "FADE_IN",
    "LEAST_WEIGHT",
    "default_kl_warmup",
    "default_kl_weight",
    "default_rules",
]

LEAST_WEIGHT = 0.1
"""Of networks with more weights than data."""
DATA_PER_WEIGHT, BESIDE_NOISE = 10.0, 1.0
"""Examples for each weight from which on the KL term has its full weight; the same where the noise is learned."""

FADE_IN = 0.6
"""Share of the steps over which the KL term fades in."""


def default_kl_weight(model: BayesianNetwork, guide: GuideChoice = None) -> float:
    """The KL weight by default: 1, or less for networks of many weights.

    It is N / (10 D), between 0.1 and 1, for N data and D weights with a prior, rounded to two digits: 0.1 where there
    are more weights than data, 1 from ten data a weight on. Where the likelihood learns the scale of its noise it is
    N / D: that scale follows the residuals, so that it weighs the data by itself, and a tempered fit follows them
    twice. It is 1, without regard to N and D,

    * where one matrix alone has a prior (a linear model, or a network's last layer; biases do not count), whose
      posterior is found well;
    * where units have gates, whose price is stated by itself;
    * where a prior states constants of a paper (``full_kl``), which say what they weigh;
    * where weights are points beside a noise that is learned (fewer than half as many numbers have a spread under the
      guide as there are weights): nothing but the prior keeps the noise from vanishing.

    Args:
        model: The model.
        guide: As `fit` takes it; default None: each prior's own.
    """
    priors = model.priors.values()
    if model.states_price or len(model.matrices) <= 1 or _states_constants(model):
        return 1.0
    learns_noise = model.likelihood.learns_noise
    if learns_noise and _weights_are_points(model, guide):
        return 1.0
    data_per_weight = BESIDE_NOISE if learns_noise else DATA_PER_WEIGHT
    share = model.data_size / (data_per_weight * sum(math.prod(prior.shape) for prior in priors))
    return float(f"{min(1.0, max(LEAST_WEIGHT, share)):.2g}")


def default_kl_warmup(model: BayesianNetwork, guide: Guide, restart: int = 0) -> float:
    """The share of the steps by default: 0.6.

    It is 0 where units have gates, whose price waits by itself (`Gating`), and where all is a point and a prior states
    constants of a paper, whose updates are then followed from the first one on. It is 0 too in every second restart,
    the second one first, of a linear model with gates: fading in lets all inputs in and takes some away, without it
    they come in one by one from where gates start, and correlated inputs are chosen in another order.

    Args:
        model: The model.
        guide: Its guide.
        restart: Number of the restart, from 0; default 0.
    """
    if restart % 2 == 1 and identified_tensor(model) is not None and guide.inclusion():
        return 0.0
    as_published = guide.is_point_but_for_gates and (model.states_price or _states_constants(model))
    return 0.0 if as_published else FADE_IN


def _weights_are_points(model: BayesianNetwork, guide: GuideChoice) -> bool:
    families, weights = assign_families(model, guide), sum(math.prod(prior.shape) for prior in model.priors.values())
    spread = sum(math.prod(site.shape) for name, site in model.sites.items() if not is_point(families[name]))
    return spread < 0.5 * weights


def default_rules(restarts: int = 1, **given: float | None) -> dict[str, str]:
    """The rules that stand for what was not given, for what is kept on disk and gone on with under the same ones.

    Args:
        restarts: How many there are; default 1.
        **given: `kl_weight` and `kl_warmup`, None where they are left to the rules.
    """
    rules = {
        "kl_weight": f"N / ({DATA_PER_WEIGHT:g} D), beside a learned noise N / ({BESIDE_NOISE:g} D), "
        f"at least {LEAST_WEIGHT:g}",
        "kl_warmup": f"{FADE_IN:g}",
    }
    if restarts > 1:
        rules["kl_warmup"] += ", 0 in every second restart of a regression with gates"
    found = {name: rules[name] for name, value in given.items() if value is None}
    moved = f"log odds of gates move by {GATE_START_SD:g}, of networks by {HIDDEN_GATE_START_SD:g}"
    return found | ({"starts of restarts": moved} if restarts > 1 else {})


def _states_constants(model: BayesianNetwork) -> bool:
    """Whether a prior on weights does; biases that decay beside another prior decide nothing."""
    names = model.matrices or tuple(model.priors)
    return any(model.priors[name].hierarchy.full_kl for name in names)
