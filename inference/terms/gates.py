"""Terms of gates: Bernoullis, and hard concrete gates under a price."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor
from torch.distributions.utils import probs_to_logits
from torch.nn.functional import logsigmoid

from bayesprune.inference.guides.factors import BernoulliFactor
from bayesprune.inference.guides.functional import is_functional
from bayesprune.inference.guides.hard_concrete import HardConcreteFactor
from bayesprune.inference.terms.table import ready_term
from bayesprune.models.distributions.nonzero_penalty import NonzeroPenalty


@ready_term(dist.Bernoulli, BernoulliFactor)
def bernoulli_bernoulli(prior: Any, q: Any) -> Tensor:
    """KL(Bernoulli || Bernoulli), by log odds, so that probabilities at 0 and 1 cost what they should.

    With log odds l of q and l' of the prior: a (l - l') + log(1 - a) - log(1 - a'), log(1 - a) = logsigmoid(l) - l.
    """
    logits = _logits(prior)
    log_off = logsigmoid(q.logit) - q.logit
    return (q.probability * (q.logit - logits) + log_off - logsigmoid(-logits)).sum()


def _logits(prior: Any) -> Tensor:
    """Log odds of a Bernoulli; while the objective is traced not remembered on it, as PyTorch would do by itself."""
    if is_functional() and "logits" not in vars(prior):
        return probs_to_logits(prior.probs, is_binary=True)
    logits: Tensor = prior.logits
    return logits


@ready_term(NonzeroPenalty, HardConcreteFactor)
def penalty_hard_concrete(prior: Any, q: Any) -> Tensor:
    """Expected price of gates that are not zero: price P(z != 0) (Louizos, Welling & Kingma 2018, eq. 12).

    A penalty, with no entropy of q.
    """
    return (prior.price * q.probability).sum()
