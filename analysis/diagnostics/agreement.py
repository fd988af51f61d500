"""Whether restarts agree in what is identified: predictions, layers, inputs; never single weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from torch import Tensor

from bayesprune.inference.fit_result import Fit
from bayesprune.inference.inclusion.inclusion_notes import inclusion_notes

Array = np.ndarray

RATIO = 1.5
"""Restarts agree while draws of different ones differ by less than this many times what draws of one do."""


@dataclass(frozen=True)
class Agreement:
    """How far independent restarts agree; print it.

    Attributes:
        predictions: Over `measure`, means over examples and pairs: ``between`` (draws of different restarts),
            ``within`` (draws of one restart), ``averaged`` (restarts' predictions, each averaged over draws). Measures
            of classes are ``"total variation"`` in [0, 1] and ``"class disagreement"`` (share of examples whose most
            probable class differs), of other targets ``"absolute difference"`` in their units.
        included: Over `tensor`: ``mean`` over restarts of the number of included weights, and ``variation``, its
            standard deviation over its mean. Empty where the fit has no inclusion probabilities.
        inputs: Mean correlation over pairs of restarts of the mean inclusion probability by input of `tensor`; NaN
            where there is none.
        tensor: The tensor whose inputs were compared.
        verdict: ``"agree"``, ``"do not agree"`` (both of predictions) or ``"cannot tell"``.
        reason: Why, in one sentence.
        restarts: How many there are.
        notes: Sentences on the inclusion probabilities of a regression, on which restarts may disagree while their
            predictions agree.
    """

    predictions: xr.Dataset
    included: xr.Dataset
    inputs: float
    tensor: str
    verdict: str
    reason: str
    restarts: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.verdict}: {self.reason}"]
        if self.predictions.sizes.get("measure", 0):
            lines.append(f"{f'{self.restarts} restarts':<22}{'between':>9}{'within':>9}{'averaged':>10}")
            for name in self.predictions.measure.values:
                row = self.predictions.sel(measure=name)
                lines.append(f"{name:<22}{float(row.between):9.3g}{float(row.within):9.3g}{float(row.averaged):10.3g}")
        for name in self.included.tensor.values if self.included.sizes.get("tensor", 0) else ():
            row = self.included.sel(tensor=name)
            lines.append(f"{name}: {float(row['mean']):,.0f} included, varying by {float(row.variation):.1%}")
        if not math.isnan(self.inputs):
            lines.append(f"inclusion by input of {self.tensor}: correlation {self.inputs:.2f}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def agreement(fit: Fit, x: Tensor, draws: int = 32, tensor: str | None = None) -> Agreement:
    """Compares restarts in their predictions, their counts of included weights, and the inputs that they use.

    Units may be permuted and weights stand in for one another, so restarts include different weights and may still be
    the same function. Compared is what does not depend on that: predictions; how many weights of each layer are
    included; for each input of the first layer (pixels keep their places) the mean inclusion probability of its
    weights.

    Restarts ``"agree"`` where predictions of draws of different restarts differ by less than 1.5 times what draws of
    one restart do: a restart then says about the others what its own draws say. They ``"do not agree"`` where they
    differ by more: each holds one of several explanations, and its uncertainty leaves out the others (average the
    predictions of all restarts). With one restart, one draw, or draws that are all alike (a MAP) nothing can be told.

    Args:
        fit: The fit, of several restarts.
        x: Inputs, best held out, `(n, ...)`.
        draws: Draws of each restart; default 32.
        tensor: Whose inputs are compared, dimension 1; default None: the first tensor with a prior.

    Returns:
        The comparison.

    Raises:
        ValueError: If there is no such tensor, `draws` is below 1, or the network does not take `x`.
    """
    names = list(fit.model.priors)
    chosen = names[0] if tensor is None else tensor
    if chosen not in names:
        raise ValueError(f"there is no tensor {chosen!r} with a prior: name one of {', '.join(names)}")
    count = len(fit.restarts)
    if count < 2:
        reason = "one restart has nothing to agree with: fit with restarts=2 or more."
        return Agreement(xr.Dataset(), xr.Dataset(), math.nan, chosen, "cannot tell", reason, count)
    predictions = _predictions(fit, x, draws)
    included, inputs = _inclusion(fit, chosen)
    verdict, reason = _judge(predictions, draws)
    notes = tuple(inclusion_notes(fit))
    return Agreement(predictions, included, inputs, chosen, verdict, reason, count, notes)


def _predictions(fit: Fit, x: Tensor, draws: int) -> xr.Dataset:
    drawn = [fit.predict(x, draws, restart).draws.double() for restart in range(len(fit.restarts))]
    rows: dict[str, list[float]] = {}
    for name, distance in _distances(fit.model.likelihood.name).items():
        pairs = list(itertools.combinations(drawn, 2))
        between = [float(distance(a, b).mean()) for a, b in pairs]  # draws are independent: paired by their order
        within = [float(distance(one, one.roll(1, 0)).mean()) for one in drawn]
        averaged = [float(distance(a.mean(0), b.mean(0)).mean()) for a, b in pairs]
        rows[name] = [float(np.mean(each)) for each in (between, within, averaged)]
    columns = zip(("between", "within", "averaged"), np.array(list(rows.values())).T, strict=True)
    return xr.Dataset({name: ("measure", values) for name, values in columns}, coords={"measure": list(rows)})


def _distances(likelihood: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """How far two predictions are apart, `(..., n)`, by name of the measure."""
    if likelihood == "categorical":
        return {
            "total variation": lambda a, b: 0.5 * (a - b).abs().sum(-1),
            "class disagreement": lambda a, b: (a.argmax(-1) != b.argmax(-1)).double(),
        }
    if likelihood == "bernoulli":
        return {
            "total variation": lambda a, b: (a - b).abs(),
            "class disagreement": lambda a, b: ((a > 0.5) != (b > 0.5)).double(),
        }
    return {"absolute difference": lambda a, b: (a - b).abs()}


def _inclusion(fit: Fit, chosen: str) -> tuple[xr.Dataset, float]:
    """Counts of included weights by tensor, and the correlation of inclusion by input."""
    try:
        found = [fit.inclusion_probabilities(restart) for restart in range(len(fit.restarts))]
    except ValueError:  # a MAP, or a prior without an inclusion event
        return xr.Dataset(), math.nan
    counts = np.array([[float(one[name].sum()) for name in one] for one in found])
    mean = counts.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        variation = counts.std(axis=0, ddof=1) / mean
    table = xr.Dataset(
        {"mean": ("tensor", mean), "variation": ("tensor", variation)}, coords={"tensor": list(found[0])}
    )
    if found[0][chosen].ndim < 2:
        return table, math.nan
    by_input = [np.moveaxis(one[chosen].values, 1, 0).reshape(one[chosen].shape[1], -1).mean(axis=1) for one in found]
    if any(np.ptp(each) == 0 for each in by_input):
        return table, math.nan
    pairs = [np.corrcoef(a, b)[0, 1] for a, b in itertools.combinations(by_input, 2)]
    return table, float(np.mean(pairs))


def _judge(predictions: xr.Dataset, draws: int) -> tuple[str, str]:
    first = predictions.isel(measure=0)
    between, within, name = float(first.between), float(first.within), str(first.measure.values)
    if draws < 2 or not within > 0:
        why = "one draw of each restart has" if draws < 2 else "draws that are all alike have"
        return "cannot tell", f"{why} no spread to compare with."
    verdict = "agree" if between < RATIO * within else "do not agree"
    return verdict, f"{name} between draws of different restarts is {between / within:.2f} times that within one."
