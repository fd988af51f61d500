"""Deleting many things at once: what single deletions cannot see, the redundancy among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from torch import Tensor

from bayesprune.analysis.deletion.deletion_setup import DeletionSetup
from bayesprune.analysis.deletion.deletions import (
    Array,
    Scores,
    paired_error,
)
from bayesprune.inference.fit_result import Fit

BANDS = (0.0, 0.05, 0.5, 0.95, 1.0)
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
    """

    table: xr.Dataset
    score: str
    per: str
    loss: float
    sets: int
    threshold: float
    probability: float

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
        return "\n".join(lines)


def set_deletion(
    fit: Fit,
    data: tuple[Tensor, Tensor],
    sizes: Sequence[int] = SIZES,
    bands: Sequence[float] = BANDS,
    sets: int = 20,
    per: str = "weight",
    scores: Scores | None = None,
    tensors: str | Sequence[str] | None = None,
    threshold: float = 2.0,
    probability: float = 0.89,
    seed: int = 0,
    restart: int = 0,
    base: str = "mean",
    batch_size: int = 1024,
    precision: str = "float64",
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
        scores: As in `deletion_calibration`; default None: inclusion probabilities.
        tensors: As in `deletion_calibration`.
        threshold: As in `deletion_calibration`; default 2.
        probability: Of the intervals over sets; default 0.89.
        seed: Of the sets; default 0. The global random states are left as they were.
        restart: Which restart; default the first.
        base: As in `deletion_calibration`.
        batch_size: Examples a forward pass; default 1024.
        precision: ``"float64"`` (default) or ``"float32"``.

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
    setup = DeletionSetup.of(fit, data, per, scores, tensors, restart, base, batch_size, precision)
    groups = setup.groups
    owner, number, score = _listed(groups, setup.by_weight)
    before = setup.losses()
    rng = np.random.default_rng(seed)
    band_of = np.searchsorted(edges, score, side="left") - 1
    band_of[score == edges[0]] = 0
    columns = ("change", "lower", "upper", "harmful", "additive")
    found = {key: np.full((len(edges) - 1, len(sizes)), np.nan) for key in columns}
    available = np.array([(band_of == band).sum() for band in range(len(edges) - 1)])
    tail = (1.0 - probability) / 2.0
    for band, place in ((b, s) for b in range(len(edges) - 1) for s in range(len(sizes))):
        members = np.flatnonzero(band_of == band)
        if len(members) < sizes[place]:
            continue
        drawn = [rng.choice(members, sizes[place], replace=False) for _ in range(sets)]
        masks = ({n: np.isin(groups[n], number[one[owner[one] == n]]) for n in np.unique(owner[one])} for one in drawn)
        differences = list(setup.differences(before, masks))
        changes = np.array([one.mean() for one in differences])
        found["change"][band, place] = changes.mean()
        found["lower"][band, place], found["upper"][band, place] = np.quantile(changes, [tail, 1.0 - tail])
        found["harmful"][band, place] = np.mean([one.mean() > threshold * paired_error(one) for one in differences])
        if place > 0:
            found["additive"][band, place] = found["change"][band, 0] * sizes[place] / sizes[0]
    table = xr.Dataset(
        {key: (("band", "size"), values) for key, values in found.items()}
        | {"low": ("band", edges[:-1]), "high": ("band", edges[1:]), "available": ("band", available)},
        coords={"size": sizes},
    )
    return SetDeletion(table, setup.score, per, float(before.mean()), sets, float(threshold), float(probability))


def _listed(groups: dict[str, Array], by_weight: dict[str, Array]) -> tuple[Array, Array, Array]:
    """Tensor, number in it, and mean score of every group of all tensors."""
    owners, numbers, scores = [], [], []
    for name, of_each in groups.items():
        flat = of_each.ravel()
        counts = np.bincount(flat)
        owners.append(np.full(len(counts), name, dtype=object))
        numbers.append(np.arange(len(counts)))
        scores.append(np.bincount(flat, weights=by_weight[name].ravel()) / counts)
    return np.concatenate(owners), np.concatenate(numbers), np.concatenate(scores)
