"""Terms of the negative ELBO: E_q[log q - log p] of a site, analytic where the pair of families is registered.

A pair without a term is estimated from the draw, log q(value) - log p(value), which is always right in expectation.
Register your own with `register_term`; it must return the sum over the site in nats. `check_term`
(bayesprune.inference.terms.check) compares a term with what it stands for.

A term may branch on shapes and on `requires_grad`, not on values: while the objective is traced
(`bayesprune.inference.guides.functional`) a value that decides would decide for all later steps.

The package's own stand one file a support: real, positive, unit_interval, gates, points. In their formulas m and s are
the location and the scale of a Normal guide, for a positive site of its logarithm and for a site on (0, 1) of its
logit, and H = 0.5 log(2 pi e) + log s is the entropy of that Normal.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from bayesprune.inference.guides.factors import Factor

# Whoever uses terms has all of the package's own, entered before any of the user's, which take their place.
from bayesprune.inference.terms import correlated, gates, points, positive, real, unit_interval  # noqa: F401
from bayesprune.inference.terms.table import TERMS, Term
from bayesprune.models.language.iid import Iid


def register_term(prior: type, factor: type) -> Callable[[Term], Term]:
    """Decorator: registers a term for a family of priors and a family of guide factors.

    The term is called with the prior, whose parameters broadcast to the site's shape, and the factor, and returns
    E_q[log q - log p] in nats summed over the site, as a tensor of no dimensions; for a `DeltaFactor` minus the log
    prior. What has no closed form it may take from the draw, `factor.value`, as long as its expectation and that of
    its gradient are right. `check_term` compares it with the average of log q - log p.

    Args:
        prior: Class of the univariate prior, e.g. `pyro.distributions.Normal`; matched exactly.
        factor: Class of the guide's factor, e.g. `NormalFactor`; matched exactly.

    Returns:
        The decorator, which gives the function back; a later term for the same pair takes the place of an earlier.
    """

    def register(term: Term) -> Term:
        TERMS[prior, factor] = term
        return term

    return register


def registered_terms() -> tuple[tuple[type, type], ...]:
    """The registered pairs (prior family, factor family)."""
    return tuple(TERMS)


def registered_term(prior: type, factor: type) -> Term | None:
    """The term of a pair (prior family, factor family), or None for one that is estimated from the draw."""
    return TERMS.get((prior, factor))


def only_by_term(prior: Iid) -> bool:
    """Whether a prior's term is not to be had from a draw: it depends on all of q, or passes no gradient to a draw."""
    return bool(getattr(prior.base_dist, "only_by_term", False))


def site_term(prior: Iid, factor: Factor, value: Tensor, analytic: bool = True) -> Tensor:
    """E_q[log q - log p] of one site in nats (for a Delta: minus the log prior).

    Args:
        prior: The site's prior, given its drawn parents.
        factor: The site's guide factor.
        value: The drawn value.
        analytic: Whether registered terms are used; default True. False estimates every term from the draw that can be.

    Raises:
        ValueError: If the prior has no other than registered terms, and none for this guide.
    """
    alone = only_by_term(prior)
    term = registered_term(type(prior.base_dist), type(factor)) if analytic or alone else None
    if term is not None:
        return term(prior.base_dist, factor)
    if alone:
        family, guide = type(prior.base_dist).__name__, type(factor).__name__
        raise ValueError(f"{family} has no term for {guide}: leave the latent the guide that its prior gives it")
    return factor.term_from_draw(prior, value)
