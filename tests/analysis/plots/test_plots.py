"""The plots: what is drawn are the fit's numbers, and drawing leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import LogNorm

import bayesprune as bp
from bayesprune.analysis.plots.inclusion import plot_inclusion
from bayesprune.analysis.plots.pruning_trace import plot_pruning_trace
from bayesprune.analysis.plots.scales import plot_scales
from bayesprune.analysis.plots.style import COLOURS

PLOTS = [plot_inclusion, plot_pruning_trace, plot_scales]


def titles(figure):
    return [axis.get_title(loc="left") for axis in figure.axes]


def panel(figure, beginning):
    """The one panel whose title begins so."""
    (found,) = [axis for axis in figure.axes if axis.get_title(loc="left").startswith(beginning)]
    return found


def image_of(axis):
    return np.asarray(axis.images[0].get_array().filled(np.nan), dtype=float)


# ------------------------------------------------------------------------------------------------- all plots


@pytest.mark.parametrize(
    ("plot", "suffix", "beginning"),
    list(zip(PLOTS, [".png", ".pdf", ".svg"], [b"\x89PNG", b"%PDF", b"<?xml"], strict=True)),
    ids=[".png", ".pdf", ".svg"],
)
def test_a_figure_is_written_in_the_format_of_its_suffix(plot, suffix, beginning, spike, tmp_path):
    plot(spike, path=tmp_path / f"figure{suffix}")
    assert (tmp_path / f"figure{suffix}").read_bytes().startswith(beginning)


def test_the_same_figure_gives_the_same_file(spike, tmp_path):
    for name in ("a.svg", "b.svg"):
        plot_pruning_trace(spike, path=tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"Validation accuracy" in (tmp_path / "a.svg").read_bytes()  # text stays text


@pytest.mark.parametrize("plot", PLOTS)
def test_an_unknown_format_or_folder_is_refused_before_any_work(plot, tmp_path):
    with pytest.raises(ValueError, match=r"figure.bmp has no format .* end it in .svg, .pdf, .png"):
        plot(None, path=tmp_path / "figure.bmp")
    with pytest.raises(ValueError, match="the folder of .* does not exist"):
        plot(None, path=tmp_path / "none" / "figure.png")


@pytest.mark.parametrize("plot", PLOTS)
def test_drawing_leaves_settings_and_random_state_alone(plot, spike):
    before = dict(matplotlib.rcParams)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    plot(spike)
    assert torch.equal(torch.rand(3), expected)
    assert dict(matplotlib.rcParams) == before


def test_drawing_needs_no_pyplot_and_importing_neither_matplotlib_nor_arviz():
    code = """
import sys, torch, bayesprune as bp
from bayesprune.analysis.diagnostics import convergence
from bayesprune.analysis.tables import layer_table
from bayesprune.analysis.plots import inclusion
from bayesprune.analysis.plots import pruning_trace
from bayesprune.analysis.plots import scales
from bayesprune.analysis.arviz import to_arviz
assert not {"matplotlib", "arviz"} & set(sys.modules)
bnn = bp.BayesianNetwork(torch.nn.Linear(16, 3), {"weight": bp.SpikeAndSlab()}, data_size=8)
fit = bp.fit(bnn, (torch.rand(8, 16), torch.zeros(8).long()), epochs=1)
for module in (inclusion, pruning_trace, scales):
    getattr(module, "plot_" + module.__name__.split(".")[-1])(fit)
assert "matplotlib.pyplot" not in sys.modules and "matplotlib" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------------- inclusion


def test_the_histograms_hold_every_weight_and_say_how_many_are_undecided(spike):
    figure = plot_inclusion(spike, restart=1)
    probabilities = spike.inclusion_probabilities(1)
    assert figure.get_suptitle() == "Inclusion probabilities: z = 1 (atom)"
    for name, values in probabilities.items():
        axis = next(axis for axis in figure.axes if axis.get_title(loc="left").startswith(f"{name}, "))
        heights = [patch.get_height() for patch in axis.patches]
        assert heights == np.histogram(values.values, bins=40, range=(0, 1))[0].tolist()
        undecided = ((values.values > 0.05) & (values.values < 0.95)).mean()
        assert axis.get_title(loc="left") == f"{name}, {undecided:.0%} undecided"


def test_the_picture_of_a_linear_layer_is_the_mean_of_each_pixel(spike):
    axis = panel(plot_inclusion(spike), "fc1.weight, mean of each pixel")
    expected = spike.inclusion_probabilities()["fc1.weight"].values.mean(axis=0).reshape(8, 8)
    np.testing.assert_allclose(image_of(axis), expected, rtol=1e-6)


def test_the_shape_of_the_image_can_be_given(spike):
    figure = plot_inclusion(spike, tensor="fc1.weight", image_shape=(4, 4, 4))
    assert len(figure.axes) == 3  # histogram, picture, colour bar
    probabilities = spike.inclusion_probabilities()["fc1.weight"].values
    np.testing.assert_allclose(
        image_of(panel(figure, "fc1.weight, mean")), probabilities.mean(axis=0).reshape(4, 4, 4).mean(axis=0), rtol=1e-6
    )
    with pytest.raises(ValueError, match=r"image_shape=\(5, 5\) has 25 pixels, but fc1.weight takes 64 inputs"):
        plot_inclusion(spike, image_shape=(5, 5))


