"""Scores on validation data while a fit is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesprune.inference.data.batch_normalisation import statistics_at
from bayesprune.inference.data.kept_inputs import evenly_spaced
from bayesprune.inference.objective.objective import Objective
from bayesprune.models.networks.outputs import outputs_at

__all__ = ["validation_scores"]

INPUTS = 512
"""Fewer than a prediction takes, as they are looked at after every epoch."""


@torch.no_grad()
def validation_scores(
    objective: Objective, x: Tensor, y: Tensor, inputs: Tensor | None = None, batch: int = 2048
) -> dict[str, float]:
    """Scores of the network at the guide's centre, with its nll in nats per example.

    Running statistics of batch normalisation lag behind the weights and are of draws around the centre, so they are
    estimated for the centre: one forward pass over at most 512 of the training inputs.

    Args:
        objective: The objective.
        x: Inputs, `(n, ...)`.
        y: Targets.
        inputs: Training inputs `(n, ...)` for those statistics; default None: the running statistics are used.
        batch: Examples a forward pass; default 2048.
    """
    model = objective.model
    network, likelihood = model.network, model.likelihood
    weights = model.weights_at(objective.guide.means())
    statistics = None if inputs is None else statistics_at(network, weights, evenly_spaced(inputs, INPUTS))
    outputs = outputs_at(network, weights, x, batch, statistics)
    scores = likelihood.scores(likelihood.predict(outputs), y)
    return {**scores, "nll": -float(likelihood.scored.log_prob(outputs, y).mean())}
