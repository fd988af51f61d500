"""Gates and units over training: what is drawn are the numbers of the trace."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import bayesprune as bp
from bayesprune.analysis.plots.gates import DRAWN, KINDS
from tests.analysis.gated_traces import gated_fit, gated_trace

ARROW = "\N{RIGHTWARDS ARROW}"
PLOTS = (bp.plot_gates, bp.plot_units)


def many_sets(count):
    """A trace of one restart with `count` sets of one unit each, of which only the first stays."""
    theta = np.linspace(0.5, np.arange(count) == 0, 3)[None].astype(np.float32)
    return xr.Dataset(
        {
            "theta": (("restart", "gate_record", "unit"), theta),
            "gate_step": (("restart", "gate_record"), [[0.0, 1.0, 2.0]]),
            "units_left": (("restart", "gate_record", "unit_group"), np.ones((1, 3, count))),
            "expected_macs": (("restart", "gate_record"), [[5.0, 4.0, 3.0]]),
            "realised_macs": (("restart", "gate_record"), [[10.0, 9.0, 3.0]]),
        },
        coords={
            "unit_set": ("unit", [f"set{number}" for number in range(count)]),
            "is_layer": ("unit", [False] * count),
            "unit_group": [f"set{number}" for number in range(count)],
        },
        attrs={"dense_macs": 10, "gate_rounding_step": -1},
    )


def line(axis, label):
    """The one line with this label."""
    (found,) = [one for one in axis.lines if one.get_label() == label]
    return found


@pytest.mark.parametrize("restart", [0, 1])
def test_every_unit_is_a_line_coloured_by_whether_it_stays(restart, panel):
    trace = gated_trace()
    figure = bp.plot_gates(gated_fit(), restart)
    records = 4 - restart
    for name, columns in {"a": [0, 1, 2], "b": [3, 4], "layer gates": [5]}.items():
        theta = trace.theta.values[restart, :records, columns]
        lines = panel(figure, f"{name}, ").lines
        drawn = {tuple(one.get_ydata()): one.get_color() for one in lines if one.get_label() != "rounding"}
        assert drawn == {tuple(row): KINDS[bool(row[-1] > 0.5)][1] for row in theta}
        np.testing.assert_array_equal(lines[0].get_xdata(), trace.gate_step.values[restart, :records])
    a = panel(figure, f"a, 3 {ARROW} {(1, 2)[restart]}")
    assert {one.get_color() for one in a.lines[:3]} == {KINDS[True][1], KINDS[False][1]}  # control: there are both


def test_the_rounding_is_marked_where_there_was_one(panel):
    for plot in PLOTS:
        for axis in plot(gated_fit()).axes:
            assert line(axis, "rounding").get_xdata() == [16, 16]
        assert not [
            one for axis in plot(gated_fit(gate_rounding_step=-1)).axes for one in axis.lines
            if one.get_label() == "rounding"
        ]  # fmt: skip


def test_one_legend_says_what_colours_mean():
    (legend,) = bp.plot_gates(gated_fit()).legends
    assert sorted(text.get_text() for text in legend.get_texts()) == ["gone", "in the network", "rounding"]
    assert len(bp.plot_gates(many_sets(1)).legends[0].get_texts()) == 1


def test_sets_beyond_the_limit_are_named():
    figure = bp.plot_gates(many_sets(DRAWN + 2))
    assert len(figure.axes) == DRAWN
    assert figure.get_suptitle() == f"Gate probabilities; not drawn: set{DRAWN}, set{DRAWN + 1}"
    assert bp.plot_gates(many_sets(DRAWN)).get_suptitle() == "Gate probabilities"
    assert bp.plot_gates(gated_fit(), 1).get_suptitle() == "Gate probabilities, restart 1"


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_the_lowest_panel_of_each_column_has_the_axis(count):
    axes = bp.plot_gates(many_sets(count)).axes
    assert len(axes) == count
    labelled = [bool(axis.get_xlabel()) for axis in axes]
    assert labelled == [number >= count - min(3, count) for number in range(count)]


def test_units_and_macs_are_shares_that_hold_until_the_next_record():
    left, right = bp.plot_units(gated_fit()).axes
    shares = {"a": [1, 1, 2 / 3, 1 / 3], "b": [1, 1, 1, 1 / 2], "all units": [1, 1, 4 / 5, 2 / 5]}
    for label, expected in {**shares, "residual branches": [1, 1, 1, 1]}.items():
        np.testing.assert_allclose(line(left, label).get_ydata(), expected)
        assert line(left, label).get_drawstyle() == "steps-post"
        np.testing.assert_array_equal(line(left, label).get_xdata(), [0, 5, 8, 20])
    np.testing.assert_allclose(line(right, "expected under the gates").get_ydata(), [0.5, 0.4, 0.3, 0.2])
    realised = line(right, "of the network as it is")
    np.testing.assert_allclose(realised.get_ydata(), [1.0, 1.0, 0.6, 0.2])
    assert realised.get_drawstyle() == "steps-post"
    other = bp.plot_units(gated_fit(), 1).axes[0]  # control: another restart is another picture
    np.testing.assert_allclose(line(other, "residual branches").get_ydata(), [1, 1, 0])


def test_branches_are_drawn_with_layer_gates_only_and_many_sets_share_a_colour():
    labels = [one.get_label() for one in bp.plot_units(gated_fit(layers=False)).axes[0].lines]
    assert labels == ["a", "b", "all units", "rounding"]
    many = bp.plot_units(many_sets(9)).axes[0]
    assert len({one.get_color() for one in many.lines[:9]}) == 1
    assert [text.get_text() for text in many.get_legend().get_texts()] == ["each set", "all units"]


@pytest.mark.parametrize("plot", PLOTS)
def test_a_trace_is_drawn_like_its_fit_and_written(plot, tmp_path):
    for name, source in (("fit.svg", gated_fit()), ("trace.svg", gated_trace())):
        plot(source, path=tmp_path / name)
    assert (tmp_path / "fit.svg").read_bytes() == (tmp_path / "trace.svg").read_bytes()
    plot(gated_fit(), 1, tmp_path / "other.svg")
    assert (tmp_path / "other.svg").read_bytes() != (tmp_path / "fit.svg").read_bytes()


@pytest.mark.parametrize("plot", PLOTS)
def test_wrong_input_is_told(plot, spike):
    with pytest.raises(ValueError, match="holds no unit gates: fit BayesianNetwork"):
        plot(spike)
    with pytest.raises(ValueError, match="there is no restart 2: this fit has 2"):
        plot(gated_fit(), restart=2)
    with pytest.raises(ValueError, match="has no format"):
        plot(None, path="figure.bmp")
