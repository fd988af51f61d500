"""Terms of gates: Bernoullis, and hard concrete gates under a price."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor
from torch.nn.functional import logsigmoid

from bayesprune.inference.guides.factors import BernoulliFactor, log_odds_of
from bayesprune.inference.guides.hard_concrete import HardConcreteFactor
from bayesprune.inference.terms.table import ready_term
from bayesprune.models.distributions.nonzero_penalty import NonzeroPenalty


@ready_term(dist.Bernoulli, BernoulliFactor)
def bernoulli_bernoulli(prior: Any, q: Any) -> Tensor:
    """KL(Bernoulli || Bernoulli), by log odds, so that probabilities at 0 and 1 cost what they should.

    With log odds l of q and l' of the prior: a (l - l') + log(1 - a) - log(1 - a'), log(1 - a) = logsigmoid(l) - l.
    """
    logits = log_odds_of(prior)
    log_off = logsigmoid(q.logit) - q.logit
    return (q.probability * (q.logit - logits) + log_off - logsigmoid(-logits)).sum()


@ready_term(NonzeroPenalty, HardConcreteFactor)
def penalty_hard_concrete(prior: Any, q: Any) -> Tensor:
    """Expected price of gates that are not zero: price P(z != 0) (Louizos, Welling & Kingma 2018, eq. 12).

    A penalty, with no entropy of q.
    """
    return (prior.price * q.probability).sum()
