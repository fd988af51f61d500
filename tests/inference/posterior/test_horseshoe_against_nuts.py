"""Horseshoe regression: the mean-field guide beside NUTS on the same Bayesian network."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.exact_posteriors import horseshoe_beside_nuts


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_mean_field_means_of_a_horseshoe_regression_are_those_of_nuts():
    """Means of the strong weights within 0.1 posterior sd and two Monte Carlo errors.

    Of the five empty features one mean is just outside that. Standard deviations do not agree: the product of three
    independent factors is too wide, 1.5 to 1.6 times for the strong weights and 1.0 to 1.3 times for the others,
    also where the fit is two and a half times as long.
    """
    found = horseshoe_beside_nuts()
    away, ratio = np.abs(found["meanfield_mean"] - found["nuts_mean"]), found["ratio"]
    strong = np.abs(found["truth"]) > 1.0
    assert (found["effective"] > 30).all()
    assert (away[strong] < 0.1 * found["nuts_sd"][strong] + found["error"][strong]).all(), found
    assert (ratio > 0.8).all() and (ratio < 2.0).all(), found
    assert (ratio[strong] > 1.2).all(), found  # should that improve, the docs are to be changed
