"""Several restarts as one approximation of the posterior: a mixture, weighted by what each says of the evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from bayesprune.inference.fitted import Fitted
from bayesprune.inference.guides.seeded import seeded
from bayesprune.inference.inclusion.inclusion_notes import CORRELATED, DISAGREE, regression_of, why_no_elbo
from bayesprune.inference.inclusion.probabilities import probabilities_at
from bayesprune.inference.inclusion.weight_inclusion import weight_inclusion
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.predictions.metrics import averaged_scores
from bayesprune.inference.predictions.predictive import Prediction, outputs_of_draws
from bayesprune.models.checks.given_numbers import whole_number
from bayesprune.models.networks.placing import like

__all__ = ["Combined", "combined"]

WEIGHTS = ("elbo", "equal")
NOISE = 3.0
"""Nats by which the ELBOs of one solution may differ, besides their errors: a restart further below has failed."""


@dataclass(frozen=True)
class Combined:
    """The restarts of a fit as one mixture; print it for its weights.

    Attributes:
        fit: The fit.
        weights: Weight of each restart in the mixture, `(restarts,)`, summing to 1.
        elbo: ELBO of each restart, `(restarts,)`, in nats; NaN where weights are equal because they were asked to be.
            Of a tempered fit it is that of the likelihood to the power of one over the KL weight.
        error: Standard error of each ELBO over draws and, where it is of a part of the examples, over these, as far as
            it differs from the best restart's.
        solutions: Number of the solution that each restart has found, from 0: those of one number are the same.
        reason: How the weights came about, in a sentence.
    """

    fit: Fitted
    weights: np.ndarray
    elbo: np.ndarray
    error: np.ndarray
    solutions: tuple[int, ...]
    reason: str

    def __str__(self) -> str:
        lines = [self.reason, f"{'restart':>7}{'solution':>10}{'ELBO':>12}{'error':>8}{'weight':>9}"]
        rows = zip(self.solutions, self.elbo, self.error, self.weights, strict=True)
        lines += [f"{n:>7}{one:>10}{elbo:>12.2f}{err:>8.2f}{w:>9.3f}" for n, (one, elbo, err, w) in enumerate(rows)]
        return "\n".join(lines)

    def inclusion_probabilities(self, draws: int = 200) -> xr.Dataset:
        """The weighted mean of the restarts' inclusion probabilities, of models whose weights are identified.

        Args:
            draws: Draws of the latents where a probability has no closed form; default 200.

        Returns:
            As `Fit.inclusion_probabilities`; the attribute ``notes`` says where they may still be off.

        Raises:
            ValueError: For networks with hidden units, whose weights are other quantities in each restart; and as
                `Fit.inclusion_probabilities`.
        """
        if len(self.fit.restarts) > 1 and regression_of(self.fit) is None:
            raise ValueError(
                "hidden units of one restart are not those of another, so that inclusion probabilities of weights are "
                "not averaged over restarts: read those of one, fit.inclusion_probabilities(restart), or the "
                "predictions of all, combined().predict(x)"
            )
        found = [probabilities_at(self.fit, number, draws) for number in range(len(self.weights))]
        mean = weight_inclusion(self.fit, 0, draws).copy(deep=True)
        for name in mean:
            parts = [w * one[str(name)].numpy() for w, one in zip(self.weights, found, strict=True)]
            mean[name].values[...] = sum(parts)
        mean.attrs = {"weights": self.weights.tolist()}
        if self.fit.settings.get(CORRELATED):
            mean.attrs["notes"] = (
                "inputs are correlated, and each restart takes weights to be independent: a mixture of the restarts is "
                "nearer to the posterior than one, and may still be off"
            )
        return mean

    def predict(self, x: Tensor, draws: int = 128, seed: int | None = None) -> Prediction:
        """Predicts with the network averaged over draws of all restarts, each by its weight.

        Args:
            x: Inputs, `(n, ...)`.
            draws: Draws in all, shared out by the weights; default 128. A restart whose share is less than half a draw
                has none.
            seed: As for `Fit.draws`.

        Raises:
            ValueError: If the network does not take the inputs, or there are no draws.
        """
        drawn = torch.stack([mean for mean, _ in self._predicted(x, None, draws, seed)])
        return Prediction(drawn.mean(dim=0), drawn.std(dim=0, correction=0), drawn)

    def score(self, x: Tensor, y: Tensor, draws: int = 128, seed: int | None = None) -> dict[str, float]:
        """Scores of that prediction on held-out data: those of `Fit.score`, without the coverage of intervals.

        Args:
            x: Inputs, `(n, ...)`.
            y: Targets.
            draws: As for `predict`.
            seed: As for `predict`.

        Raises:
            ValueError: As `predict`.
        """
        drawn = self._predicted(x, y, draws, seed)
        mean, likelihood = torch.stack([one for one, _ in drawn]).mean(dim=0), self.fit.model.likelihood
        return averaged_scores(likelihood, mean, [density for _, density in drawn], y)

    def _predicted(self, x: Tensor, y: Tensor | None, draws: int, seed: int | None) -> list[tuple[Tensor, Tensor]]:
        """Mean and log density of each example at each draw, the restarts one after the other."""
        drawn: list[tuple[Tensor, Tensor]] = []
        for number, count in enumerate(shared_out(self.weights, whole_number("draws", draws))):
            if not count:
                continue
            model = self.fit.restarts[number].model
            likelihood = model.likelihood
            placed = None if y is None else like(y, next(model.network.parameters()))

            def of(outputs: Tensor, likelihood: Any = likelihood, placed: Tensor | None = placed) -> Any:
                density = torch.zeros(()) if placed is None else likelihood.scored.log_prob(outputs, placed).cpu()
                return likelihood.predict(outputs).cpu(), density

            found = outputs_of_draws(self.fit, of, x, count, number, seed=seed)
            drawn += found * (count if len(found) == 1 else 1)  # a point has one draw, and its weight
        return drawn


def combined(
    fit: Fitted,
    data: tuple[Tensor, Tensor] | None = None,
    weights: str = "elbo",
    draws: int = 500,
    seed: int | None = None,
) -> Combined:
    """The restarts of a fit as one approximation of the posterior, each weighted by its ELBO.

    A mixture of q_r, the guides of the restarts, with weights w_r has the ELBO sum_r w_r (ELBO_r - log w_r) as long as
    they hardly overlap, which is largest at w_r proportional to exp(ELBO_r) (Jaakkola & Jordan 1998). Restarts of a
    regression that have come to the same probabilities, and to the same ELBO within 3 nats and its error, overlap
    altogether: they count as one, whose ELBO is the best of theirs, and share its weight.
    Of a fit with KL weight T the ELBO is that of the likelihood to the power 1 / T, whose posterior it approximates.

    Of a regression with correlated inputs this is nearer to the posterior than a single restart; it is still no proof,
    as each restart takes weights to be independent, and no restart may have found a solution that matters. Of networks
    the ELBOs of restarts differ by so much that one of them has all the weight; ``weights="equal"`` averages them as
    an ensemble.

    Args:
        fit: The fit, of several restarts.
        data: Training data `(x, y)`, for the ELBO; default None: the examples that the fit keeps (all of them up to
            2,000; else their likelihood is scaled to the number of data).
        weights: ``"elbo"`` (default) or ``"equal"``.
        draws: Draws behind each ELBO; default 500.
        seed: As for `Fit.draws`.

    Raises:
        ValueError: If the weights are unknown; for the ELBO: if a site of the guide is a point, a prior is improper,
            or there are no data.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights= takes {' or '.join(map(repr, WEIGHTS))}, not {weights!r}")
    count = len(fit.restarts)
    if weights == "equal":
        nothing = np.full(count, math.nan)
        found = _solutions(fit, np.zeros(count), np.zeros(count))
        return Combined(fit, np.full(count, 1.0 / count), nothing, nothing, found, "equal weights, as asked for")
    if (why := why_no_elbo(fit)) is not None:
        raise ValueError(
            f"there is no ELBO to weigh restarts by, as {why}: use combined(weights='equal'), or fit with a guide that "
            "has a density at every site"
        )
    x, y = _examples(fit, data)
    draws = whole_number("draws", draws, least=2)
    evaluated = [_elbo(fit, number, x, y, draws, seed) for number in range(count)]
    elbo, error = np.array([one.elbo for one in evaluated]), np.array([one.error for one in evaluated])
    sampling = _sampling_errors(fit, evaluated, int(elbo.argmax()))
    error = np.sqrt(error**2 + sampling**2)
    solutions = _solutions(fit, elbo, error)
    numbers = np.array(solutions)
    best = np.array([elbo[numbers == one].max() for one in range(max(solutions) + 1)])
    share = np.exp(best - best.max())
    share /= share.sum()
    inside = np.exp(elbo - best[numbers])
    each = share[numbers] * inside / np.array([inside[numbers == one].sum() for one in solutions])
    tempered = float(fit.settings.get("kl_weight") or 1.0)
    reason = f"{count} restarts, {len(share)} solutions, weighted by their ELBO"
    reason += f" (of the likelihood to the power {1.0 / tempered:g})" if tempered != 1.0 else ""
    if len(x) < fit.model.data_size:
        reason += f", on {len(x):,} of {fit.model.data_size:,} examples"
        if bool(((elbo.max() - elbo < 3.0 * error) & (sampling > 1.0)).any()):
            reason += ", too few to tell their weights: give data=(x, y), all of the training data"
    if share.max() > 0.99 and len(share) > 1:
        reason += f": one has nearly all the weight; weights='equal' averages {count} of them"
    return Combined(fit, each, elbo, error, solutions, reason)


