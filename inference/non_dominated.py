"""The front of many points: those that no other beats in everything."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["non_dominated"]


def non_dominated(goods: Any) -> list[int]:
    """Indices of the points that no other point is at least as good as in all, from the best of the first column down.

    Of points that are equal in all the first stays; a point that lacks a number (NaN, infinity) is left out.

    Args:
        goods: `(points, measures)`, each column the better the larger; a size goes in with a minus.
    """
    values = np.asarray(goods, dtype=float)
    whole = np.flatnonzero(np.isfinite(values).all(axis=1))
    # Sorted by the columns in turn, so that whatever beats a point comes before it.
    order = whole[np.lexsort(-values[whole].T[::-1])]
    kept: list[int] = []
    for index in order:
        if not (values[kept] >= values[index]).all(axis=1).any():
            kept.append(int(index))
    return kept
