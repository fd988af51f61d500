"""Continuous spike and slab: the mixture against SciPy, membership by quadrature, and what a fit makes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

import bayesprune as bp
from bayesprune.inference.inclusion.membership import membership_log_odds
from bayesprune.inference.pruning.criteria import CRITERIA
from bayesprune.models.distributions.spike_slab_mixture import SpikeSlabMixture
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.priors.continuous_spike_and_slab import ContinuousSpikeAndSlab
from tests.oracles.weight_penalties import slab_probability, spike_slab_log_density

WEIGHTS = torch.tensor([-30.0, -2.0, -0.3, -1e-2, -1e-3, 0.0, 1e-7, 4e-3, 0.05, 1.0, 1e3], dtype=torch.float64)
SETTINGS = [(0.1, 1e-3, 0.2), (0.5, 1e-6, 10.0), (1e-4, 0.1, 0.11), (0.9, 0.3, 0.3)]


# -- the mixture ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("density", "spike", "slab"), SETTINGS)
def test_the_density_is_the_sum_of_its_parts_and_membership_is_bayes_rule(density, spike, slab):
    mixture = SpikeSlabMixture(density, torch.tensor(spike, dtype=torch.float64), slab)
    expected = spike_slab_log_density(WEIGHTS.numpy(), density, spike, slab)
    np.testing.assert_allclose(mixture.log_prob(WEIGHTS), expected, rtol=1e-12)
    other = spike_slab_log_density(WEIGHTS.numpy(), density, 1.001 * spike, slab)
    assert np.abs(expected - other).max() > 1e-5  # the control: a spike that is a thousandth wider
    probability = slab_probability(WEIGHTS.numpy(), density, spike, slab)
    np.testing.assert_allclose(mixture.responsibility(WEIGHTS), probability, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(mixture.log_odds(WEIGHTS).sigmoid(), probability, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize(("density", "spike", "slab"), SETTINGS)
def test_single_precision_keeps_the_density_and_a_finite_gradient(density, spike, slab):
    values = WEIGHTS.float().requires_grad_()
    found = SpikeSlabMixture(density, spike, slab).log_prob(values)
    expected = spike_slab_log_density(WEIGHTS.numpy(), density, spike, slab)
    np.testing.assert_allclose(found.detach(), expected, rtol=2e-5, atol=2e-5)
    (slopes,) = torch.autograd.grad(found.sum(), values)
    inside = slab_probability(WEIGHTS.numpy(), density, spike, slab)
    exact = -WEIGHTS.numpy() * (inside / slab**2 + (1.0 - inside) / spike**2)
    np.testing.assert_allclose(slopes, exact, rtol=2e-3, atol=1e-6)


def test_draws_follow_the_mixture_and_its_variance():
    mixture = SpikeSlabMixture(0.3, torch.tensor(0.2, dtype=torch.float64), 1.5)
    torch.manual_seed(0)
    drawn = mixture.sample((20_000,))

    def cdf(x):
        return 0.3 * stats.norm(0, 1.5).cdf(x) + 0.7 * stats.norm(0, 0.2).cdf(x)

    assert stats.kstest(drawn.numpy(), cdf).pvalue > 1e-3
    assert stats.kstest(drawn.numpy(), stats.norm(0, float(mixture.stddev)).cdf).pvalue < 1e-9
    assert float(mixture.variance) == pytest.approx(0.3 * 2.25 + 0.7 * 0.04) and float(mixture.mean) == 0.0
    assert float(drawn.square().mean()) == pytest.approx(float(mixture.variance), rel=0.05)
    wide = SpikeSlabMixture(torch.tensor([0.1, 0.9]), 0.1, 1.0)
    assert wide.expand((3, 2)).sample((4,)).shape == (4, 3, 2) and wide.batch_shape == (2,)


# -- the prior -----------------------------------------------------------------------------------------------


def distribution_of(declared, shape=(40, 50), share=1.0):
    prior = TensorPrior("w", declared, shape, 10)
    prior.progress.set(share)
    found = []

    def look(_, fn):
        found.append(fn.base_dist)
        return torch.zeros(shape, dtype=torch.float64)

    prior.run(look, torch.empty(0, dtype=torch.float64), {})
    return found[0]


def test_the_default_scales_are_he_s_for_the_network_that_is_left():
    slab = math.sqrt(2.0 / (0.2 * 50))
    first, last = (distribution_of(ContinuousSpikeAndSlab(0.2), share=share) for share in (0.0, 1.0))
    assert float(last.slab_sd) == pytest.approx(slab, rel=1e-14)
    assert float(last.spike_sd) == pytest.approx(slab / 100, rel=1e-14)
    assert float(first.spike_sd) == pytest.approx(0.3 * slab, rel=1e-14) and float(first.density) == 0.2
    wide = distribution_of(ContinuousSpikeAndSlab(0.2, 1.0, 0.5), share=0.0)
    assert float(wide.spike_sd) == 0.5
    assert float(distribution_of(ContinuousSpikeAndSlab(0.2, annealing=0.0), share=0.0).spike_sd) < 0.02 * slab


def test_prior_sparsity_is_that_of_the_indicator():
    found = bp.prior_sparsity(ContinuousSpikeAndSlab(0.2, 1.0, 0.5), (30, 40), draws=60)
    assert found.kind == "membership" and found.mean == pytest.approx(0.8, abs=4 * 0.4 / math.sqrt(60 * 1200))


@pytest.mark.parametrize(
    "arguments",
    [
        {"expected_density": 0.0},
        {"expected_density": 1.0},
        {"slab_sd": 0.0},
        {"spike_sd": -1.0},
        {"initial_spike_sd": float("nan")},
        {"annealing": -0.1},
        {"annealing": 1.1},
        {"slab_sd": 1.0, "spike_sd": 2.0},
        {"slab_sd": 1.0, "spike_sd": 2.0, "annealing": 0.0},
        {"slab_sd": 1.0, "spike_sd": 0.1, "initial_spike_sd": 0.05},
        {"slab_sd": 1.0, "initial_spike_sd": 1.5},
    ],
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="ContinuousSpikeAndSlab.*" + list(arguments)[-1].replace("annealing", "")):
        ContinuousSpikeAndSlab(**arguments)


def test_scales_that_do_not_fit_a_tensor_are_refused_before_a_fit():
    declared = ContinuousSpikeAndSlab(0.5, spike_sd=0.5)  # He's slab is narrower for many inputs
    with pytest.raises(ValueError, match="spike_sd <= initial_spike_sd <= slab_sd.*fan_in 100"):
        bp.BayesianNetwork(nn.Linear(100, 2), {"weight": declared}, data_size=10)


def test_a_spike_may_begin_narrower_than_the_default_end():
    declared = ContinuousSpikeAndSlab(0.2, initial_spike_sd=0.001)
    first, last = (distribution_of(declared, share=share) for share in (0.0, 1.0))
    assert float(first.spike_sd) == float(last.spike_sd) == 0.001
    assert float(distribution_of(ContinuousSpikeAndSlab(0.2, initial_spike_sd=0.1)).spike_sd) < 0.01


def test_membership_needs_a_mixture():
    with pytest.raises(ValueError, match="slab_membership.*SpikeSlabMixture"):
        Hierarchy(weight=torch.distributions.Normal(0.0, 1.0), included=bp.slab_membership())


# -- fits ----------------------------------------------------------------------------------------------------

torch.manual_seed(0)
X = torch.randn(200, 8)
SLOPES = torch.tensor([1.5, 0.0, -0.8, 0.0, 0.0, 0.4, 0.0, 0.0])
Y = X @ SLOPES + 0.3 * torch.randn(200)
DENSITY, SPIKE, SLAB = 0.3, 0.05, 1.0


def fitted(guide="meanfield", prior=None, start=None, **more):
    prior = prior or ContinuousSpikeAndSlab(DENSITY, SLAB, SPIKE)
    network = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(0.3 * torch.randn(8) if start is None else start)
    model = bp.BayesianNetwork(network, {"weight": prior}, bp.Normal(scale=0.3), data_size=200)
    how = {"steps": 150, "batch_size": 100, "learning_rate": 0.03, "device": "cpu", **more}
    return bp.fit(model, (X, Y), guide, **how)


@pytest.fixture(scope="module")
def result():
    torch.manual_seed(0)
    return fitted()


@pytest.fixture(scope="module")
def unsure():
    """Weights around the point where both parts are as probable, 0.139."""
    return fitted(start=torch.linspace(0.06, 0.26, 8), steps=1, learning_rate=1e-6)


def test_a_fit_tells_needed_weights_from_the_others(result):
    found = result.inclusion_probabilities()["weight"]
    assert (found.attrs["kind"], found.attrs["event"]) == ("membership", "the weight belongs to the slab (membership)")
    assert found.dims == ("weight.output", "weight.input")
    np.testing.assert_array_equal(found.values[0] > 0.5, SLOPES.numpy() != 0)
    np.testing.assert_allclose(result.included_weights()["weight"][0], SLOPES, atol=0.08)


def test_the_inclusion_probability_is_the_guide_s_average_of_the_probability_given_the_weight(unsure):
    family = unsure.guide.families[0]
    locations, sds = family.location.detach().double().numpy(), family.log_scale.detach().double().exp().numpy()
    exact, by_threshold = [], []
    for location, sd in zip(locations, sds, strict=True):
        grid = np.linspace(location - 9 * sd, location + 9 * sd, 5001)
        density = stats.norm(location, sd).pdf(grid)
        inside = slab_probability(grid, DENSITY, SPIKE, SLAB)
        exact.append(integrate.simpson(density * inside, x=grid))
        by_threshold.append(integrate.trapezoid(density * (inside > 0.5), x=grid))
    found = unsure.inclusion_probabilities(draws=300)["weight"].values[0]
    errors = np.sqrt(np.array(exact) * (1 - np.array(exact)) / 300)
    assert (np.abs(found - exact) < 4 * errors).all() and errors.max() > 0.02
    assert (np.abs(np.array(by_threshold) - exact) > 4 * errors).any()  # the control: the share above a half


def test_the_number_of_included_weights_is_that_of_drawn_indicators(unsure):
    found = unsure.effective_parameters(draws=300).sel(tensor="weight")
    probability = unsure.inclusion_probabilities(draws=300)["weight"].values[0]
    spread = math.sqrt((probability * (1 - probability)).sum())  # of a sum of independent indicators
    assert float(found["mean"]) == pytest.approx(probability.sum(), abs=4 * spread / math.sqrt(300))
    assert float(found["upper"] - found["lower"]) == pytest.approx(2 * 1.6 * spread, abs=1.0)
    drawn = unsure.map_draws(lambda draw: unsure.included_at(draw)["weight"], 300)
    share = torch.stack(drawn).double().mean(0)[0].numpy()
    assert drawn[0].dtype == torch.bool
    assert (np.abs(share - probability) < 5 * 0.5 / math.sqrt(300)).all()
    assert np.abs(share - (probability > 0.5)).max() > 0.3  # the control: a threshold at a half


def test_the_criterion_keeps_the_order_of_probabilities_that_round_to_one():
    result = fitted(prior=ContinuousSpikeAndSlab(DENSITY, SLAB, 0.005, annealing=0.0))
    probability = result.inclusion_probabilities()["weight"].values[0]
    odds = membership_log_odds(result)["weight"][0].numpy()
    assert (probability[[0, 2, 5]] == 1.0).all() and odds[0] > odds[2] > odds[5] > 100
    np.testing.assert_allclose(1.0 / (1.0 + np.exp(-odds)), probability, rtol=1e-12)
    assert torch.equal(CRITERIA["inclusion"](result, 0)["weight"][0], torch.from_numpy(odds))


def test_pruning_by_inclusion_keeps_what_is_in_the_slab(result):
    expected = SLOPES != 0
    for how in ({"min_inclusion": 0.5}, {"sparsity": 5 / 8, "criterion": "inclusion"}):
        pruned = bp.prune(result, **how)
        assert torch.equal(pruned.masks["weight"][0], expected) and pruned.report.kind == "membership"


def test_a_map_has_the_probability_at_its_point():
    result = fitted("map")
    found = result.inclusion_probabilities()["weight"].values
    point = result.guide.means()["weight"].double().numpy()
    np.testing.assert_allclose(found, slab_probability(point, DENSITY, SPIKE, SLAB), rtol=1e-4)
    assert torch.equal(bp.prune(result, min_inclusion=0.5).masks["weight"][0], SLOPES != 0)
    with pytest.raises(ValueError, match="MAP"):  # the control: of another event it has none
        fitted("map", bp.Gaussian()).inclusion_probabilities()


def test_a_spike_that_narrows_lets_a_weight_out_that_a_narrow_one_holds():
    """One weight, started at zero: its posterior is in the slab, but a point has to climb out of the spike first."""
    x = torch.ones(20, 1)
    y = torch.full((20,), 2.0)
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.001)

    def ends_at(annealing):
        prior = ContinuousSpikeAndSlab(0.1, 1.0, 0.03, annealing=annealing)
        model = bp.BayesianNetwork(network, {"weight": prior}, bp.Normal(scale=1.0), data_size=20)
        return bp.fit(model, (x, y), "map", steps=300, learning_rate=0.02, kl_warmup=0.0).guide.means()["weight"]

    grid = np.linspace(-4.0, 4.0, 8001)
    posterior = np.exp(spike_slab_log_density(grid, 0.1, 0.03, 1.0) - 10.0 * (grid - 2.0) ** 2)
    assert (posterior * slab_probability(grid, 0.1, 0.03, 1.0)).sum() > 0.99 * posterior.sum()
    highest = grid[posterior.argmax()]
    assert float(ends_at(0.8)) == pytest.approx(highest, abs=0.02) and highest > 1.8
    assert float(ends_at(0.0)) < 0.2