def shared_out(weights: np.ndarray, draws: int) -> list[int]:
    """Whole numbers of draws that sum to `draws`, as near as can be to the weights (largest remainders).

    Args:
        weights: Weights, `(restarts,)`, summing to 1.
        draws: How many.
    """
    exact = weights * draws
    counts = np.floor(exact + 1e-9).astype(int)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: draws - counts.sum()]] += 1
    return [int(count) for count in counts]


def _solutions(fit: Fitted, elbo: np.ndarray, error: np.ndarray) -> tuple[int, ...]:
    """Numbers of solutions by restart, of a regression: the same where probabilities agree, and ELBOs but for noise."""
    count = len(fit.restarts)
    name = regression_of(fit)
    try:
        if name is None:
            return tuple(range(count))
        found = [probabilities_at(fit, number)[name] for number in range(count)]
    except ValueError:  # a MAP, or a prior without an event
        return tuple(range(count))
    numbers = [-1] * count
    solutions: list[int] = []  # the best restart of each
    for number in np.argsort(-elbo, kind="stable"):
        same = [
            solution
            for solution, best in enumerate(solutions)
            if float((found[number] - found[best]).abs().max()) <= DISAGREE
            and elbo[best] - elbo[number] <= NOISE + 3.0 * math.hypot(error[best], error[number])
        ]
        if not same:
            solutions.append(int(number))
        numbers[number] = same[0] if same else len(solutions) - 1
    return tuple(numbers)


