"""Deleting many things at once: what single deletions cannot see, the redundancy among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from bayesprune.analysis.deletion.deletion_setup import DeletionSetup, Examples
from bayesprune.analysis.deletion.deletions import Array, paired_error
from bayesprune.analysis.deletion.predictors import Predictor, Scores
from bayesprune.analysis.deletion.rank_correlations import CEILING, compared, comparison_lines
from bayesprune.inference.data.batches import Data
from bayesprune.inference.deletion.deletion_scores import set_scores
from bayesprune.inference.fit_result import Fit
from bayesprune.models.language.inclusion import UNDECIDED

BANDS = (0.0, UNDECIDED[0], 0.5, UNDECIDED[1], 1.0)
SIZES = (1, 10, 100, 1000)


@dataclass(frozen=True)
class SetDeletion:
    """What deleting random sets does to the held-out loss, by the band of the score that they were drawn from.

    Attributes:
        table: Over `(band, size)`: ``change`` (mean over sets of the mean held-out loss after minus before, nats per
            example), ``lower`` and ``upper`` (equal-tailed interval of the sets' changes), ``harmful`` (share of sets
            whose change exceeds `threshold` paired standard errors) and ``additive`` (the change of the smallest size
            in proportion: what the set would cost if its members did not stand in for one another; NaN in the
            smallest size's own column), NaN where the band is smaller than the set; over `band`: ``low``, ``high``
            (edges of the score) and ``available`` (how many groups it has).
        score: What the score is, in words.
        per: What is deleted as one.
        loss: Mean held-out loss of the base network, nats per example.
        sets: Sets of each size and band.
        threshold: Standard errors by which a change has to exceed zero to count as harmful.
        probability: Of the intervals.
        changes: Over `(band, size, set)`: ``change`` of each set, NaN where the band is smaller than the set; where a
            ceiling was asked for ``elsewhere``; over `(predictor, band, size, set)` ``predicted``, where several scores
            were, or one that predicts sets.
        comparison: Rank correlations within sets of one band and one size, else None: over `(predictor, layer)` as in
            `DeletionCalibration`, where a layer is such a band and size.
        elsewhere: On how many other examples the ceiling was measured; 0: there is none.
    """

    table: xr.Dataset
    score: str
    per: str
    loss: float
    sets: int
    threshold: float
    probability: float
    changes: xr.Dataset | None = None
    comparison: xr.Dataset | None = None
    elsewhere: int = 0

    def __str__(self) -> str:
        sizes = [int(size) for size in self.table["size"].values]
        lines = [
            f"change of the held-out loss of {self.loss:.4g} nats when sets are deleted ({self.per}s, {self.sets} sets "
            f"each), by {self.score}; in brackets what single ones would add up to",
            f"{'band':>14} {'available':>9}" + "".join(f"{size:>22,}" for size in sizes),
        ]
        for number in range(self.table.sizes["band"]):
            row = self.table.isel(band=number)
            cells = []
            for size in sizes:
                cell = row.sel(size=size)
                text = "-" if np.isnan(cell.change) else f"{float(cell.change):+.3g}"
                cells.append(text if np.isnan(cell.additive) else f"{text} ({float(cell.additive):+.3g})")
            edges = f"{float(row.low):.3g} to {float(row.high):.3g}"
            lines.append(f"{edges:>14} {int(row.available):>9,}" + "".join(f"{cell:>22}" for cell in cells))
        if self.comparison is not None:
            lines += ["", *comparison_lines(self.comparison, self.probability)]
        if self.elsewhere:
            lines.append(f"{CEILING}: the same sets deleted on {self.elsewhere:,} other examples")
        return "\n".join(lines)


def set_deletion(
    fit: Fit,
    data: Examples,
    sizes: Sequence[int] = SIZES,
    bands: Sequence[float] = BANDS,
    sets: int = 20,
    per: str = "weight",
    scores: Scores | Mapping[str, Any] | None = None,
    tensors: str | Sequence[str] | None = None,
    threshold: float = 2.0,
    probability: float = 0.89,
    seed: int = 0,
    restart: int = 0,
    base: str = "mean",
    batch_size: int = 1024,
    precision: str = "float64",
    train: Data | None = None,
    ceiling: Examples | int | None = None,
) -> SetDeletion:
    """Deletes random sets of a given size from each band of the inclusion probability.

    Single deletions are blind to redundancy: of two copies of a useful unit neither is missed, both are. Here whole
    sets go at once, drawn without replacement from the groups of all tensors whose score lies in a band. Where the
    change of a set is much more than what single ones add up to, its members stand in for one another.

    Args:
        fit: The fit; it is left as it was.
        data: Held-out `(x, y)`.
        sizes: How many groups a set has; default 1, 10, 100 and 1000.
        bands: Edges of the bands, ascending; the first band holds its lower edge too, the others only their upper one.
            Default 0, .05, .5, .95 and 1, for probabilities; needed with `scores`.
        sets: Sets of each size in each band; default 20.
        per: As in `deletion_calibration`, what counts as one; default ``"weight"``.
        scores: As in `deletion_calibration`; default None: inclusion probabilities. Where there are several, the first
            says which band a group is in. The score of a set is the sum of its members', but for ``"deletion"``: one
            gate on the whole set, see `set_scores`.
        tensors: As in `deletion_calibration`.
        threshold: As in `deletion_calibration`; default 2.
        probability: Of the intervals over sets; default 0.89.
        seed: Of the sets; default 0. The global random states are left as they were.
        restart: Which restart; default the first.
        base: As in `deletion_calibration`.
        batch_size: Examples a forward pass; default 1024.
        precision: ``"float64"`` (default) or ``"float32"``.
        train: As in `deletion_calibration`.
        ceiling: As in `deletion_calibration`.

    Returns:
        Changes of the loss by band and size; see `SetDeletion`.

    Raises:
        ValueError: As `deletion_calibration`; or if sizes or edges do not ascend, or a size is below 1.
    """
    sizes, edges = [int(size) for size in sizes], np.asarray(bands, dtype=float)
    if not sizes or sizes[0] < 1 or any(b <= a for a, b in zip(sizes, sizes[1:], strict=False)):
        raise ValueError(f"sizes must ascend and be at least 1, not {tuple(sizes)}")
    if len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"bands are edges that ascend, two at least, not {tuple(bands)}")
    if sets < 1 or batch_size < 1:
        raise ValueError(f"sets and batch_size must be at least 1, not {sets} and {batch_size}")
    if not 0.0 < probability < 1.0 or not 0.0 <= threshold < np.inf:
        raise ValueError(
            f"probability must lie strictly between 0 and 1 and threshold be at least 0, not {probability}, {threshold}"
        )
    setup = DeletionSetup.of(fit, data, per, scores, tensors, restart, base, batch_size, precision, train, ceiling)
    groups = setup.groups
    listed = {name: _listed(one) for name, one in setup.predictors.items()}
    owner, number, score = next(iter(listed.values()))
    before = setup.losses()
    rng = np.random.default_rng(seed)
    band_of = np.searchsorted(edges, score, side="left") - 1
    band_of[score == edges[0]] = 0
    columns = ("change", "lower", "upper", "harmful", "additive")
    found = {key: np.full((len(edges) - 1, len(sizes)), np.nan) for key in columns}
    available = np.array([(band_of == band).sum() for band in range(len(edges) - 1)])
    tail = (1.0 - probability) / 2.0
    several = len(setup.predictors) > 1 or setup.elsewhere is not None
    each = {name: np.full((len(edges) - 1, len(sizes), sets), np.nan) for name in ("", *setup.predictors, CEILING)}
    for band, place in ((b, s) for b in range(len(edges) - 1) for s in range(len(sizes))):
        members = np.flatnonzero(band_of == band)
        if len(members) < sizes[place]:
            continue
        drawn = [rng.choice(members, sizes[place], replace=False) for _ in range(sets)]
        masks = [{n: np.isin(groups[n], number[one[owner[one] == n]]) for n in np.unique(owner[one])} for one in drawn]
        differences = list(setup.differences(before, masks))
        changes = np.array([one.mean() for one in differences])
        each[""][band, place] = changes
        found["change"][band, place] = changes.mean()
        found["lower"][band, place], found["upper"][band, place] = np.quantile(changes, [tail, 1.0 - tail])
        found["harmful"][band, place] = np.mean([one.mean() > threshold * paired_error(one) for one in differences])
        if place > 0:
            found["additive"][band, place] = found["change"][band, 0] * sizes[place] / sizes[0]
        if several:
            for name, one in setup.predictors.items():
                if one.is_joint:
                    joint = set_scores(fit, masks, train, base=base, restart=restart)
                    each[name][band, place] = joint.change.numpy()
                else:
                    each[name][band, place] = [listed[name][2][chosen].sum() for chosen in drawn]
        if setup.elsewhere is not None:
            each[CEILING][band, place] = setup.means_elsewhere(masks)
    table = xr.Dataset(
        {key: (("band", "size"), values) for key, values in found.items()}
        | {"low": ("band", edges[:-1]), "high": ("band", edges[1:]), "available": ("band", available)},
        coords={"size": sizes},
    )
    changes_of_sets, comparison = _compared(setup, each, edges, sizes, probability, rng) if several else (None, None)
    return SetDeletion(
        table,
        setup.first.words,
        per,
        float(before.mean()),
        sets,
        float(threshold),
        float(probability),
        changes_of_sets,
        comparison,
        0 if setup.elsewhere is None else len(setup.elsewhere[0]),
    )


def _compared(
    setup: DeletionSetup,
    each: dict[str, Array],
    edges: Array,
    sizes: list[int],
    probability: float,
    rng: np.random.Generator,
) -> tuple[xr.Dataset, xr.Dataset]:
    """Changes and scores of every set, and their rank correlations within each band and size."""
    names = list(setup.predictors)
    axes = ("band", "size", "set")
    changes = xr.Dataset(
        {"change": (axes, each[""]), "predicted": (("predictor", *axes), np.stack([each[name] for name in names]))},
        coords={"size": sizes, "predictor": names},
    )
    predicted = {name: each[name].ravel() for name in names}
    if setup.elsewhere is not None:
        changes["elsewhere"] = (axes, each[CEILING])
        predicted[CEILING] = each[CEILING].ravel()
    cells = [
        f"{size} of {low:.3g} to {high:.3g}" for low, high in zip(edges, edges[1:], strict=False) for size in sizes
    ]
    cell = np.repeat(np.array(cells), each[""].shape[-1])
    known = np.isfinite(each[""].ravel())
    there = [one for one in cells if one in set(cell[known])]
    predicted = {name: values[known] for name, values in predicted.items()}
    table = compared(predicted, each[""].ravel()[known], cell[known], there, probability, rng)
    return changes, table.sel(layer=there)


def _listed(predictor: Predictor) -> tuple[Array, Array, Array]:
    """Tensor, number in it, and score of every group of all tensors."""
    scores = predictor.by_group
    owners = [np.full(len(one), name, dtype=object) for name, one in scores.items()]
    numbers = [np.arange(len(one)) for one in scores.values()]
    return np.concatenate(owners), np.concatenate(numbers), np.concatenate(list(scores.values()))
