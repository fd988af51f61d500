"""Learned thresholds over training: what is drawn are the numbers of the trace."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr

import bayesprune as bp
from bayesprune.analysis.plots.thresholds import LABELLED

NAMES = ["fc1.weight", "fc2.weight", "fc3.weight"]


@pytest.fixture(scope="module")
def budgeted(make_fit):
    return make_fit({"fc*.weight": bp.SoftThreshold()}, epochs=12, learning_rate=None, rules=[bp.Budget(density=0.1)])


@pytest.fixture(scope="module")
def by_output(make_fit):
    return make_fit({"fc*.weight": bp.SoftThreshold(per="output")}, learning_rate=None, restarts=2)


def lines(axis, label):
    return [one for one in axis.lines if one.get_label() == label]


def test_every_threshold_and_density_is_a_line(budgeted, panel):
    figure, trace = bp.plot_thresholds(budgeted), budgeted.trace
    thresholds, densities = panel(figure, "Thresholds"), panel(figure, "Density")
    colours = {}
    for name in NAMES:
        (one,) = lines(thresholds, name)
        np.testing.assert_array_equal(one.get_ydata(), trace["threshold"].sel(tensor=name).values[0])
        np.testing.assert_array_equal(one.get_xdata(), trace.epoch.values)
        colours[one.get_color()] = 1.0 - trace["sparsity"].sel(tensor=name).values[0]
    drawn = {one.get_color(): one.get_ydata() for one in densities.lines if one.get_color() in colours}
    for colour, values in colours.items():
        found = [one.get_ydata() for one in densities.lines if one.get_color() == colour and len(one.get_ydata()) > 1]
        np.testing.assert_array_equal(found[0], values)
    assert len(drawn) == 3  # control: of three colours
    (network,) = lines(densities, "network")
    np.testing.assert_array_equal(network.get_ydata(), 1.0 - trace["network_sparsity"].values[0])
    assert thresholds.get_yscale() == densities.get_yscale() == "log"
    assert figure.get_suptitle() == "Learned thresholds"


def test_the_budget_has_its_target_its_knob_and_where_it_ended(budgeted, panel):
    figure, budget = bp.plot_thresholds(budgeted), budgeted.trace["budget"].isel(restart=0)
    (target,) = lines(panel(figure, "Density"), "target of the budget")
    np.testing.assert_array_equal(target.get_ydata(), budget.sel(budget_name="target").values)
    (knob,) = panel(figure, "What the budget moved").lines
    np.testing.assert_array_equal(knob.get_ydata(), budget.sel(budget_name="knob").values)
    ends = budgeted.settings["thresholds"][0]["tensors"]
    for title, key in (("Thresholds", "threshold"), ("Density", "density")):
        marks = [one for one in panel(figure, title).lines if one.get_marker() == "o"]
        assert {float(one.get_ydata()[0]) for one in marks} <= {ends[name][key] for name in NAMES}
        assert marks and all(one.get_xdata()[0] == 12 for one in marks)  # the last correction came after the epoch
    left = {name: float((weight != 0).float().mean()) for name, weight in budgeted.included_weights().items()}
    assert {name: ends[name]["density"] for name in NAMES} == pytest.approx(left)


def test_without_a_budget_there_is_neither(by_output, panel):
    figure = bp.plot_thresholds(by_output)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["Thresholds", "Density"]
    density = panel(figure, "Density")
    assert not lines(density, "target of the budget") and not lines(density, "at the end")
    assert len(lines(panel(figure, "Thresholds"), "fc1.weight")) == 1  # the first restart has the label
    assert figure.get_suptitle() == "Learned thresholds, 2 restarts"
    assert len(panel(figure, "Thresholds").lines) == 6


def test_of_several_thresholds_a_band_says_where_they_are(by_output, panel):
    axis = panel(bp.plot_thresholds(by_output), "Thresholds")
    assert len(axis.collections) == 3
    low, high = (by_output.trace[f"threshold_{end}"].sel(tensor="fc1.weight").values[0] for end in ("low", "high"))
    (path,) = axis.collections[0].get_paths()
    ys = path.vertices[:, 1]
    assert ys.max() == pytest.approx(high.max()) and ys.min() == pytest.approx(low.min())
    assert low.min() < high.max()  # control: a band has a width


def test_a_layer_that_was_lost_gets_a_cross_where_it_was(make_fit, panel):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "at step")
        fit = make_fit({"fc*.weight": bp.SoftThreshold(pressure=4800.0, raw_sd=0.05)}, epochs=20, learning_rate=None)
    axis = panel(bp.plot_thresholds(fit), "Density")
    empty = fit.trace["sparsity"].isel(restart=0).transpose("tensor", "epoch").values == 1.0
    first = [int(row.argmax()) + 1 for row in empty if row.any()]
    crosses = [one for one in axis.lines if one.get_marker() == "x"]
    assert [int(one.get_xdata()[0]) for one in crosses] == first and first
    assert [one.get_label() for one in crosses] == ["nothing left", *["_"] * (len(first) - 1)]


def test_where_all_thresholds_are_zero_s_is_drawn(make_fit, panel):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*asleep to the end")
        fit = make_fit({"fc*.weight": bp.SoftThreshold(init=-900.0)}, learning_rate=None, epochs=2)
    axis = panel(bp.plot_thresholds(fit), "s: all thresholds are zero")
    (one,) = lines(axis, "fc1.weight")
    np.testing.assert_array_equal(one.get_ydata(), fit.trace["threshold_s"].sel(tensor="fc1.weight").values[0])
    assert axis.get_yscale() == "linear"


def test_many_tensors_share_one_label(panel):
    axis = panel(bp.plot_thresholds(many(LABELLED + 1)), "Thresholds")
    assert len(lines(axis, "each tensor")) == 1 and len(axis.lines) == LABELLED + 1
    few = panel(bp.plot_thresholds(many(LABELLED)), "Thresholds")
    assert not lines(few, "each tensor") and len({one.get_color() for one in few.lines}) == LABELLED


def many(count):
    """A trace of `count` tensors over three epochs."""
    shape = (("restart", "epoch", "tensor"), np.linspace(0.01, 0.4, 3 * count).reshape(1, 3, count))
    return xr.Dataset(
        {"threshold": shape, "sparsity": shape, "network_sparsity": (("restart", "epoch"), [[0.1, 0.2, 0.3]])},
        coords={"restart": [0], "epoch": [1, 2, 3], "tensor": [f"layers.{number}.weight" for number in range(count)]},
        attrs={"data_size": 10, "is_map": 1},
    )


def test_a_fit_without_thresholds_is_told_which_plot_draws_it(gaussian, tmp_path):
    with pytest.raises(ValueError, match="no learned thresholds to draw: plot_pruning_trace draws any"):
        bp.plot_thresholds(gaussian, path=tmp_path / "thresholds.png")
    assert not list(tmp_path.iterdir())
