"""A ready surrogate: a random forest, whose trees disagree where they know little."""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import RandomForestRegressor

__all__ = ["ForestSurrogate"]


class ForestSurrogate:
    """A `Surrogate` by scikit-learn's random forest: the mean of its trees, and their standard deviation.

    Args:
        trees: How many; default 100.
        seed: Of the forest; default 0. The same trainings give the same predictions.
    """

    def __init__(self, trees: int = 100, seed: int = 0) -> None:
        self.trees, self.seed = trees, seed
        self._forest: RandomForestRegressor | None = None

    def fit(self, features: np.ndarray, scores: np.ndarray) -> ForestSurrogate:
        """Learns from features `(n, d)` and scores `(n,)`."""
        self._forest = RandomForestRegressor(self.trees, random_state=self.seed, n_jobs=1).fit(features, scores)
        return self

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations over trees, `(n,)` each, at features `(n, d)`.

        Raises:
            ValueError: If it was not fitted.
        """
        if self._forest is None:
            raise ValueError("this surrogate has not been fitted: call fit(features, scores) first")
        each = np.stack([tree.predict(features) for tree in self._forest.estimators_])
        return each.mean(axis=0), each.std(axis=0)

    def __repr__(self) -> str:
        return f"ForestSurrogate(trees={self.trees}, seed={self.seed})"
