"""Records of restarts of unlike lengths as one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["padded"]


def padded(rows: Sequence[Sequence[Any]], length: int) -> np.ndarray[Any, Any]:
    """Stacks records, one sequence a restart; short ones are padded with NaN.

    Args:
        rows: One sequence a restart, of numbers or of arrays of one shape.
        length: Of the longest.

    Returns:
        An array, `(restarts, length, ...)`.
    """
    arrays = [np.asarray(r, dtype=np.float64) for r in rows]
    return np.stack([np.concatenate([a, np.full((length - len(a), *a.shape[1:]), np.nan)]) for a in arrays])
