"""Scores of one plain network, such as a pruned one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bayesprune.inference.predictions.metrics import averaged_scores
from bayesprune.inference.predictions.predictive_intervals import coverage_at
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.networks.outputs import outputs_at

__all__ = ["plain_scores"]


@torch.no_grad()
def plain_scores(network: nn.Module, likelihood: Likelihood, x: Tensor, y: Tensor) -> dict[str, float]:
    """Scores of one plain network: those of the likelihood, nll in nats per example, for classes ece, else coverage.

    Args:
        network: The network, in evaluation mode, on the CPU.
        likelihood: What its outputs mean.
        x: Inputs, `(n, ...)`.
        y: Targets.
    """
    dtype = next(network.parameters()).dtype
    x, y = (part.cpu().to(dtype if part.is_floating_point() else part.dtype) for part in (x, y))
    outputs = outputs_at(network, {}, x)
    prediction = likelihood.predict(outputs)
    scores = averaged_scores(likelihood, prediction, [likelihood.scored.log_prob(outputs, y)], y)
    return scores | (coverage_at(likelihood, [outputs], y) if likelihood.is_ordered else {})
