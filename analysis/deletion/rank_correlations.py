"""Rank correlations of scores with what deleting does, their intervals, and how far they are from a ceiling."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy import stats

from bayesprune.analysis.deletion.deletions import Array

__all__ = [
    "ALL",
    "BOOTSTRAP",
    "CEILING",
    "area",
    "compared",
    "comparison_lines",
    "correlation_table",
    "percentiles",
    "spearman",
]

ALL = "all"
"""Name of the row for all tensors together."""
BOOTSTRAP = 1000
"""Bootstrap samples behind an interval."""
CEILING = "ceiling"
"""Name of the row of exact deletion on other data."""


def correlation_table(
    deletions: xr.Dataset, names: list[str], probability: float, rng: np.random.Generator
) -> xr.Dataset:
    """Rank correlations of the score with the change, over all deletions and by tensor; see `DeletionCalibration`.

    Args:
        deletions: What was deleted.
        names: The tensors.
        probability: Of the intervals.
        rng: Of the bootstrap.
    """
    tensor = deletions.tensor.values
    score, change, harmful = (deletions[key].values for key in ("score", "change", "harmful"))
    table = compared({"": score}, change, tensor, names, probability, rng).sel(predictor="").drop_vars("predictor")
    parts = [np.ones(len(tensor), dtype=bool), *(tensor == name for name in names)]
    table["auc"] = "layer", np.array([area(score[part], harmful[part]) for part in parts])
    table["deletions"] = "layer", np.array([int(part.sum()) for part in parts])
    table["harmful"] = "layer", np.array([int(harmful[part].sum()) for part in parts])
    return table


def spearman(a: Array, b: Array) -> Array:
    """Spearman's rank correlation along the last dimension, ties at their mean rank; NaN where one is constant."""
    if a.shape[-1] < 2:
        return np.full(a.shape[:-1], np.nan)
    ranks = [stats.rankdata(values, axis=-1) for values in (a, b)]
    first, second = (rank - (a.shape[-1] + 1) / 2 for rank in ranks)
    scale = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
    return np.divide((first * second).sum(-1), scale, out=np.full(a.shape[:-1], np.nan), where=scale > 0)


def area(score: Array, harmful: Array) -> float:
    """Area under the ROC curve, from the rank sum (Mann & Whitney 1947)."""
    positive, negative = int(harmful.sum()), int((~harmful).sum())
    if not positive or not negative:
        return float("nan")
    ranks = stats.rankdata(score)
    return float((ranks[harmful].sum() - positive * (positive + 1) / 2) / (positive * negative))


def percentiles(values: Array, probability: float) -> tuple[float, float]:
    """Equal-tailed interval of the values that are numbers; NaN where none is."""
    known = values[np.isfinite(values)]
    tail = (1.0 - probability) / 2.0
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [tail, 1.0 - tail])
    return float(low), float(high)


def compared(
    predicted: dict[str, Array],
    change: Array,
    strata: Array,
    names: list[str],
    probability: float,
    rng: np.random.Generator,
) -> xr.Dataset:
    """Rank correlations of several scores with the same changes, and how far each is below the ceiling.

    Args:
        predicted: Scores by name, `(deletions,)`; one named `CEILING` is what the others are compared with.
        change: What deleting did.
        strata: Name of the layer, or of what else deletions are drawn within, of each.
        names: The strata, in order; all together come first, where there is more than one deletion.
        probability: Of the intervals, percentiles of a bootstrap over deletions within strata: the same samples for
            all scores, so that differences are paired.
        rng: Of the bootstrap.

    Returns:
        Over `(predictor, layer)`: ``spearman``, ``lower``, ``upper``; with a ceiling ``below``, ``below_lower`` and
        ``below_upper``: the ceiling's correlation less that of the score. NaN where one is not defined.
    """
    places = {name: np.flatnonzero(strata == name) for name in names}
    again = {name: rng.choice(at, (BOOTSTRAP, len(at))) for name, at in places.items() if len(at)}
    layers, rows = [ALL, *names], list(predicted)
    columns = ["spearman", "lower", "upper"] + (["below", "below_lower", "below_upper"] if CEILING in predicted else [])
    found = {key: np.full((len(rows), len(layers)), np.nan) for key in columns}
    for column, layer in enumerate(layers):
        at = np.arange(len(change)) if layer == ALL else places[layer]
        parts = list(again.values()) if layer == ALL else [again[layer]] if layer in again else []
        draws = np.concatenate(parts, axis=1) if parts else np.zeros((1, 0), dtype=int)
        value = {name: float(spearman(score[at], change[at])) for name, score in predicted.items()}
        spread = {name: spearman(score[draws], change[draws]) for name, score in predicted.items()}
        for row, name in enumerate(rows):
            found["spearman"][row, column] = value[name]
            found["lower"][row, column], found["upper"][row, column] = percentiles(spread[name], probability)
            if CEILING in predicted:
                found["below"][row, column] = value[CEILING] - value[name]
                apart = percentiles(spread[CEILING] - spread[name], probability)
                found["below_lower"][row, column], found["below_upper"][row, column] = apart
    return xr.Dataset(
        {key: (("predictor", "layer"), values) for key, values in found.items()}, {"predictor": rows, "layer": layers}
    )


def comparison_lines(table: xr.Dataset, probability: float) -> list[str]:
    """What `compared` has found, a line a score, the interval beside each correlation.

    Args:
        table: The table.
        probability: Of its intervals.
    """
    names = [str(name) for name in table.predictor.values]
    width = max(len(name) for name in names)
    layers = [str(name) for name in table.layer.values]
    wide = max(25, *(len(layer) + 2 for layer in layers))
    title = "rank correlation with the change"
    lines = [
        f"{title}, {probability:.0%} intervals",
        f"{'':<{width}}" + "".join(f"{layer:>{wide}}" for layer in layers),
    ]
    for name in names:
        cells = []
        for layer in layers:
            row = table.sel(predictor=name, layer=layer)
            cells.append(f"{float(row.spearman):+.2f} ({float(row.lower):+.2f} to {float(row.upper):+.2f})")
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>{wide}}" for cell in cells))
    return lines
