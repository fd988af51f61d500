"""The best constant prediction: what a likelihood gives to data of which nothing but the targets is known."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from bayesprune.models.likelihoods import Likelihood

__all__ = ["constant_log_likelihood"]

EXAMPLES = 100_000
"""At most so many targets are looked at, evenly spaced: the mean of so many is known to some thousandths of a nat."""
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
    y = y.detach().cpu()
    y = y[:: -(-len(y) // EXAMPLES)] if len(y) > EXAMPLES else y
    y, counts = torch.unique(y, dim=0, return_counts=True)  # labels are few
    if len(y) < 2:
        return None  # there is nothing to predict, and no scale
    y = y.double() if y.is_floating_point() else y
    share = counts.double() / counts.sum()
    starts = [torch.zeros(outputs.shape, dtype=torch.float64)]
    if y.is_floating_point() and y[:1].numel() == outputs[:1].numel():  # as a regression's are: much nearer
        starts.insert(0, (share @ y.reshape(len(y), -1)).reshape(outputs.shape))
    for start in starts:
        try:
            found = _best_from(start, copy.deepcopy(likelihood).cpu().double(), y, share)
        except Exception:  # the likelihood may be the user's code, and a fit that is done is not lost by it
            continue
        if math.isfinite(found):
            return found
    return None


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
