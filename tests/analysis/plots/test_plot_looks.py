"""What can be told of a figure without eyes: legends off the data, labels inside it, axes that say what they are."""

from __future__ import annotations

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

import bayesprune as bp
from bayesprune.analysis.plots.style import DASHES, colour, finished, legend_below, line_look, new_figure


class LongNames(nn.Module):
    """A network whose parameters have names of more than a hundred letters."""

    def __init__(self):
        super().__init__()
        layers = {f"{which}_projection_layer_with_a_name_of_some_length": which for which in ("first", "second")}
        sizes = {"first": (64, 12), "second": (12, 10)}
        self.backbone_of_the_whole_network_for_feature_extraction = nn.ModuleDict(
            {name: nn.Linear(*sizes[which]) for name, which in layers.items()}
        )

    def forward(self, x):
        first, second = self.backbone_of_the_whole_network_for_feature_extraction.values()
        return second(first(x).relu())


@pytest.fixture(scope="module")
def long_spike(make_fit):
    return make_fit({"*.weight": bp.SpikeAndSlab(0.2)}, "paired", network=LongNames(), epochs=12)


@pytest.fixture(scope="module")
def long_horseshoe(make_fit):
    return make_fit({"*.weight": bp.Horseshoe()}, "meanfield", network=LongNames(), restarts=2, epochs=24)


@pytest.fixture(scope="module")
def soft(make_fit):
    return make_fit({"*.weight": bp.SoftThreshold()}, learning_rate=None, rules=[bp.Budget(density=0.2)])


@pytest.fixture(scope="module")
def long_soft(make_fit):
    priors = {"*.weight": bp.SoftThreshold(per="output")}
    return make_fit(priors, network=LongNames(), learning_rate=None, rules=[bp.Budget(density=0.2)])


def masked(**more):
    rules = [bp.DynamicMasks(density=0.2, schedule=bp.CyclicDensity(), every=2)]
    how = {"learning_rate": None, "rules": rules, "epochs": 12} | more
    return {"*.weight": bp.Gaussian(0.3)}, "map", how


@pytest.fixture(scope="module")
def masks(make_fit):
    priors, guide, how = masked()
    return make_fit(priors, guide, **how)


@pytest.fixture(scope="module")
def long_masks(make_fit):
    priors, guide, how = masked(restarts=2)
    return make_fit(priors, guide, network=LongNames(), **how)


DRAWN = {
    "pruning_trace": lambda fit, data: bp.plot_pruning_trace(fit),
    "trajectories": lambda fit, data: bp.plot_trajectories(fit),
    "scales": lambda fit, data: bp.plot_scales(fit),
    "thresholds": lambda fit, data: bp.plot_thresholds(fit),
    "masks": lambda fit, data: bp.plot_masks(fit),
    "shrinkage": lambda fit, data: bp.plot_shrinkage(fit),
    "inclusion": lambda fit, data: bp.plot_inclusion(fit, maps="all"),
    "prior_posterior": lambda fit, data: bp.plot_prior_posterior(fit, draws=8),
    "r_hat": lambda fit, data: bp.plot_r_hat(bp.convergence(fit)),
    "calibration": lambda fit, data: bp.plot_calibration(fit, data, draws=4),
    "architecture": lambda fit, data: bp.plot_architecture(bp.prune(fit, sparsity=0.8)),
    "deletion": lambda fit, data: bp.plot_deletion_calibration(bp.deletion_calibration(fit, data, n=20)),
}


OWN = {"inclusion": "spike", "architecture": "spike", "thresholds": "soft", "masks": "masks"}
"""Fixtures with the fits that plots are of; default the horseshoe's."""

FIGURES = {}


def drawn(kind, names, request, digits):
    """A plot of a fit whose names are short or long; several tests look at one figure."""
    if (kind, names) not in FIGURES:
        own = OWN.get(kind, "horseshoe")
        fit = request.getfixturevalue(own if names == "short" else f"long_{own}")
        FIGURES[kind, names] = DRAWN[kind](fit, digits["held out"])
    return FIGURES[kind, names]


