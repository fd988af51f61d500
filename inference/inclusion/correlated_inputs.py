"""How far the inputs of a regression are correlated, on which its inclusion probabilities depend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bayesprune.inference.guides.identified import features_of, identified_tensor, regression_tensor
from bayesprune.inference.restart import Restart
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = ["CORRELATION", "chooses_inputs", "correlated_inputs", "largest_correlation"]

CORRELATION = 0.3
"""Correlation of two inputs from which on probabilities of theirs may be off by more than 0.1: see
``python -m benchmarks.correlated_inclusion --random 3000``; chance has 0.3 with 40 data."""
SHARE = 0.5
"""Share of an input's variance that the others explain, adjusted for their number, from which on it is one of them."""
_BLOCK, _FEW = 1024, 16


@torch.no_grad()
def correlated_inputs(one: Restart, x: Tensor) -> dict[str, Any] | None:
    """The pair of inputs of a regression whose correlation is the largest.

    Args:
        one: The restart.
        x: Training inputs, `(n, ...)`, on its device.

    Returns:
        ``inputs`` (two numbers of what the layer reads), their ``correlation`` in [0, 1],
        ``explained``, the largest share of an input's variance that all others explain (0 where there are too
        few data to tell), and ``explained_input``, which that is. None where there are hidden units, where the prior
        does not choose among inputs, or where nothing reaches `CORRELATION` or `SHARE`.
    """
    name = identified_tensor(one.model)
    if name is None or len(x) < 3 or not chooses_inputs(one.model.priors[name]):
        return None
    if regression_tensor(one.model, x[:_FEW]) is None:
        return None
    columns = features_of(one.model, name, x)
    if columns is None:
        return None
    return largest_correlation(columns)


def chooses_inputs(prior: TensorPrior) -> bool:
    """Whether a prior leaves some inputs of a layer in and others out, or shrinks them, each for itself.

    Not so of a Gaussian, under which nothing is chosen, nor of gates and scales that all inputs share.

    Args:
        prior: The prior on the layer's weights, `(out, in, ...)`.
    """
    event = prior.hierarchy.included
    return event is not None and event.chooses_inputs(prior)


def largest_correlation(columns: Tensor) -> dict[str, Any] | None:
    """The same of a design, whatever a fit has found: two inputs that matter together may both have been left out.

    Args:
        columns: Inputs, `(n, p)`, float64.
    """
    columns = columns - columns.mean(0)
    columns = columns / columns.norm(dim=0).clamp_min(1e-12)
    largest, pair = 0.0, (0, 0)
    for part in torch.arange(columns.shape[1]).split(_BLOCK):
        found = (columns[:, part].T @ columns).abs()
        found[torch.arange(len(part)), part] = 0.0
        at = int(found.argmax())
        if float(found.flatten()[at]) > largest:
            largest = float(found.flatten()[at])
            pair = (int(part[at // found.shape[1]]), at % found.shape[1])
    explained, which = _explained(columns)
    if largest <= CORRELATION and explained <= SHARE:
        return None
    return {
        "inputs": list(pair),
        "correlation": min(1.0, largest),
        "explained": explained,
        "explained_input": which,
    }


def _explained(columns: Tensor) -> tuple[float, int]:
    """The largest adjusted R^2 of a standardised column `(n,)` on all others, and which column it is."""
    count, width = columns.shape
    if width < 3 or count < 2 * width or width > _BLOCK:
        return 0.0, 0
    values, vectors = torch.linalg.eigh(columns.T @ columns)
    is_null = values < width * 1e-12 * values.max()
    # 1 - R^2 is one over the inverse's diagonal; a column with a part in the null space is explained altogether.
    inside = (vectors[:, is_null] ** 2).sum(1) > 1e-9
    inverse = ((vectors**2)[:, ~is_null] / values[~is_null]).sum(1)
    shares = 1.0 - (1.0 / inverse.clamp_min(1.0)) * (count - 1) / (count - width)
    shares = torch.where(inside, 1.0, shares)
    shares = torch.where(columns.norm(dim=0) > 0.5, shares, 0.0)
    at = int(shares.argmax())
    return max(0.0, float(shares[at])), at
