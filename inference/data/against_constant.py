"""What the best constant prediction of a fit's training targets is worth."""

from __future__ import annotations

from bayesprune.inference.data.batches import Batches
from bayesprune.models.likelihoods.constant_prediction import constant_log_likelihood
from bayesprune.models.likelihoods.likelihood import Likelihood

__all__ = ["CONSTANT", "constant_of_training"]

CONSTANT = "constant_log_likelihood"
"""Key of the settings: log-likelihood of the best constant prediction of the training targets, nats per example."""


def constant_of_training(likelihood: Likelihood, batches: Batches) -> float | None:
    """`constant_log_likelihood` of the targets that were trained on, in nats per example.

    Args:
        likelihood: What the outputs mean.
        batches: The data, after training; nothing more is read of them than was.

    Returns:
        The number; None where it has no maximum, or cannot be computed.
    """
    if batches.targets is None or batches.example_outputs is None:
        return None
    return constant_log_likelihood(likelihood, batches.example_outputs, batches.targets)
