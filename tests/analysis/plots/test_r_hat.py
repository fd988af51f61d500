"""The panel of R-hat holds the table's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import bayesprune as bp
from bayesprune.analysis.diagnostics.convergence import Convergence


def made(quantities, windows=3, seed=0, restarts=3, moving=(1,)):
    """A result with random R-hats, one of them undefined; the verdict counts the quantities of `moving`."""
    generator = np.random.default_rng(seed)
    r_hat = 1.0 + generator.exponential(0.2, size=(windows, quantities))
    r_hat[0, 0] = np.nan
    within = 1.0 + generator.exponential(0.2, size=(windows, quantities))
    table = xr.Dataset(
        {
            "r_hat": (("window", "quantity"), r_hat),
            "r_hat_within": (("window", "quantity"), within),
            "change": (("window", "quantity"), np.full((windows, quantities), 0.004)),
            "matters": (("window", "quantity"), np.isin(np.arange(quantities), moving)[None].repeat(windows, 0)),
            "moves": (("window", "quantity"), np.isin(np.arange(quantities), moving)[None].repeat(windows, 0)),
            "first_step": ("window", 10.0 * np.arange(windows) + 1),
            "last_step": ("window", 10.0 * np.arange(windows) + 10),
        },
        coords={"window": np.arange(windows) + 1, "quantity": [f"q{number}" for number in range(quantities)]},
        attrs={"r_hat_limit": 1.23, "restarts": restarts},
    )
    return Convergence(table, "not converged", "q1 still moves.", 0.0, 0.0)


def texts(axis):
    return [text.get_text() for text in axis.texts]


def test_every_cell_says_its_number_and_has_its_colour():
    found = made(4)
    left, middle, _, _ = bp.plot_r_hat(found).axes
    values = found.table.r_hat.values.T
    assert texts(left) == ["\N{EN DASH}"] + [f"{value:.3f}" for value in values.ravel()[1:]]
    assert texts(middle) == [f"{value:.3f}" for value in found.table.r_hat_within.values[-1]]
    drawn = left.images[0].get_array().filled(np.nan)
    np.testing.assert_allclose(drawn.ravel()[1:], np.maximum(values.ravel()[1:] - 1.0, 0.01))
    assert [label.get_text() for label in left.get_yticklabels()] == ["q0", "q1", "q2", "q3"]
    assert [label.get_text() for label in left.get_xticklabels()] == ["1\u201310", "11\u201320", "21\u201330"]


def test_what_the_verdict_counts_has_a_colour_and_what_it_does_not_has_none():
    found = made(4, moving=(2,))
    left, middle, right, bar = bp.plot_r_hat(found).axes
    coloured = np.isfinite(middle.images[0].get_array().filled(np.nan)).ravel()
    assert coloured.tolist() == [False, False, True, False]
    assert texts(right) == ["0.4 % \u2264 1 %", "0.4 % \u2264 1 %", "0.4 % > 1 %", "0.4 % \u2264 1 %"]
    assert np.isfinite(left.images[0].get_array().filled(np.nan)).sum() == 11  # R-hat of restarts: all, less a NaN
    alone = bp.plot_r_hat(made(4, moving=(2,), restarts=1)).axes[0]  # halves of each window: the same rule
    assert np.isfinite(alone.images[0].get_array().filled(np.nan)).any(axis=1).tolist() == coloured.tolist()


def test_the_colours_do_not_end_below_the_largest_r_hat():
    found = made(6)
    found.table["r_hat"][1, 1] = 7.5
    found.table["r_hat_within"][-1, 1] = 9.0
    left, middle, _, bar = bp.plot_r_hat(found).axes
    assert left.images[0].norm is middle.images[0].norm and left.images[0].norm.vmax == 8.0
    assert [text.get_text() for text in bar.get_yticklabels()][-1] == "4"
    assert bp.plot_r_hat(made(4)).axes[0].images[0].norm.vmax < 8.0  # control


def test_the_table_says_what_fails_the_fit(make_fit):
    fit = make_fit({"fc3.weight": bp.Horseshoe()}, epochs=40)
    found = bp.convergence(fit)
    last = found.table.isel(window=-1)
    creeping = (last.r_hat_within > last.attrs["r_hat_limit"]) & ~last.matters
    assert creeping.any() and not (creeping & last.moves).any()
    for name in last.quantity.values:
        row = last.sel(quantity=name)
        allowed = 0.001 if name == "negative_elbo" else 0.01
        assert bool(row.matters) == (float(row.change) > allowed)
        assert bool(row.moves) == (bool(row.matters) and float(row.r_hat_within) > last.attrs["r_hat_limit"])
    moved = [str(name) for name in last.quantity.values[last.moves.values]]
    if found.verdict == "not converged" and "still moves" in found.reason:
        assert found.reason.split(" still moves")[0].replace("minus the ELBO", "negative_elbo") in moved
    else:
        assert not moved or "ELBO" in found.reason


def test_a_series_that_creeps_is_grey_and_one_that_moves_is_named():
    from bayesprune.analysis.diagnostics.convergence import _cut, _judged, _table, judge

    steps, noise = np.arange(400.0), np.random.default_rng(0).normal(size=400)
    series = {
        "negative_elbo": 100.0 + 50.0 * np.exp(-steps / 10.0) + noise,
        "log creeping": 1.0 + 1e-6 * steps,
        "log moving": 1.0 + 1e-3 * steps,
    }
    cut = {name: _cut([values], 4) for name, values in series.items()}
    table = _table(cut, _cut([steps], 4))
    last = _judged(table, cut, abs(float(cut["negative_elbo"][0].mean() - cut["negative_elbo"][-1].mean()))).isel(
        window=-1
    )
    assert (last.r_hat_within.values[1:] > 3.0).all()  # both separate the halves
    assert last.moves.values.tolist() == [False, False, True]
    assert float(last.sel(quantity="log moving").change) == pytest.approx(0.05)
    assert judge([series], 4)[1].startswith("log moving still moves")
    del series["log moving"]
    assert judge([series], 4)[0] != "not converged"


def test_of_many_quantities_those_that_count_and_then_those_that_move_most_are_drawn():
    found = made(30, moving=(np.argsort(made(30).table.r_hat_within.values[-1])[0],))
    figure = bp.plot_r_hat(found)
    assert figure.get_suptitle() == "R-hat: not converged (24 of 30 quantities)\nq1 still moves."
    last = found.table.r_hat_within.values[-1]
    expected = sorted([np.argsort(last)[0], *np.argsort(last)[-23:]])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [f"q{row}" for row in expected]


def test_a_fit_s_own_table_is_drawn(make_fit):
    found = bp.convergence(make_fit({"fc3.weight": bp.Horseshoe()}, epochs=20))
    left, middle, _, _ = bp.plot_r_hat(found).axes
    assert float(texts(middle)[0]) == pytest.approx(float(found.table.r_hat_within.values[-1, 0]), abs=5e-4)
    assert len(texts(left)) == found.table.r_hat.size


def test_wrong_input_is_told(spike):
    with pytest.raises(ValueError, match=r"there is no R-hat to draw \(.* are needed at least\): fit longer"):
        bp.plot_r_hat(bp.convergence(spike))
    with pytest.raises(ValueError, match="has no format"):
        bp.plot_r_hat(None, path="figure.bmp")


@pytest.mark.parametrize("restarts", [1, 3])
def test_what_is_not_defined_is_a_dash_without_a_colour(restarts):
    found = made(3, moving=(0, 1), restarts=restarts)
    table = found.table
    for name in ("r_hat", "r_hat_within", "change"):
        table[name].values[:, 1] = np.nan
    left, middle, right, _ = bp.plot_r_hat(found).axes
    cells = np.array(texts(left)).reshape(3, 3)
    assert (cells[1] == "\N{EN DASH}").all() and (cells[2] != "\N{EN DASH}").all()
    assert [text == "\N{EN DASH}" for text in texts(middle)] == [False, True, False]
    assert [text == "\N{EN DASH}" for text in texts(right)] == [False, True, False]
    assert not np.isfinite(middle.images[0].get_array().filled(np.nan)[1]).any()
    assert np.isfinite(middle.images[0].get_array().filled(np.nan)[0]).all()  # control
    for name in ("r_hat", "r_hat_within"):
        table[name].values[:] = np.nan
    assert set(texts(bp.plot_r_hat(found).axes[0])) == {"\N{EN DASH}"}
