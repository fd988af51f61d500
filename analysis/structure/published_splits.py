"""The published protocol, a single split of few rows to test on, and what other splits would have said."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler

from bayesprune.analysis.structure.cross_validation import r2
from bayesprune.analysis.structure.regressors import fitted

__all__ = ["PUBLISHED_SEED", "split_scores"]

Array = npt.NDArray[np.float64]

PUBLISHED_SEED = 7
"""Of the split behind the published figures."""
_SHARE = 0.1


def split_scores(make: Callable[[], Pipeline], features: Array, scores: Array, seeds: Sequence[int]) -> Array:
    """R2 on a tenth of the rows, fitted on the others, by seed of the split.

    As published, features are scaled to [0, 1] by all rows, those of the test among them; regressors are seeded, which
    the published ones were not.

    Args:
        make: A fresh regressor.
        features: `(n, features)`.
        scores: `(n,)`.
        seeds: Of `sklearn.model_selection.train_test_split`.

    Returns:
        `(seeds,)`; NaN where the tested scores are all equal.
    """
    scaled, found = MinMaxScaler().fit_transform(features), []
    for seed in seeds:
        x, x_test, y, y_test = train_test_split(scaled, scores, test_size=_SHARE, random_state=seed)
        found.append(r2(y_test, fitted(make(), x, y).predict(x_test)))
    return np.array(found)
