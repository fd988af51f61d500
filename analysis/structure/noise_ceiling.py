"""How much of the scores any feature of graphs can explain at all, from several seeds a graph."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bayesprune.analysis.structure.cross_validation import r2

__all__ = ["NoiseCeiling", "noise_ceiling"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NoiseCeiling:
    """What seeds leave to chance.

    Attributes:
        graphs: Graphs with two seeds or more, from which it is estimated.
        of_one: Share of the variance of the score of one seed that is between graphs (the intraclass correlation, by
            the analysis of variance of one way; 0 where it comes out below): the largest R2 that features of graphs
            can have on such scores.
        of_scores: The same for the scores that were predicted, each the mean over as many seeds as its graph has.
        other_seeds: R2 of predicting the score of a seed by the mean of the graph's other ones; below `of_one`, as
            these are of a few seeds themselves.
        seed_sd: Standard deviation of scores over seeds of a graph, in units of the scores.
    """

    graphs: int
    of_one: float
    of_scores: float
    other_seeds: float
    seed_sd: float

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)


def noise_ceiling(scores: Array) -> NoiseCeiling | None:
    """The ceiling from scores of several seeds.

    Args:
        scores: `(graphs, seeds)`, NaN where a seed was not trained.

    Returns:
        The ceiling; None where fewer than three graphs have several seeds, or scores are all equal.
    """
    counts = np.isfinite(scores).sum(1)
    several = scores[counts > 1]
    k = counts[counts > 1].astype(np.float64)
    if len(several) < 3:
        return None
    means, total = np.nanmean(several, 1), k.sum()
    within = float(np.nansum((several - means[:, None]) ** 2)) / (total - len(k))
    grand = float(np.nansum(several)) / total
    between = float((k * (means - grand) ** 2).sum()) / (len(k) - 1)
    typical = (total - (k**2).sum() / total) / (len(k) - 1)  # seeds a graph, where graphs have unlike numbers
    graphs = max(0.0, (between - within) / typical)
    if graphs + within == 0.0:
        return None
    others = (k[:, None] * means[:, None] - several) / (k[:, None] - 1.0)
    there = np.isfinite(several)
    left = within * float((1.0 / counts[counts > 0]).mean())
    return NoiseCeiling(
        graphs=len(k),
        of_one=float(graphs / (graphs + within)),
        of_scores=float(graphs / (graphs + left)) if graphs + left > 0.0 else 0.0,
        other_seeds=r2(several[there], others[there]),
        seed_sd=within**0.5,
    )