def _examples(fit: Fitted, data: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    if data is None:
        if fit.examples is None:
            raise ValueError(
                "the ELBO of the restarts needs the training data, and this fit keeps none: give combined(data=(x, y))"
            )
        return fit.examples
    if not (isinstance(data, (tuple, list)) and len(data) == 2 and all(torch.is_tensor(part) for part in data)):
        raise ValueError(f"data= takes the training data as a tuple (x, y) of tensors, not {type(data).__name__}")
    if len(data[0]) != len(data[1]) or not len(data[0]):
        raise ValueError(f"data= has {len(data[0])} inputs and {len(data[1])} targets: they must be as many, not none")
    return data[0], data[1]


@dataclass(frozen=True)
class _Evaluated:
    """The ELBO of a restart, its standard error over draws, and its log-likelihood of each example, `(n,)`, in nats."""

    elbo: float
    error: float
    likelihoods: np.ndarray


@torch.no_grad()
def _elbo(fit: Fitted, restart: int, x: Tensor, y: Tensor, draws: int, seed: int | None) -> _Evaluated:
    one = fit.restarts[restart]
    reference = next(one.model.network.parameters())
    placed = like(y, reference)
    scale = one.model.data_size / len(x)
    sums = np.zeros(len(x))

    def total(outputs: Tensor) -> float:
        nonlocal sums
        found = one.model.likelihood.log_prob(outputs, placed).double().cpu().numpy()
        sums = sums + found
        return scale * float(found.sum())

    likelihoods = np.array(outputs_of_draws(fit, total, x, draws, restart, seed=seed))
    objective = Objective(one.model, one.guide)
    first_x, first_y = like(x[:1], reference), placed[:1]
    terms: list[float] = []
    with seeded(one.guide, one.seed, seed):
        for _ in range(draws):
            terms.append(float(objective.terms(first_x, first_y).kl))
            if len(terms) == 3 and max(terms) - min(terms) <= 1e-6 * max(1.0, abs(terms[0])):
                break  # all in closed form
    kl = np.array(terms)
    tempered = float(fit.settings.get("kl_weight") or 1.0)
    variance = likelihoods.var(ddof=1) / len(likelihoods) / tempered**2 if len(likelihoods) > 1 else 0.0
    variance += kl.var(ddof=1) / len(kl)
    elbo = float(likelihoods.mean() / tempered - kl.mean())
    return _Evaluated(elbo, math.sqrt(variance), sums / len(likelihoods) / tempered)


def _sampling_errors(fit: Fitted, evaluated: list[_Evaluated], best: int) -> np.ndarray:
    """Standard error of each ELBO less the best one's that comes of looking at a part of the examples, in nats."""
    size, seen = fit.model.data_size, len(evaluated[0].likelihoods)
    if seen >= size or seen < 2:
        return np.zeros(len(evaluated))
    left = size / math.sqrt(seen) * math.sqrt(1.0 - seen / size)
    return np.array([left * (one.likelihoods - evaluated[best].likelihoods).std(ddof=1) for one in evaluated])