def test_a_later_layer_is_drawn_as_outputs_by_inputs(spike):
    figure = plot_inclusion(spike, tensor="fc2.weight")
    axis = panel(figure, "fc2.weight, outputs by inputs")
    np.testing.assert_allclose(image_of(axis), spike.inclusion_probabilities()["fc2.weight"].values, rtol=1e-6)
    assert axis.images[0].get_extent() == [-0.5, 11.5, 7.5, -0.5]


def test_a_large_layer_is_drawn_in_blocks_with_the_mean_of_each(spike, monkeypatch):
    monkeypatch.setattr("bayesprune.analysis.plots.inclusion.BLOCKS", 5)
    drawn = image_of(panel(plot_inclusion(spike, tensor="fc2.weight"), "fc2.weight, outputs by inputs"))
    values = spike.inclusion_probabilities()["fc2.weight"].values.astype(float)  # 8 x 12: blocks of 1 or 2 by 2 or 3
    rows, columns = (np.round(np.linspace(0, size, 6)).astype(int) for size in values.shape)
    for row in range(5):
        for column in range(5):
            block = values[rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
            assert drawn[row, column] == pytest.approx(block.mean(), rel=1e-6)
    assert len({*np.diff(rows)}) == 2  # control: blocks of unlike sizes, whose mean is not that of their sums


def test_every_layer_gets_a_map_where_that_is_asked_for(spike, convolution):
    ends = [title.partition(", ")[2] for title in titles(plot_inclusion(spike, maps="all"))]
    assert ends[3:6] == ["mean of each pixel", "outputs by inputs", "outputs by inputs"]
    assert len(plot_inclusion(spike, maps="none").axes) == 3
    assert len(plot_inclusion(spike).axes) == 3 + 2  # one map, one colour bar
    assert [title for title in titles(plot_inclusion(convolution, maps="all")) if "4.weight, outputs" in title]
    with pytest.raises(ValueError, match="maps='some' is unknown: expected one of first, all, none"):
        plot_inclusion(spike, maps="some")


def test_the_picture_of_a_convolution_shows_each_filter(convolution):
    figure = plot_inclusion(convolution)
    image = image_of(panel(figure, "1.weight, each filter"))
    filters = convolution.inclusion_probabilities()["1.weight"].values.mean(axis=1)
    assert image.shape == (2 * 4 - 1, 3 * 4 - 1)  # five filters of 3 x 3 in two rows of three, with gaps
    np.testing.assert_allclose(image[:3, 4:7], filters[1], rtol=1e-6)
    np.testing.assert_allclose(image[4:, :3], filters[3], rtol=1e-6)
    assert np.isnan(image[3]).all() and np.isnan(image[4:, 8:]).all()


def test_unlike_events_are_named_in_their_own_panels(convolution):
    figure = plot_inclusion(convolution)
    assert figure.get_suptitle() == "Inclusion probabilities"
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert texts == ["z = 1 (atom)", "shrinkage factor by the posterior < 0.5 (shrinkage)"]


def test_a_map_is_refused_in_the_words_of_the_fit(halo):
    with pytest.raises(ValueError) as of_the_fit:
        halo.inclusion_probabilities()
    with pytest.raises(ValueError) as of_the_plot:
        plot_inclusion(halo)
    assert str(of_the_plot.value) == str(of_the_fit.value)


def test_an_unknown_tensor_is_refused(spike):
    with pytest.raises(ValueError, match="there is no tensor 'fc9.weight' with a prior: there are fc1.weight"):
        plot_inclusion(spike, tensor="fc9.weight")


# --------------------------------------------------------------------------------------------- pruning trace


def test_the_lines_are_the_trace_a_line_a_restart(spike):
    figure = plot_pruning_trace(spike)
    trace = spike.trace
    objective = panel(figure, "Negative ELBO").lines
    assert len(objective) == 4  # two parts, two restarts
    for restart in range(2):
        np.testing.assert_allclose(
            objective[restart].get_ydata(), -trace.expected_log_likelihood.values[restart] / 300, rtol=1e-6
        )
        np.testing.assert_allclose(objective[2 + restart].get_ydata(), trace.kl.values[restart] / 300, rtol=1e-6)
    sparsity = panel(figure, "Sparsity").lines
    assert len(sparsity) == 8  # three tensors and the network, two restarts
    np.testing.assert_allclose(sparsity[1].get_ydata(), trace.sparsity.sel(tensor="fc1.weight").values[1])
    np.testing.assert_allclose(sparsity[7].get_ydata(), trace.network_sparsity.values[1])
    scores = panel(figure, "Validation accuracy").lines
    np.testing.assert_allclose(scores[0].get_ydata(), trace.validation_accuracy.values[0])
    assert {line.get_color() for line in scores} == {COLOURS[2]}


def test_the_heat_map_holds_the_shares_of_all_weights(spike):
    axis = panel(plot_pruning_trace(spike), "Inclusion, restart 0")
    counts = spike.trace.inclusion_histogram.isel(restart=0).sum("gated_tensor").transpose("bin", "epoch").values
    shares = np.nan_to_num(image_of(axis))
    np.testing.assert_allclose(shares, counts / counts[:, 0].sum())
    np.testing.assert_allclose(shares.sum(axis=0), 1.0)
    assert isinstance(axis.images[0].norm, LogNorm)


def test_a_prior_without_gates_shows_the_schedules(gaussian):
    figure = plot_pruning_trace(gaussian)
    assert [title.split(",")[0] for title in titles(figure)] == ["Negative ELBO", "Near zero", "Schedules"]
    weight = panel(figure, "Schedules").lines[0].get_ydata()
    np.testing.assert_allclose(weight, gaussian.trace.kl_weight.values[0])


def test_a_map_is_called_a_log_joint(halo):
    figure = plot_pruning_trace(halo)
    labels = [text.get_text() for text in panel(figure, "Minus log joint").get_legend().get_texts()]
    assert labels == ["\N{MINUS SIGN}log-likelihood", "\N{MINUS SIGN}log prior"]


def test_a_single_epoch_is_visible(make_fit):
    figure = plot_pruning_trace(make_fit({"fc3.weight": bp.Gaussian()}, epochs=1))
    assert all(line.get_marker() == "o" for line in panel(figure, "Near zero").lines)


# ------------------------------------------------------------------------------------------------- scales


def test_the_intervals_of_a_layer_scale_are_those_of_its_posterior_and_prior(horseshoe):
    axis = panel(plot_scales(horseshoe), "tau, per layer")
    assert [label.get_text() for label in axis.get_yticklabels()] == ["fc1.weight", "fc2.weight", "fc3.weight"]
    prior, posterior = axis.lines[0].get_xdata(), axis.lines[2].get_xdata()
    draws = horseshoe.draws(400, sites=lambda name: name == "fc1.weight.tau")["fc1.weight.tau"].numpy()
    np.testing.assert_allclose(posterior, np.quantile(draws, [0.055, 0.945]), rtol=0.05)
    # A half Cauchy of scale s has quantiles s tan(pi p / 2).
    scale = 0.1 / 0.9 / 8.0
    expected = scale * np.tan(np.pi * np.array([0.055, 0.945]) / 2)
    np.testing.assert_allclose(prior, expected, rtol=0.5)  # an interval of three decades


def test_untouched_scales_lie_where_their_prior_does(make_fit):
    # Log scales as wide and as centred as the prior's: then both histograms are the same density.
    fit = make_fit({"fc1.weight": bp.Horseshoe()}, "meanfield", epochs=1)
    for family in fit.guide.families:
        for site, start in zip(family.sites, np.cumsum([0, *family.layout.sizes])[:-1], strict=True):
            if site.latent == "lam":
                size = int(np.prod(site.shape))
                family.location.data[start : start + size] = 0.0
                family.log_scale.data[start : start + size] = np.log(np.pi / 2)  # sd of log |Cauchy|
    prior, posterior = panel(plot_scales(fit), "lam, per weight").containers[0], None
    polygon = panel(plot_scales(fit), "lam, per weight").patches[-1].get_xy()
    heights, width = np.array([bar.get_height() for bar in prior]), prior[0].get_width()
    posterior = np.interp([bar.get_x() + width / 2 for bar in prior], polygon[:, 0], polygon[:, 1])
    assert heights.sum() * width == pytest.approx(1.0, abs=0.02)
    assert abs(heights - posterior).sum() * width < 0.25


def test_a_map_shows_its_points(halo):
    figure = plot_scales(halo)
    assert figure.get_suptitle() == "Scales: points against prior"
    assert titles(figure) == ["lam, per weight"]


def test_without_scales_the_share_of_weights_above_their_noise_is_told(gaussian):
    (family,) = gaussian.guide.families
    size = 12 * 64
    above = (family.location[:size].abs() > family.log_scale[:size].exp()).float().mean()
    title = titles(plot_scales(gaussian))[0]
    share = int(title.removeprefix("fc1.weight, ").split("%")[0]) / 100
    assert share == pytest.approx(float(above), abs=0.03)


def test_a_map_without_scales_is_refused(make_fit):
    fit = make_fit({"fc3.weight": bp.Gaussian()}, "map", epochs=1)
    with pytest.raises(ValueError, match="this fit is a MAP under priors without random scales"):
        plot_scales(fit)


def test_an_unnormalised_prior_is_left_out_of_the_picture(make_fit):
    prior = bp.HALO.from_paper(1e-4, 1e-4, weight_decay=1e-4, data_size=300, signed=False)
    axis = panel(plot_scales(make_fit({"fc3.weight": prior}, "map", epochs=1)), "lam")
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["fc3.weight"]


def test_a_restart_that_is_not_there_is_refused(horseshoe):
    with pytest.raises(ValueError, match="there is no restart 2"):
        plot_scales(horseshoe, restart=2)
