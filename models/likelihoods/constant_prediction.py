"""The best constant prediction: what a likelihood gives to data of which nothing but the targets is known."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from bayesprune.models.likelihoods.likelihood import Likelihood

__all__ = ["constant_log_likelihood"]

EXAMPLES = 100_000
"""At most so many targets are looked at, evenly spaced: the mean of so many is known to some thousandths of a nat."""
NUMBERS = 2**20
"""Of targets of many numbers each, so many examples that they hold about so many numbers."""
_ITERATIONS = 100


@torch.enable_grad()
def constant_log_likelihood(likelihood: Likelihood, outputs: Tensor, y: Tensor) -> float | None:
    """Mean log-likelihood of targets under the best outputs that are the same for all examples, in nats per example.

    It is minus the entropy of the class frequencies for labels, the log density at the targets' own mean and standard
    deviation for a Normal that learns its scale, and so on; found by maximising `log_prob` over one row of outputs and
    whatever the likelihood learns itself, so that likelihoods of one's own need to say nothing.

    Args:
        likelihood: What the outputs mean; it is copied, never changed.
        outputs: The outputs of the network for one example, `(1, ...)`, of which only the shape counts.
        y: Targets, `(N,)` or `(N, d)`, in the form that the likelihood accepts.

    Returns:
        The number; None where no maximum is found, as for a likelihood that has none or refuses such outputs.
    """
    try:
        y, share = _weighted(y.detach())
        if len(y) < 2:
            return None  # there is nothing to predict, and no scale
        found = [_value(start, likelihood, y, share) for start in _starts(likelihood, outputs, y, share)]
    except Exception:  # the likelihood may be the user's code, and a fit that is done is not lost by it
        return None
    return max((value for value in found if math.isfinite(value)), default=None)


def _weighted(y: Tensor) -> tuple[Tensor, Tensor]:
    """Targets on the CPU, evenly spaced where there are many, equal numbers once, and the share of each."""
    most = max(2, min(EXAMPLES, NUMBERS // max(1, y[:1].numel())))
    y = (y[:: -(-len(y) // most)] if len(y) > most else y).cpu()
    counts = torch.ones(len(y))
    if y[:1].numel() == 1:  # labels are few
        y, counts = torch.unique(y, dim=0, return_counts=True)
    elif bool((y == y[:1]).all()):
        y, counts = y[:1], counts[:1]
    return y.double() if y.is_floating_point() else y, counts.double() / counts.sum()


def _starts(likelihood: Likelihood, outputs: Tensor, y: Tensor, share: Tensor) -> list[Tensor]:
    """Outputs to begin at: those of standard units, mean and log mean, where they have the outputs' size, and zero."""
    flat = y.reshape(len(y), -1).double()
    mean = share @ flat
    sd = (share @ (flat - mean).square()).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    try:
        units = likelihood.in_units(mean, sd)
    except Exception:  # as above
        units = None
    proposed = [*([] if units is None else units[:1]), mean, mean.log(), torch.zeros(outputs[:1].numel())]
    size = outputs[:1].numel()
    found: list[Tensor] = []
    for one in proposed:
        if one.numel() == size and bool(torch.isfinite(one).all()):
            start = one.double().reshape(outputs[:1].shape)
            found += [] if any(torch.equal(start, other) for other in found) else [start]
    return found


def _value(start: Tensor, likelihood: Likelihood, y: Tensor, share: Tensor) -> float:
    """What is reached from one start; minus infinity where nothing is."""
    try:
        return _best_from(start, copy.deepcopy(likelihood).cpu().double(), y, share)
    except Exception:  # as above: not from this start
        return -math.inf


def _best_from(start: Tensor, likelihood: Likelihood, y: Tensor, share: Tensor) -> float:
    row = start.clone().requires_grad_(True)
    learned = [parameter for parameter in likelihood.parameters() if parameter.requires_grad]
    optimizer = torch.optim.LBFGS(
        [row, *learned], max_iter=_ITERATIONS, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -(share * likelihood.log_prob(row.expand(len(y), *row.shape[1:]), y)).sum()
        value.backward()
        return value

    optimizer.step(loss)
    return -float(loss().detach())
