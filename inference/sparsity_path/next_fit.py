"""The fits of a path: the first from a cold start, each later one from the one before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayesprune.inference.data.batches import Data
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.training.fit import fit
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["fit_from"]


def fit_from(
    before: Fit | None,
    model: BayesianNetwork,
    data: Data,
    *,
    first: Mapping[str, Any],
    later: Mapping[str, Any],
    kl_warmup: float | None = None,
    **how: Any,
) -> Fit:
    """The next fit of a path: from the one before, without a fade-in, which would forget the warm start.

    Args:
        before: The fit before; None: it begins cold.
        model: The model.
        data: Training data.
        first: Arguments of a fit that begins cold, its length.
        later: Those of one that does not.
        kl_warmup: As in `fit`, of one that begins cold.
        **how: Further arguments of `fit`.
    """
    if before is None:
        return fit(model, data, kl_warmup=kl_warmup, **first, **how)
    return fit(model, data, start=before, kl_warmup=0.0, **later, **how)
