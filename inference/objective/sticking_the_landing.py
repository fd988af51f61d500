"""Sticking-the-landing gradients: a site's term from its draw, without the score of q.

Roeder, Wu & Duvenaud 2017, eq. 8. In log q(value) - log p(value) the parameters of log q are held fixed, so that the
gradient runs through the value alone. What is left out has expectation zero, and the gradient's variance goes to zero
as q approaches the posterior; far from it, closed forms are the less noisy choice.
"""

from __future__ import annotations

from torch import Tensor

from bayesprune.inference.guides.factors import Factor
from bayesprune.inference.terms.registry import only_by_term
from bayesprune.models.language.iid import Iid


def landing_term(prior: Iid, factor: Factor, value: Tensor) -> Tensor | None:
    """Log q(value) - log p(value) of one site in nats, with the parameters of log q held fixed.

    Args:
        prior: The site's prior, given its drawn parents.
        factor: The site's guide factor.
        value: The drawn value.

    Returns:
        The term; None for factors other than Normals, and for priors whose term is not to be had from a draw. The
        inclusion probabilities by which a slab's term is weighted keep their gradient.
    """
    return None if only_by_term(prior) else factor.landing_term(prior, value)
