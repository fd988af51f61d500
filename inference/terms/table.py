"""The table of terms: E_q[log q - log p] by family of priors and family of guide factors.

The package's own are entered by the files of this folder, one a support; whoever uses terms goes by `registry`, which
has all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

__all__ = ["TERMS", "Term", "ready_term"]

Term = Callable[[Any, Any], Tensor]
"""(univariate prior, factor) -> E_q[log q - log p] in nats, summed over the site."""

TERMS: dict[tuple[type, type], Term] = {}
"""Terms by (prior family, factor family), both matched exactly."""


def ready_term(prior: type, factor: type) -> Callable[[Term], Term]:
    """Decorator: enters a term of the package's own; users' come by `register_term`, and take its place.

    Args:
        prior: Class of the univariate prior.
        factor: Class of the guide's factor.
    """

    def enter(term: Term) -> Term:
        TERMS[prior, factor] = term
        return term

    return enter
