"""A predictor of scores from features that states how sure it is: what a search asks which network to train next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from bayesprune.analysis.structure.graph_features import FeatureTable, GraphLike, feature_table
from bayesprune.analysis.structure.regressors import REGRESSORS, fitted, mean_and_sd, regressor

__all__ = ["PerformancePredictor"]

Array = npt.NDArray[np.float64]
_SILENT = ("hist-gradient-boosting",)


class PerformancePredictor:
    """Predicts scores from features of graphs, each with an sd.

    The sd of ``"random-forest"`` and ``"adaboost"`` is how far their trees disagree, that of the others the predictive
    one, noise included.

    Args:
        regressor: ``"random-forest"`` (default), ``"bayesian-ridge"``, ``"gaussian-process"``, ``"adaboost"`` or
            ``"horseshoe"``.
        seed: Of its random numbers; default 0.

    Raises:
        ValueError: If it is none of these; gradient boosting states no sd.
    """

    def __init__(self, regressor: str = "random-forest", seed: int = 0) -> None:
        known = [name for name in REGRESSORS if name not in _SILENT]
        if regressor not in known:
            raise ValueError(f"a predictor states its sd, and {regressor!r} does not: give one of {', '.join(known)}")
        self.regressor, self.seed = regressor, seed
        self._fitted: Any = None

    def fit(self, features: Array | FeatureTable | Sequence[GraphLike], scores: Any) -> Self:
        """Fits it anew; nothing is kept of earlier fits.

        Args:
            features: `(n, features)`, a table, or graphs.
            scores: `(n,)`, finite.

        Raises:
            ValueError: In one sentence, if these do not fit together.
        """
        x, y = _numbers(features), np.asarray(scores, dtype=np.float64)
        if y.shape != x.shape[:1] or not np.isfinite(y).all():
            raise ValueError(f"scores of shape {y.shape} do not belong to {len(x)} rows: give a finite score a row")
        self._fitted = fitted(regressor(self.regressor, self.seed), x, y)
        return self

    def predict(self, features: Array | FeatureTable | Sequence[GraphLike]) -> tuple[Array, Array]:
        """Means and sds, `(n,)`, in units of the scores.

        Args:
            features: As `fit` takes them.

        Raises:
            ValueError: In one sentence, if it has not been fitted, or on other features.
        """
        if self._fitted is None:
            raise ValueError("this predictor has seen no scores yet: call fit first")
        x = _numbers(features)
        if x.shape[1] != self._fitted.n_features_in_:
            raise ValueError(
                f"it was fitted on {self._fitted.n_features_in_} features and asked about {x.shape[1]}: give the same"
            )
        return mean_and_sd(self._fitted, x)

    def __repr__(self) -> str:
        return f"PerformancePredictor({self.regressor!r}, seed={self.seed})"


def _numbers(features: Array | FeatureTable | Sequence[GraphLike]) -> Array:
    if isinstance(features, FeatureTable):
        return features.values
    if isinstance(features, np.ndarray):
        if features.ndim != 2 or not len(features) or not np.isfinite(features).all():
            raise ValueError(
                f"features of shape {features.shape} are no finite numbers (n, features): give a row a graph"
            )
        return features.astype(np.float64)
    return feature_table(features).values
