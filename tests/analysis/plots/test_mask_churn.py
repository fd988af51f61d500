"""What masks did over training: what is drawn are the numbers of the trace."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import bayesprune as bp
from bayesprune.analysis.plots.mask_churn import LABELLED, has_masks

NAMES = ["fc1.weight", "fc2.weight", "fc3.weight"]


def of_masks(make_fit, rule, **how):
    return make_fit({"fc*.weight": bp.Gaussian(0.3)}, "map", learning_rate=None, rules=[rule], **how)


@pytest.fixture(scope="module")
def cycled(make_fit):
    return of_masks(make_fit, bp.DynamicMasks(density=0.1, schedule=bp.CyclicDensity(), every=2), epochs=12, restarts=2)


@pytest.fixture(scope="module")
def cut(make_fit):
    """Six weights in random places that hold still: no path leads through them."""
    return of_masks(make_fit, bp.DynamicMasks(density=6, share=0.0, grow=None), epochs=4)


def drawn(axis):
    return [np.asarray(one.get_ydata()) for one in axis.lines]


def labels(axis):
    return [one.get_label() for one in axis.lines if not str(one.get_label()).startswith("_")]


def test_every_line_is_a_row_of_the_trace(cycled, panel):
    figure, trace = bp.plot_masks(cycled), cycled.trace
    titles = ["Density", "Movement", "Dead channels", "Gradient at the latest update"]
    assert [axis.get_title(loc="left") for axis in figure.axes] == titles
    assert figure.get_suptitle() == "Masks during training, 2 restarts"
    density, movement, dead, gradient = figure.axes
    assert labels(density) == [*NAMES, "network"]
    for axis, key in ((density, "mask_density"), (dead, "effectively_dead_outputs"), (gradient, "gradient_norm")):
        rows = [trace[key].sel(tensor=name, restart=number).values for name in NAMES for number in (0, 1)]
        for line, row in zip(drawn(axis), rows, strict=False):
            np.testing.assert_array_equal(line, row)
    of_all = trace["masks"]
    keys = ["overlap", "first_overlap", "ever_active"]
    rows = [of_all.sel(masks_name=key, restart=number).values for key in keys for number in (0, 1)]
    for line, row in zip(drawn(movement), rows, strict=True):
        np.testing.assert_array_equal(line, row)
    dots = [one for one in gradient.lines if one.get_marker() == "."]
    expected = trace["active_gradient_norm"].sel(tensor="fc1.weight", restart=0).values
    np.testing.assert_array_equal(dots[0].get_ydata(), expected)
    assert gradient.get_yscale() == "log" and labels(gradient) == ["over active weights"]
    assert not np.array_equal(rows[0], rows[2])  # control: overlaps differ


def test_where_no_path_is_left_is_a_cross_and_without_gradients_no_panel(cut, panel):
    figure = bp.plot_masks(cut)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["Density", "Movement", "Dead channels"]
    crosses = [one for one in panel(figure, "Dead channels").lines if one.get_marker() == "x"]
    assert len(crosses) == 3 and all(float(one.get_ydata()[0]) == 1.0 for one in crosses)
    assert labels(panel(figure, "Dead channels")) == ["no path is left"]


def test_no_cross_where_paths_are_left(cycled, panel):
    assert not [one for one in panel(bp.plot_masks(cycled), "Dead channels").lines if one.get_marker() == "x"]


def test_without_paths_channels_without_a_weight_are_drawn(cycled, panel):
    trace = cycled.trace.assign_attrs(data_size=cycled.model.data_size, is_map=1)
    unknown = {key: trace[key] * np.nan for key in trace.data_vars if str(key).startswith("effective")}
    axis = panel(bp.plot_masks(trace.assign(unknown)), "Dead channels")
    np.testing.assert_array_equal(drawn(axis)[0], trace["dead_outputs"].sel(tensor="fc1.weight", restart=0).values)
    assert axis.get_ylabel() == "share without a weight"


def many(trace, count):
    """A trace of so many tensors."""
    names = [f"layer{number}.weight" for number in range(count)]
    return xr.concat([trace.isel(tensor=[0])] * count, "tensor", data_vars="minimal").assign_coords(tensor=names)


def test_many_tensors_share_a_line_of_the_legend(cycled, panel):
    trace = cycled.trace.assign_attrs(data_size=cycled.model.data_size, is_map=1)
    for count, expected in ((LABELLED + 1, ["each tensor", "network"]), (LABELLED, None)):
        found = labels(panel(bp.plot_masks(many(trace, count)), "Density"))
        assert found == expected if expected else len(found) == LABELLED + 1


def test_a_fit_without_masks_is_refused_in_one_sentence_and_writes_nothing(gaussian, tmp_path):
    assert not has_masks(gaussian.trace)
    with pytest.raises(ValueError, match=r"no masks that were trained to draw: .* rules=\[DynamicMasks\("):
        bp.plot_masks(gaussian, path=tmp_path / "masks.png")
    assert not list(tmp_path.iterdir())


def test_it_is_written_where_it_was_asked(cycled, tmp_path):
    bp.plot_masks(cycled, path=tmp_path / "masks.png")
    assert (tmp_path / "masks.png").stat().st_size > 10_000
