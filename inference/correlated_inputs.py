"""How far the inputs of a regression are correlated, on which its inclusion probabilities depend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayesprune.inference.identified import features_of, identified_tensor, regression_tensor
from bayesprune.models.tensor_prior import TensorPrior

if TYPE_CHECKING:
    from bayesprune.inference.result import Restart

__all__ = ["CORRELATION", "chooses_inputs", "correlated_inputs", "largest_correlation"]

CORRELATION = 0.3
"""Correlation of two inputs from which on probabilities of theirs may be off by more than 0.1: the least seen among
7,700 random regressions (4 to 8 inputs, 40 to 300 data) beside enumeration was 0.30; chance has 0.3 with 40 data."""
RELEVANT = 0.05
"""Inclusion probability from which on an input is looked at: where all correlated ones are out, little can be wrong."""
SHARE = 0.5
"""Share of an input's variance that the others explain, adjusted for their number, from which on it is one of them."""
_BLOCK, _FEW = 1024, 16


@torch.no_grad()
def correlated_inputs(one: Restart, x: Tensor) -> dict[str, Any] | None:
    """The pair of inputs of a regression whose correlation is the largest, one of which has to be relevant.

    Args:
        one: The restart.
        x: Training inputs, `(n, ...)`, on its device.

    Returns:
        ``inputs`` (two numbers of what the layer reads, the relevant one first), their ``correlation`` in [0, 1],
        ``explained``, the largest share of a relevant input's variance that all others explain (0 where there are too
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
    relevance = _inclusion_by_input(one, name)
    return largest_correlation(columns, None if relevance is None else relevance > RELEVANT)


def chooses_inputs(prior: TensorPrior) -> bool:
    """Whether a prior leaves some inputs of a layer in and others out, or shrinks them, each for itself.

    Not so of a Gaussian, under which nothing is chosen, nor of gates and scales that all inputs share.

    Args:
        prior: The prior on the layer's weights, `(out, in, ...)`.
    """
    event = prior.hierarchy.included
    if event is None or event.kind == "relative":
        return False
    if event.gate is not None:
        shape = tuple(prior.sites[event.gate].shape)
        return len(shape) > 1 and shape[1] > 1
    if event.kind == "shrinkage":
        scales = [site for site in prior.sites.values() if site.support == "positive"]
        return any(len(site.shape) > 1 and site.shape[1] > 1 for site in scales)
    return True


def largest_correlation(columns: Tensor, relevant: Tensor | None = None) -> dict[str, Any] | None:
    """The same of a design, told which of its columns are relevant.

    Args:
        columns: Inputs, `(n, p)`, float64.
        relevant: True and False by column, `(p,)`; default None: all are.
    """
    columns = columns - columns.mean(0)
    columns = columns / columns.norm(dim=0).clamp_min(1e-12)
    if relevant is None:
        relevant = torch.ones(columns.shape[1], dtype=torch.bool)
    if not bool(relevant.any()):
        return None
    largest, pair = 0.0, (0, 0)
    for part in torch.nonzero(relevant).flatten().split(_BLOCK):
        found = (columns[:, part].T @ columns).abs()
        found[torch.arange(len(part)), part] = 0.0
        at = int(found.argmax())
        if float(found.flatten()[at]) > largest:
            largest = float(found.flatten()[at])
            pair = (int(part[at // found.shape[1]]), at % found.shape[1])
    explained, which = _explained(columns, relevant)
    if largest <= CORRELATION and explained <= SHARE:
        return None
    return {
        "inputs": list(pair),
        "correlation": min(1.0, largest),
        "explained": explained,
        "explained_input": which,
    }


def _inclusion_by_input(one: Restart, name: str) -> Tensor | None:
    """The largest inclusion probability of each input's weights, of gates; None where there are none."""
    prior, closed = one.model.priors[name], one.guide.inclusion()
    event = prior.hierarchy.included
    if event is None or event.gate is None:
        return None
    pip = prior.spread(event.gate, closed[prior.sites[event.gate].name]).expand(prior.shape)
    return pip.amax(0).cpu()


def _explained(columns: Tensor, relevant: Tensor) -> tuple[float, int]:
    """The largest adjusted R^2 of a relevant standardised column `(n,)` on all others, and which column it is."""
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
    shares = torch.where(relevant & (columns.norm(dim=0) > 0.5), shares, 0.0)
    at = int(shares.argmax())
    return max(0.0, float(shares[at])), at
