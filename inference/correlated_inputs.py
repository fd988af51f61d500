"""How far the inputs of a regression are correlated, on which its inclusion probabilities depend."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bayesprune.inference.identified import identified_tensor

if TYPE_CHECKING:
    from bayesprune.inference.result import Restart

__all__ = ["CORRELATION", "correlated_inputs", "largest_correlation"]

CORRELATION = 0.3
"""Correlation of two inputs from which on probabilities of theirs may be off by more than 0.1: the least seen among
7,700 random regressions (4 to 8 inputs, 40 to 300 data) beside enumeration was 0.30; chance has 0.3 with 40 data."""
RELEVANT = 0.05
"""Inclusion probability from which on an input is looked at: where all correlated ones are out, little can be wrong."""
SHARE = 0.5
"""Share of an input's variance that the others explain, adjusted for their number, from which on it is one of them."""
_BLOCK = 1024


@torch.no_grad()
def correlated_inputs(one: Restart, x: Tensor) -> dict[str, Any] | None:
    """The pair of inputs of a regression whose correlation is the largest, one of which has to be relevant.

    Args:
        one: The restart.
        x: Training inputs, `(n, ...)`.

    Returns:
        ``inputs`` (two numbers of columns, the relevant one first), ``correlation`` between them in [0, 1] and
        ``explained``, the largest share of an input's variance that all others explain (0 where there are too few
        data to tell); None where weights are not those of single inputs, or nothing reaches `CORRELATION` or `SHARE`.
    """
    name = identified_tensor(one.model)
    if name is None or len(one.model.priors[name].shape) != 2 or len(x) < 3:
        return None
    columns = x.detach().flatten(1).double().cpu()
    if columns.shape[1] != one.model.priors[name].shape[1] or not _is_read_by_a_linear_layer(one, name):
        return None
    relevance = _inclusion_by_input(one, name)
    return largest_correlation(columns, None if relevance is None else relevance > RELEVANT)


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
    explained = _explained(columns)
    if largest <= CORRELATION and explained <= SHARE:
        return None
    return {"inputs": list(pair), "correlation": min(1.0, largest), "explained": explained}


def _is_read_by_a_linear_layer(one: Restart, name: str) -> bool:
    owner, _, attribute = name.rpartition(".")
    return attribute == "weight" and isinstance(one.model.network.get_submodule(owner), nn.Linear)


def _inclusion_by_input(one: Restart, name: str) -> Tensor | None:
    """The largest inclusion probability of each input's weights, of gates; None where there are none."""
    prior, closed = one.model.priors[name], one.guide.inclusion()
    event = prior.hierarchy.included
    if event is None or event.gate is None:
        return None
    pip = prior.spread(event.gate, closed[prior.sites[event.gate].name]).expand(prior.shape)
    return pip.amax(0).cpu()


def _explained(columns: Tensor) -> float:
    """The largest adjusted R^2 of a standardised column `(n,)` on all others."""
    count, width = columns.shape
    if width < 3 or count < 2 * width or width > _BLOCK:
        return 0.0
    gram = columns.T @ columns
    inverse = torch.linalg.pinv(gram, hermitian=True).diagonal()
    if int(torch.linalg.matrix_rank(gram, hermitian=True)) < int((gram.diagonal() > 0.5).sum()):
        return 1.0
    left = (1.0 / inverse.clamp_min(1.0)).min()
    found = 1.0 - float(left) * (count - 1) / (count - width)
    return found if math.isfinite(found) and found > 0.0 else 0.0
