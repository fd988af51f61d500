"""Prior against posterior: draws of the declared prior and of the guide, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.patches import StepPatch

import bayesprune as bp
from bayesprune.analysis.plots.prior_posterior import BINS, SEEN


def steps(axis):
    """Heights and edges of the histograms of prior and posterior."""
    patches = [patch for patch in axis.patches if isinstance(patch, StepPatch)]
    return [(patch.get_data().values, patch.get_data().edges) for patch in patches]


def test_the_posterior_s_histogram_is_of_the_guide_s_draws(horseshoe, panel):
    figure = bp.plot_prior_posterior(horseshoe, ["*.tau"], draws=60, restart=1)
    assert [axis.get_title(loc="left") for axis in figure.axes] == [f"fc{number}.weight.tau" for number in (1, 2, 3)]
    draws = horseshoe.draws(60, 1)["fc2.weight.tau"].double().numpy().ravel()
    heights, edges = steps(panel(figure, "fc2.weight.tau"))[1]
    np.testing.assert_allclose(edges, np.geomspace(*np.quantile(draws, SEEN), BINS + 1), rtol=1e-6)
    counts, _ = np.histogram(draws, edges)
    np.testing.assert_allclose(heights, counts / counts.max())
    assert panel(figure, "fc2.weight.tau").get_xscale() == "log"


def test_the_prior_s_histogram_is_of_the_prior(make_fit, panel):
    fit = make_fit({"fc3.weight": bp.Horseshoe()}, epochs=1)
    figure = bp.plot_prior_posterior(fit, ["*.tau"], draws=800)
    heights, edges = steps(panel(figure, "fc3.weight.tau"))[0]
    scale = 0.1 / 0.9 / np.sqrt(8)  # a half Cauchy with this scale

    def below(value, scale):
        return 2 / np.pi * np.arctan(value / scale)

    def distance(scale):
        expected = np.diff(below(edges, scale))
        return np.abs(heights / heights.sum() - expected / expected.sum()).sum()

    assert distance(scale) < 0.25
    assert distance(2 * scale) > 0.4  # control


def test_counts_have_bins_around_whole_numbers(make_fit, panel):
    fit = make_fit({"fc3.weight": bp.SpikeAndSlab(0.2)}, "paired", epochs=1)
    figure = bp.plot_prior_posterior(fit, ["*.included"], draws=300)
    heights, edges = steps(panel(figure, "fc3.weight.included"))[0]
    assert set(np.diff(edges)) == {1.0} and edges[0] % 1 == 0.5
    centres = (edges[:-1] + edges[1:]) / 2
    mean = (centres * heights).sum() / heights.sum()
    assert mean == pytest.approx(80 * 0.2, abs=1.0)  # Binomial(80, 0.2)


def test_every_single_number_is_drawn_by_default(spike):
    titles = [axis.get_title(loc="left") for axis in bp.plot_prior_posterior(spike, draws=5).axes]
    large = ["fc1.weight.z.mean", "fc1.weight.slab.rms"]  # sites of more than 512 entries have a summary
    of_tensors = [f"fc{layer}.weight.{what}" for layer in (1, 2, 3) for what in ("rms", "included")]
    assert sorted(titles) == sorted(large + of_tensors)


def test_of_many_quantities_the_first_are_drawn(horseshoe, monkeypatch):
    monkeypatch.setattr("bayesprune.analysis.plots.prior_posterior.MOST", 3)
    figure = bp.plot_prior_posterior(horseshoe, draws=3)
    assert len(figure.axes) == 3
    assert figure.get_suptitle().startswith("Prior and posterior (3 of ")


def test_a_map_is_a_point(make_fit, panel):
    fit = make_fit({"fc3.weight": bp.Horseshoe()}, "map", epochs=1)
    axis = panel(bp.plot_prior_posterior(fit, ["*.tau"], draws=20), "fc3.weight.tau")
    assert len(steps(axis)) == 1
    assert axis.lines[0].get_xdata()[0] == pytest.approx(float(fit.guide.means()["fc3.weight.tau"]))


def test_the_random_state_is_left_alone(horseshoe):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    bp.plot_prior_posterior(horseshoe, ["*.tau"], draws=3)
    assert torch.equal(torch.rand(3), expected)


def test_wrong_input_is_told(horseshoe, make_fit):
    with pytest.raises(ValueError, match=r"names='\*.sigma' matches no quantity: there are fc1.weight.tau"):
        bp.plot_prior_posterior(horseshoe, ["*.sigma"])
    with pytest.raises(ValueError, match="there is no restart 2: this fit has 2"):
        bp.plot_prior_posterior(horseshoe, restart=2)
    with pytest.raises(ValueError, match="draws must be at least 2, not 1"):
        bp.plot_prior_posterior(horseshoe, draws=1)
    with pytest.raises(ValueError, match="has no format"):
        bp.plot_prior_posterior(None, path="figure.bmp")
    improper = bp.HALO.from_paper(1e-4, 1e-4, weight_decay=1e-4, data_size=300, signed=False)
    with pytest.raises(ValueError, match="the prior on fc3.weight cannot be simulated"):
        bp.plot_prior_posterior(make_fit({"fc3.weight": improper}, "map", epochs=1))
