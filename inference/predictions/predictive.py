"""What a fit predicts: its network at draws of the weights, and scores of the averaged prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesprune.inference.data.batch_normalisation import tracked_layers
from bayesprune.inference.data.batches import Data
from bayesprune.inference.data.kept_inputs import inputs_of
from bayesprune.inference.fitted import Fitted
from bayesprune.inference.guides.seeded import seeded
from bayesprune.inference.predictions.draw_statistics import RUNNING, DrawStatistics
from bayesprune.inference.predictions.metrics import averaged_nll, averaged_scores
from bayesprune.inference.predictions.predictive_intervals import coverage_at, intervals_at
from bayesprune.models.checks.first_line import first_line
from bayesprune.models.graphs.forward_constants import remedy_for
from bayesprune.models.networks.outputs import BATCH, outputs_at
from bayesprune.models.networks.placing import like

__all__ = [
    "Prediction",
    "PredictiveIntervals",
    "draw_statistics",
    "negative_log_likelihood",
    "outputs_of_draws",
    "predict",
    "predictive_intervals",
    "score",
]


@dataclass(frozen=True)
class Prediction:
    """Predictions averaged over draws of the weights.

    Attributes:
        mean: Mean of the observation: probabilities `(n, classes)` for labels, else like the targets.
        sd: Standard deviation of that mean over draws of the weights (not of the observation).
        draws: Every draw, `(draws, n, ...)`.
        statistics: Which statistics batch normalisation had: ``"each draw"``, ``"centre"`` or ``"running"``, see
            `Fit.predict`; None where the network tracks none.
    """

    mean: Tensor
    sd: Tensor
    draws: Tensor
    statistics: str | None = None


@dataclass(frozen=True)
class PredictiveIntervals:
    """Equal-tailed intervals of observations; those of several numbers are of each alone.

    Attributes:
        lower: `(n,)` or `(n, d)`, as the targets.
        upper: Of the same shape.
        probability: That of an interval.
    """

    lower: Tensor
    upper: Tensor
    probability: float


def predict(
    fit: Fitted,
    x: Tensor,
    draws: int = 32,
    restart: int = 0,
    batch_size: int = BATCH,
    seed: int | None = None,
    data: Data | None = None,
    statistics: str | None = None,
) -> Prediction:
    """See `Fit.predict`."""
    likelihood = fit.restart(restart).model.likelihood
    chosen = draw_statistics(fit, restart, data, statistics)
    drawn = outputs_of_draws(
        fit, lambda outputs: likelihood.predict(outputs).cpu(), x, draws, restart, batch_size, seed, chosen
    )
    return _averaged(drawn, chosen)


def score(
    fit: Fitted,
    x: Tensor,
    y: Tensor,
    draws: int = 32,
    restart: int = 0,
    seed: int | None = None,
    data: Data | None = None,
    statistics: str | None = None,
) -> dict[str, float]:
    """See `Fit.score`; prediction and density are of one pass over the draws."""
    model = fit.restart(restart).model
    likelihood, placed_y = model.likelihood, like(y, next(model.network.parameters()))
    chosen = draw_statistics(fit, restart, data, statistics)

    def of(outputs: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        kept = outputs if likelihood.is_ordered else None  # all draws of them at once, where coverage asks for it
        return likelihood.predict(outputs).cpu(), likelihood.scored.log_prob(outputs, placed_y), kept

    drawn = outputs_of_draws(fit, of, x, draws, restart, BATCH, seed, chosen)
    prediction = _averaged([predicted for predicted, _, _ in drawn], chosen)
    scores = averaged_scores(likelihood, prediction.mean, [density for _, density, _ in drawn], y)
    if likelihood.is_ordered:
        scores |= coverage_at(likelihood, [outputs for _, _, outputs in drawn if outputs is not None], placed_y)
    return scores


def predictive_intervals(
    fit: Fitted,
    x: Tensor,
    probability: float = 0.9,
    draws: int = 32,
    restart: int = 0,
    batch_size: int = 1024,
    seed: int | None = None,
    data: Data | None = None,
    statistics: str | None = None,
) -> PredictiveIntervals:
    """Equal-tailed intervals of the observations at new inputs: noise and uncertainty of the weights together.

    Args:
        fit: The fit.
        x: Inputs, `(n, ...)`.
        probability: That of an interval, in (0, 1); default 0.9.
        draws: Draws of the weights (one for a MAP); default 32.
        restart: Which restart; default the first.
        batch_size: Examples a forward pass; default 1024.
        seed: As for `Fit.draws`: by default the draws are the same at every call.
        data: As for `Fit.predict`.
        statistics: As for `Fit.predict`.

    Returns:
        The intervals, on the CPU, in the units of the targets. For counts they hold at least that probability.

    Raises:
        ValueError: For labels, which have no intervals; for a probability outside of (0, 1) or no draws; if the network
            does not take the inputs.
    """
    likelihood = fit.restart(restart).model.likelihood
    if not likelihood.is_ordered:
        raise ValueError(
            f"the likelihood {likelihood.name} is of labels, which have no intervals: use predict() for probabilities"
        )
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability is that of an interval, in (0, 1), not {probability}: 0.9 is usual")
    chosen = draw_statistics(fit, restart, data, statistics)
    outputs = outputs_of_draws(fit, lambda found: found, x, draws, restart, batch_size, seed, chosen)
    lower, upper = intervals_at(likelihood, outputs, probability)
    return PredictiveIntervals(lower.cpu(), upper.cpu(), probability)


def negative_log_likelihood(
    fit: Fitted,
    x: Tensor,
    y: Tensor,
    draws: int = 32,
    restart: int = 0,
    seed: int | None = None,
    data: Data | None = None,
    statistics: str | None = None,
) -> float:
    """See `Fit.negative_log_likelihood`."""
    model = fit.restart(restart).model
    placed_y = like(y, next(model.network.parameters()))
    chosen = draw_statistics(fit, restart, data, statistics)
    likelihood = model.likelihood.scored
    return averaged_nll(
        outputs_of_draws(
            fit, lambda outputs: likelihood.log_prob(outputs, placed_y), x, draws, restart, BATCH, seed, chosen
        )
    )


def draw_statistics(
    fit: Fitted, restart: int = 0, data: Data | None = None, statistics: str | None = None
) -> DrawStatistics:
    """The statistics of batch normalisation that draws of a restart get.

    Args:
        fit: The fit.
        restart: Which restart; default the first.
        data: Training data; default None: the inputs that the fit keeps.
        statistics: See `Fit.predict`.

    Raises:
        ValueError: As `Fit.predict`.
    """
    one = fit.restart(restart)
    network, inputs = one.model.network, fit.inputs
    if data is not None and statistics != RUNNING and tracked_layers(network):  # else the data are not touched
        inputs = inputs_of(data, next(network.parameters()))
    return DrawStatistics(one.model, one.guide, inputs, statistics)


def outputs_of_draws(
    fit: Fitted,
    function: Callable[[Tensor], Any],
    x: Tensor,
    draws: int = 32,
    restart: int = 0,
    batch_size: int = BATCH,
    seed: int | None = None,
    statistics: DrawStatistics | None = None,
) -> list[Any]:
    """Calls a function on the network's outputs at each draw of its weights, as every prediction and score does.

    Args:
        fit: The fit.
        function: Gets the outputs `(n, ...)`, on the fit's device; it takes no random numbers, so that draws stay those
            of `seed`.
        x: Inputs, `(n, ...)`.
        draws: Draws of the weights; default 32. One where they would all be the same.
        restart: Which restart; default the first.
        batch_size: Examples a forward pass; default 1024.
        seed: Of the draws; see `Fit.draws`.
        statistics: Those of batch normalisation; default None: of each draw, where the fit keeps inputs.

    Returns:
        What the function returned, draw by draw.

    Raises:
        ValueError: If `draws` is below 1, or the network does not take the inputs.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    one = fit.restart(restart)
    network = one.model.network
    x = like(x, next(network.parameters()))
    chosen = draw_statistics(fit, restart) if statistics is None else statistics
    found = []
    with torch.no_grad(), seeded(one.guide, one.seed, seed):
        for _ in range(1 if one.guide.is_certain else draws):
            weights = one.model.weights_at(one.guide.sample())
            buffers = chosen.at(weights)
            try:
                outputs = outputs_at(network, weights, x, batch_size, buffers)
            except (RuntimeError, ValueError) as problem:
                reason = first_line(problem)
                words = f"the network does not take inputs of shape {tuple(x.shape)} ({reason}){remedy_for(reason)}"
                raise ValueError(words) from problem
            found.append(function(outputs))
    return found


def _averaged(drawn: list[Tensor], statistics: DrawStatistics) -> Prediction:
    stacked = torch.stack(drawn)
    return Prediction(stacked.mean(dim=0), stacked.std(dim=0, correction=0), stacked, statistics.which)
