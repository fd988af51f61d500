"""Regressors by name, each with what it says of its own uncertainty: scikit-learn's, and a horseshoe."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import AdaBoostRegressor, HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import BayesianRidge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from bayesprune.analysis.structure.horseshoe_regression import HorseshoeRegression

__all__ = ["REGRESSORS", "fitted", "mean_and_sd", "regressor"]

Array = npt.NDArray[np.float64]

REGRESSORS: dict[str, Callable[[int], Any]] = {
    "bayesian-ridge": lambda seed: BayesianRidge(),
    "random-forest": lambda seed: RandomForestRegressor(random_state=seed),
    "adaboost": lambda seed: AdaBoostRegressor(random_state=seed),
    "gaussian-process": lambda seed: GaussianProcessRegressor(
        ConstantKernel(1.0, (1e-2, 1e2)) * RBF(3.0, (0.3, 1e2)) + WhiteKernel(0.5, (1e-3, 1e1)),
        normalize_y=True,
        random_state=seed,
    ),
    "hist-gradient-boosting": lambda seed: HistGradientBoostingRegressor(random_state=seed),
    "horseshoe": lambda seed: HorseshoeRegression(seed=seed),
}
"""A fresh regressor of a seed by name; all settings that are not said here are scikit-learn's."""


def regressor(name: str, seed: int = 0) -> Pipeline:
    """A regressor behind a standardisation of the features, which is fitted on what it is fitted on, and nothing else.

    Args:
        name: One of `REGRESSORS`.
        seed: Of its random numbers; default 0.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in REGRESSORS:
        raise ValueError(f"there is no regressor {name!r}: one of {', '.join(REGRESSORS)} is expected")
    return make_pipeline(StandardScaler(), REGRESSORS[name](seed))


def fitted(fresh: Pipeline, features: Array, scores: Array) -> Pipeline:
    """The regressor, fitted in place.

    That a parameter of a kernel ends at its bound, as the noise of scores that have none, is no news: scores out of
    fold tell whether it matters.

    Args:
        fresh: As `regressor` makes it.
        features: `(n, features)`.
        scores: `(n,)`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fresh.fit(features, scores)


def mean_and_sd(model: Pipeline, features: Array) -> tuple[Array, Array]:
    """What a fitted regressor predicts, and the sd that it states.

    Of a Bayesian ridge, a Gaussian process and the horseshoe that is the predictive sd, noise included. Of a forest and
    of AdaBoost it is the sd of the predictions of their trees (in AdaBoost by the weights of the trees): how far the
    trees disagree, without the noise. Gradient boosting states none.

    Args:
        model: As `fitted` returns it.
        features: `(n, features)`.

    Returns:
        Means `(n,)`, and sds `(n,)`, NaN where it states none.
    """
    scaled, last = model[:-1].transform(features), model[-1]
    if isinstance(last, BayesianRidge | GaussianProcessRegressor | HorseshoeRegression):
        mean, sd = last.predict(scaled, return_std=True)
        return np.asarray(mean), np.asarray(sd)
    mean = np.asarray(last.predict(scaled), dtype=np.float64)
    if isinstance(last, RandomForestRegressor):
        return mean, np.std([tree.predict(scaled) for tree in last.estimators_], axis=0)
    if isinstance(last, AdaBoostRegressor):
        trees = np.array([tree.predict(scaled) for tree in last.estimators_])
        weights = last.estimator_weights_[: len(trees), None]
        centre = (weights * trees).sum(0) / weights.sum()
        return mean, np.sqrt((weights * (trees - centre) ** 2).sum(0) / weights.sum())
    return mean, np.full(len(mean), np.nan)