def boxes(figure):
    """The figure laid out: its own box, and of each axis its panel's and all that belongs to it."""
    FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()
    return figure.bbox, {axis: (axis.get_window_extent(renderer), axis.get_tightbbox(renderer)) for axis in figure.axes}


def overlap(one, other):
    """Whether two boxes share more than a hair."""
    return min(one.x1, other.x1) - max(one.x0, other.x0) > 1.0 and min(one.y1, other.y1) - max(one.y0, other.y0) > 1.0


@pytest.mark.parametrize(
    ("kind", "names"),
    [(kind, names) for kind in DRAWN for names in ("short", "long") if (kind, names) != ("r_hat", "short")],
)
def test_legends_lie_off_the_data_and_nothing_is_cut_off(kind, names, request, digits):
    figure = drawn(kind, names, request, digits)
    whole, found = boxes(figure)
    panels = [panel for panel, _ in found.values()]
    legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()] + figure.legends
    for legend in legends:
        assert not any(overlap(legend.get_window_extent(), panel) for panel in panels)
    for axis, (panel, everything) in found.items():
        assert everything.x0 > -2 and everything.y0 > -2, axis.get_title(loc="left")
        assert everything.x1 < whole.x1 + 2 and everything.y1 < whole.y1 + 2, axis.get_title(loc="left")
        if axis.get_label() != "<colorbar>":
            assert panel.width > 0.25 * 72 and panel.height > 0.25 * 72
    for axis in found:
        title = axis._left_title.get_window_extent()
        others = [panel for other, (panel, _) in found.items() if other is not axis]
        assert not any(overlap(title, panel) for panel in others)
    top = figure._suptitle.get_window_extent()
    assert top.x1 < whole.x1 + 2
    assert all(not overlap(top, panel) for panel in panels)


def test_a_legend_inside_is_seen_as_on_the_data():
    """Control of the test above: the legend that matplotlib places lies on the panel."""
    figure, (axis,) = new_figure(1, 1, "")
    axis.plot([0, 1], [0, 1], label="a line")
    axis.legend()
    _, found = boxes(figure)
    assert overlap(axis.get_legend().get_window_extent(), found[axis][0])
    legend_below(axis)
    _, found = boxes(figure)
    assert not overlap(axis.get_legend().get_window_extent(), found[axis][0])


def test_panels_keep_their_height_when_legends_get_longer():
    heights = []
    for lines in (1, 12):
        figure, (axis,) = new_figure(1, 1, "")
        for number in range(lines):
            axis.plot(
                [0, 1], [0, number / lines], label=f"a line with a name of some length, {number}", **line_look(number)
            )
        axis.set_xlabel("x")
        legend_below(axis)
        _, found = boxes(finished(figure, None))
        heights.append(found[axis][0].height)
    assert heights[1] == pytest.approx(heights[0], rel=0.1)


def test_lines_are_apart_in_grey():
    looks = [line_look(number) for number in range(6)]
    assert len({str(look["ls"]) for look in looks}) == 6 and [look["color"] for look in looks] == list(
        map(colour, range(6))
    )
    assert len(DASHES) == 7


@pytest.mark.parametrize("kind", [kind for kind in DRAWN if kind != "r_hat"])
def test_every_axis_of_a_plot_says_what_it_measures(kind, request, digits):
    figure = drawn(kind, "short", request, digits)
    for axis in figure.axes:
        assert axis.get_xlabel() or axis.get_ylabel() or not len(axis.get_xticks())
    if kind == "prior_posterior":
        labels = {axis.get_title(loc="left"): axis.get_xlabel() for axis in figure.axes}
        assert labels["fc1.weight.tau"] == "value of tau" and labels["fc1.weight.rms"] == "root mean square"
        assert labels["fc2.weight.included"] == "included weights"
        assert figure.axes[0].get_ylabel() == "frequency, peak = 1"
        assert figure.get_suptitle().endswith("8 draws of the prior and of the posterior")


