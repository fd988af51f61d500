"""Cross-validation of a regressor: predictions for rows that it was not fitted on, and how good they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau, spearmanr
from sklearn.model_selection import GroupKFold, KFold
from sklearn.pipeline import Pipeline

from bayesprune.analysis.structure.regressors import fitted, mean_and_sd

__all__ = ["Folds", "bootstrapped", "most_correlated", "out_of_fold", "r2", "rank_correlations", "repeated_folds"]

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Folds = Sequence[tuple[Rows, Rows]]
"""Rows to fit on and rows to predict, of each fold."""


def repeated_folds(rows: int, folds: int, repeats: int, seed: int, groups: Sequence[str] | None = None) -> list[Folds]:
    """Folds of every repeat.

    Args:
        rows: How many there are.
        folds: Folds of a repeat.
        repeats: How often rows are dealt out anew.
        seed: Of the first repeat; the next ones have the next numbers.
        groups: Names `(rows,)`: those of a group stay together, so that it is predicted from other groups alone; with
            as many folds as groups at most, and then repeats are all alike, so that there is only one. Default None:
            rows are dealt out one by one.
    """
    if groups is None:
        return [
            list(KFold(folds, shuffle=True, random_state=seed + one).split(np.zeros(rows))) for one in range(repeats)
        ]
    kinds = len(set(groups))
    if kinds <= folds:
        return [list(GroupKFold(kinds).split(np.zeros(rows), groups=groups))]
    return [
        list(GroupKFold(folds, shuffle=True, random_state=seed + one).split(np.zeros(rows), groups=groups))
        for one in range(repeats)
    ]


def out_of_fold(
    make: Callable[[], Pipeline],
    features: Array,
    scores: Array,
    folds: Folds,
    choose: Callable[[Array, Array], Sequence[int]] | None = None,
) -> tuple[Array, Array]:
    """Predictions for every row, and their stated sds, by regressors fitted on the other folds.

    Args:
        make: A fresh regressor, as `bayesprune.analysis.structure.regressors.regressor` makes it.
        features: `(n, features)`.
        scores: `(n,)`.
        folds: The folds.
        choose: Which columns are used, of features and scores of the rows that it is fitted on; default None: all.

    Returns:
        Means and sds, `(n,)`.
    """
    means, sds = np.full(len(scores), np.nan), np.full(len(scores), np.nan)
    for kept, left in folds:
        columns = list(range(features.shape[1])) if choose is None else list(choose(features[kept], scores[kept]))
        model = fitted(make(), features[kept][:, columns], scores[kept])
        means[left], sds[left] = mean_and_sd(model, features[left][:, columns])
    return means, sds


def most_correlated(features: Array, scores: Array) -> list[int]:
    """The column of the largest absolute rank correlation with the scores, the first of equal ones.

    Args:
        features: `(n, features)`.
        scores: `(n,)`.
    """
    found = [0.0 if np.ptp(column) == 0.0 else abs(_rank(spearmanr, column, scores)) for column in features.T]
    return [int(np.argmax(found))]


def r2(scores: Array, predictions: Array) -> float:
    """1 - the mean squared error / the variance of the scores, of all rows at once; NaN where scores are all equal."""
    spread = float(((scores - scores.mean()) ** 2).sum())
    return float("nan") if spread == 0.0 else 1.0 - float(((scores - predictions) ** 2).sum()) / spread


def rank_correlations(scores: Array, predictions: Array) -> tuple[float, float]:
    """Spearman's rho and Kendall's tau-b; 0 where predictions are all equal, which rank nothing."""
    return _rank(spearmanr, scores, predictions), _rank(kendalltau, scores, predictions)


def _rank(measure: Callable[[Array, Array], tuple[float, float]], one: Array, other: Array) -> float:
    return 0.0 if np.ptp(one) == 0.0 or np.ptp(other) == 0.0 else float(measure(one, other)[0])


def bootstrapped(scores: Array, predictions: Array, draws: int, seed: int) -> Array:
    """R2 of rows drawn with replacement, the mean over repeats: how much it depends on which rows there were.

    The regressors are not fitted again, so that the spread leaves out what another training would change.

    Args:
        scores: `(n,)`.
        predictions: Of each repeat, `(repeats, n)`.
        draws: How many.
        seed: Of the rows; the same rows for the same seed, so that differences of two regressors are paired.

    Returns:
        `(draws,)`.
    """
    rows = np.random.default_rng(seed).integers(0, len(scores), (draws, len(scores)))
    drawn = scores[rows]
    spread = ((drawn - drawn.mean(1, keepdims=True)) ** 2).sum(1)
    errors = ((scores - predictions) ** 2).mean(0)[rows].sum(1)
    return 1.0 - errors / np.where(spread == 0.0, np.nan, spread)
