"""Trajectories: what is drawn is the trace, and quantiles are those of the histogram."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import bayesprune as bp
from bayesprune.analysis.plots.trajectories import BANDS, recorded_kinds
from bayesprune.inference.watching.trace_file import WriteTrace, read_trace


def titles(figure):
    return [axis.get_title(loc="left") for axis in figure.axes]


def test_the_lines_are_the_recorded_quantities_a_line_a_restart(spike, panel):
    figure = bp.plot_trajectories(spike)
    scales = spike.trace["scales"]
    lines = panel(figure, "Mean inclusion").lines
    assert len(lines) == 3 * 2
    for number, name in enumerate(("fc1.weight.z", "fc2.weight.z", "fc3.weight.z")):
        for restart in range(2):
            expected = scales.sel(quantity=f"mean {name}").values[restart]
            np.testing.assert_allclose(lines[2 * number + restart].get_ydata(), expected)
            np.testing.assert_allclose(lines[2 * number + restart].get_xdata(), spike.trace.iterate_step[restart])
    labels = [text.get_text() for text in panel(figure, "Mean inclusion").get_legend().get_texts()]
    assert labels == ["fc1.weight.z", "fc2.weight.z", "fc3.weight.z"]
    rms = panel(figure, "Root mean squares").lines[3].get_ydata()
    np.testing.assert_allclose(rms, scales.sel(quantity="rms fc2.weight.slab").values[1])


def test_the_last_mean_inclusion_is_that_of_the_fit(spike, panel):
    last = [line.get_ydata()[-1] for line in panel(bp.plot_trajectories(spike), "Mean inclusion").lines[::2]]
    means = [float(values.mean()) for values in spike.inclusion_probabilities().values()]
    np.testing.assert_allclose(last, means, rtol=1e-5)


def test_scales_are_drawn_as_scales(horseshoe, panel):
    axis = panel(bp.plot_trajectories(horseshoe), "Scales")
    assert axis.get_yscale() == "log"
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels[:2] == ["fc1.weight.tau", "fc1.weight.lam, geometric mean"]
    recorded = horseshoe.trace["scales"]
    np.testing.assert_allclose(
        axis.lines[2].get_ydata(), np.exp(recorded.sel(quantity="mean log fc1.weight.lam").values[0])
    )


def test_bands_hold_their_share_of_the_weights(spike, panel):
    name, restart = "fc1.weight", 1
    axis = panel(bp.plot_trajectories(spike, [name], restart), f"{name}, restart 1")
    counts = spike.trace["inclusion_histogram"].isel(restart=restart).sel(gated_tensor=name).values
    edges = np.linspace(0, 1, counts.shape[1] + 1)

    def share_below(row, value):  # a walk over the bins, each spread evenly
        full = sum(count for count, end in zip(row, edges[1:], strict=True) if end <= value)
        bin_of = min(int(np.searchsorted(edges, value, side="right")) - 1, len(row) - 1)
        part = row[bin_of] * (value - edges[bin_of]) * len(row) if edges[bin_of + 1] > value else 0.0
        return (full + part) / row.sum()

    for epoch, row in enumerate(counts):
        assert share_below(row, axis.lines[0].get_ydata()[epoch]) == pytest.approx(0.5, abs=1e-9)
    for collection, (low, high) in zip(axis.collections, BANDS, strict=True):
        corners = collection.get_paths()[0].vertices
        for epoch, row in enumerate(counts, start=1):
            ends = corners[corners[:, 0] == epoch][:, 1]
            assert share_below(row, ends.min()) == pytest.approx(low, abs=1e-9)
            assert share_below(row, ends.max()) == pytest.approx(high, abs=1e-9)
    # Control: the exact quantile is within a bin of the drawn one, and the drawn median is no mean.
    exact = np.median(spike.inclusion_probabilities(restart)[name].values)
    assert abs(axis.lines[0].get_ydata()[-1] - exact) <= 1 / counts.shape[1]
    assert axis.lines[0].get_ydata()[-1] != pytest.approx(float(spike.inclusion_probabilities(restart)[name].mean()))


def test_many_quantities_share_one_colour_and_one_label(panel):
    names = [f"log s{number}" for number in range(9)]
    values = np.random.default_rng(0).normal(size=(1, 5, 9))
    trace = xr.Dataset(
        {"scales": (("restart", "iterate", "quantity"), values), "iterate_step": (("restart", "iterate"), [range(5)])},
        coords={"quantity": names},
        attrs={"data_size": 10, "is_map": 0},
    )
    axis = panel(bp.plot_trajectories(trace), "Scales")
    assert len(axis.lines) == 9 and len({line.get_color() for line in axis.lines}) == 1
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["each of 9"]


def test_kinds_are_told_apart_by_how_names_begin(panel):
    names = ["mean z", "mean log lam", "log tau", "logit rho", "mean logit p", "rms w", "b"]
    trace = xr.Dataset(
        {"scales": (("restart", "iterate", "quantity"), np.full((1, 3, 7), 0.5)),
         "iterate_step": (("restart", "iterate"), [[1, 2, 3]])},
        coords={"quantity": names}, attrs={"data_size": 10, "is_map": 0},
    )  # fmt: skip
    found = {kind.title: kept for kind, kept in recorded_kinds(trace).items()}
    assert found == {
        "Scales": ["mean log lam", "log tau"],
        "Latents in (0, 1)": ["logit rho", "mean logit p"],
        "Root mean squares": ["rms w"],
        "Mean inclusion of gates": ["mean z"],
    }
    logit = panel(bp.plot_trajectories(trace), "Latents").lines[0].get_ydata()
    np.testing.assert_allclose(logit, 1 / (1 + np.exp(-0.5)))


def test_a_trace_on_disk_is_drawn_like_the_fit(make_fit, tmp_path, panel):
    fit = make_fit({"fc3.weight": bp.SpikeAndSlab()}, callbacks=[WriteTrace(tmp_path)], epochs=2)
    one, other = bp.plot_trajectories(fit), bp.plot_trajectories(read_trace(tmp_path))
    assert titles(one) == titles(other)
    for line, same in zip(one.axes[0].lines, other.axes[0].lines, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), same.get_ydata())
    objective = panel(bp.plot_pruning_trace(read_trace(tmp_path)), "Negative ELBO").lines
    np.testing.assert_array_equal(objective[1].get_ydata(), fit.trace.kl.values[0] / 300)


def test_wrong_input_is_told(spike, gaussian):
    with pytest.raises(ValueError, match="no tensor 'fc9' whose gates the trace holds: there are fc1.weight"):
        bp.plot_trajectories(spike, ["fc9"])
    with pytest.raises(ValueError, match="no tensor 'fc1.weight' .*: the prior has no gates"):
        bp.plot_trajectories(gaussian, ["fc1.weight"])
    with pytest.raises(ValueError, match="there is no restart 2: this fit has 2"):
        bp.plot_trajectories(spike, restart=2)
    with pytest.raises(ValueError, match="does not say whose it is: pass the fit"):
        bp.plot_trajectories(spike.trace)
    with pytest.raises(ValueError, match="has no format"):
        bp.plot_trajectories(None, path="figure.bmp")
    empty = spike.trace.isel(quantity=[]).drop_dims("gated_tensor").assign_attrs(data_size=1, is_map=0)
    with pytest.raises(ValueError, match="neither gates nor scales: use plot_pruning_trace"):
        bp.plot_trajectories(empty)
