"""Terms of real sites under Normals that are correlated inside a site.

The expectation of a log prior with independent entries depends on the marginals of q alone. So the term is that of
independent Normals with q's own standard deviations, and what q's entropy is less than theirs, its total correlation.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor

from bayesprune.inference.guides.low_rank_normal import LowRankNormalFactor
from bayesprune.inference.terms.real import laplace_normal, normal_normal
from bayesprune.inference.terms.table import ready_term


@ready_term(dist.Normal, LowRankNormalFactor)
def normal_low_rank(prior: Any, q: Any) -> Tensor:
    """KL(q || independent Normals): `normal_normal` at the marginals of q, and the total correlation of q."""
    return normal_normal(prior, q.marginals()) + q.total_correlation()


@ready_term(dist.Laplace, LowRankNormalFactor)
def laplace_low_rank(prior: Any, q: Any) -> Tensor:
    """KL(q || independent Laplaces): `laplace_normal` at the marginals of q, and the total correlation of q."""
    return laplace_normal(prior, q.marginals()) + q.total_correlation()