def maps(figure):
    return [axis for axis in figure.axes if axis.images]


def test_maps_of_inclusion_share_a_scale_or_say_theirs(spike):
    own, shared = (maps(bp.plot_inclusion(spike, maps="all", colours=colours)) for colours in ("own", "shared"))
    assert len(own) == 3 and len({axis.images[0].get_clim() for axis in own}) == 3  # control: they differ
    assert {axis.images[0].get_clim() for axis in shared} == {(0.0, 1.0)}
    for axis in own:
        low, high = axis.images[0].get_clim()
        assert axis.images[0].colorbar.ax.get_ylabel() == f"inclusion probability,\n{low:.3g} to {high:.3g}"
    assert bp.plot_inclusion(spike, maps="all").get_suptitle().endswith("each map in colours of its own")
    with pytest.raises(ValueError, match="colours='grey' is unknown: expected one of own, shared"):
        bp.plot_inclusion(spike, colours="grey")


def test_probabilities_that_are_all_the_same_have_the_colours_of_0_to_1(spike, monkeypatch):
    probabilities = spike.inclusion_probabilities() * 0.0 + 1.0
    for name, values in spike.inclusion_probabilities().items():
        probabilities[name].attrs = values.attrs
    monkeypatch.setattr(type(spike), "inclusion_probabilities", lambda self, restart=0: probabilities)
    for axis in maps(bp.plot_inclusion(spike, maps="all")):
        assert axis.images[0].get_clim() == (0.0, 1.0)
        assert axis.images[0].colorbar.ax.get_ylabel().endswith("1 everywhere")


def test_logarithmic_counts_have_at_least_a_decade(spike, monkeypatch):
    three = spike.inclusion_probabilities()[["fc3.weight"]]
    three = three.isel({"fc3.weight.output": [0], "fc3.weight.input": [0, 1, 2]})
    monkeypatch.setattr(type(spike), "inclusion_probabilities", lambda self, restart=0: three)
    low, high = bp.plot_inclusion(spike, maps="none").axes[0].get_ylim()
    assert low < 1.0 and high >= 10.0


def test_a_pattern_and_a_tensor_may_be_given_alone(horseshoe, spike):
    alone, listed = (bp.plot_prior_posterior(horseshoe, names, draws=3) for names in ("*.tau", ["*.tau"]))
    assert [axis.get_title(loc="left") for axis in alone.axes] == [axis.get_title(loc="left") for axis in listed.axes]
    assert len(alone.axes) == 3  # control: the letters of the pattern would match everything
    titles = [axis.get_title(loc="left") for axis in bp.plot_trajectories(spike, "fc2.weight").axes]
    assert titles[-1] == "fc2.weight, restart 0" and sum(title.startswith("fc") for title in titles) == 1


def test_weights_that_do_not_vary_are_told_in_one_sentence(gaussian, monkeypatch):
    """As of a fit with unit gates that have been rounded."""
    one = gaussian.restarts[0]
    centre = one.model.weights_at(one.guide.means())
    monkeypatch.setattr(type(gaussian), "map_draws", lambda self, function, *_: function(centre))
    with pytest.raises(ValueError, match="its weights do not vary from draw to draw"):
        bp.plot_scales(gaussian)


def test_a_plot_leaves_matplotlib_as_it_was(request, digits):
    before = dict(matplotlib.rcParams)
    figures = [
        draw(request.getfixturevalue(OWN.get(kind, "horseshoe")), digits["held out"])
        for kind, draw in DRAWN.items()
        if kind != "r_hat"
    ]
    assert dict(matplotlib.rcParams) == before
    assert all(type(figure) is Figure for figure in figures)
