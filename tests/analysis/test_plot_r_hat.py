"""The panel of R-hat holds the table's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import bayesprune as bp
from bayesprune.analysis.convergence import Convergence


def made(quantities, windows=3, seed=0):
    """A result with random R-hats, one of them undefined."""
    generator = np.random.default_rng(seed)
    r_hat = 1.0 + generator.exponential(0.2, size=(windows, quantities))
    r_hat[0, 0] = np.nan
    within = 1.0 + generator.exponential(0.2, size=(windows, quantities))
    table = xr.Dataset(
        {
            "r_hat": (("window", "quantity"), r_hat),
            "r_hat_within": (("window", "quantity"), within),
            "first_step": ("window", 10.0 * np.arange(windows) + 1),
            "last_step": ("window", 10.0 * np.arange(windows) + 10),
        },
        coords={"window": np.arange(windows) + 1, "quantity": [f"q{number}" for number in range(quantities)]},
    )
    return Convergence(table, "not converged", "q1 still moves.", 0.0, 0.0)


def texts(axis):
    return [text.get_text() for text in axis.texts]


def test_every_cell_says_its_number_and_has_its_colour():
    found = made(4)
    left, right, _ = bp.plot_r_hat(found).axes
    values = found.table.r_hat.values.T
    assert texts(left) == ["\N{EN DASH}"] + [f"{value:.3f}" for value in values.ravel()[1:]]
    assert texts(right) == [f"{value:.3f}" for value in found.table.r_hat_within.values[-1]]
    drawn = left.images[0].get_array().filled(np.nan)
    np.testing.assert_allclose(drawn.ravel()[1:], np.maximum(values.ravel()[1:] - 1.0, 0.01))
    assert [label.get_text() for label in left.get_yticklabels()] == ["q0", "q1", "q2", "q3"]
    assert [label.get_text() for label in left.get_xticklabels()] == ["1\u201310", "11\u201320", "21\u201330"]


def test_of_many_quantities_those_that_move_most_are_drawn():
    found = made(30)
    figure = bp.plot_r_hat(found)
    assert figure.get_suptitle() == "R-hat: not converged (24 of 30 quantities)"
    last = found.table.r_hat_within.values[-1]
    expected = sorted(np.argsort(last)[-24:])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [f"q{row}" for row in expected]


def test_a_fit_s_own_table_is_drawn(make_fit):
    found = bp.convergence(make_fit({"fc3.weight": bp.Horseshoe()}, epochs=20))
    left, right, _ = bp.plot_r_hat(found).axes
    assert float(texts(right)[0]) == pytest.approx(float(found.table.r_hat_within.values[-1, 0]), abs=5e-4)
    assert len(texts(left)) == found.table.r_hat.size


def test_wrong_input_is_told(spike):
    with pytest.raises(ValueError, match=r"there is no R-hat to draw \(.* are needed at least\): fit longer"):
        bp.plot_r_hat(bp.convergence(spike))
    with pytest.raises(ValueError, match="has no format"):
        bp.plot_r_hat(None, path="figure.bmp")
