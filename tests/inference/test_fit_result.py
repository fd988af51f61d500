"""What a fit answers: predictions, draws, inclusion, shrinkage, effective parameters.

All of it is asked of fits that were made in three ways: by `fit`, and by `Fit.of` of two loops of one's own.
"""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from bayesprune.inference.posterior.shrinkage import shrinkage_factor
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import exact_zero, relative_threshold, shrinkage_below
from bayesprune.models.language.latent import Latent
from bayesprune.models.likelihoods.labels import Categorical
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.horseshoe import Horseshoe
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab
from tests.oracles.own_loops import WAYS, fit_by

SIZE = 400
torch.manual_seed(21)
X = torch.randn(SIZE, 4) * torch.tensor([0.2, 0.5, 1.0, 2.0])
Y = (X[:, 2] > 0).long()


@pytest.fixture(scope="module", autouse=True, params=WAYS)
def way(request):
    """How `fitted` makes a fit."""
    WAY.append(request.param)
    yield request.param
    WAY.pop()


WAY = []


def fitted(prior, guide=None, likelihood=None, y=Y, outputs=2, steps=30, **more):
    torch.manual_seed(123)
    network = nn.Sequential(nn.Linear(4, outputs, bias=False))
    bnn = BayesianNetwork(network, {"0.weight": prior}, likelihood or Categorical(), SIZE)
    more = {"learning_rate": 0.02, "device": "cpu", **more}
    return fit_by(WAY[-1], bnn, (X, y), guide, steps=steps, batch_size=100, **more)


def regression(prior, **more):
    y = X @ torch.tensor([1.0, 0.0, -1.0, 0.2]) + 0.5 * torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    return fitted(prior, likelihood=Normal(0.5), y=y, outputs=1, **more)


@pytest.fixture(scope="module")
def horseshoe(way):
    return regression(Horseshoe(1.0), guide="meanfield")


@pytest.fixture(scope="module")
def paired(way):
    return fitted(SpikeAndSlab(0.3))


# -- predictions and draws -----------------------------------------------------------------------------------


def test_draws_are_the_same_at_every_call_unless_a_seed_asks_for_others(paired):
    plain, again = paired.draws(3), paired.draws(3)
    one, same, other = (paired.draws(3, seed=seed) for seed in (0, 0, 1))
    for name, value in plain.items():
        assert torch.equal(value, again[name]) and torch.equal(value[:1], paired.draws(1)[name])
        assert torch.equal(one[name], same[name]) and torch.equal(one[name][:1], paired.draws(1, seed=0)[name])
    weights = [found["0.weight"] for found in (plain, one, other)]
    assert not any(torch.equal(a, b) for k, a in enumerate(weights) for b in weights[:k])
    own, seeded, twin = (paired.predict(X, draws=4, seed=seed).mean for seed in (None, 5, 5))
    assert torch.equal(seeded, twin) and not torch.equal(own, seeded)
    assert torch.equal(own, paired.predict(X, draws=4).mean)
    assert paired.score(X, Y, draws=4, seed=5) == paired.score(X, Y, draws=4, seed=5)
    assert paired.score(X, Y, draws=4, seed=5)["nll"] != paired.score(X, Y, draws=4)["nll"]
    assert paired.score(X, Y, draws=4, seed=5)["nll"] == paired.negative_log_likelihood(X, Y, draws=4, seed=5)


@pytest.mark.parametrize("seed", [-1, 0.5, 2**63, True])
def test_a_seed_of_draws_is_an_integer_from_zero_up(paired, seed):
    with pytest.raises(ValueError, match="seed is .* from 0 up"):
        paired.draws(1, seed=seed)


def test_draws_leave_the_global_random_state_alone(paired):
    before = torch.get_rng_state()
    paired.draws(2, seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_the_default_draws_are_those_of_the_seed_of_the_restart(paired):
    """The stream that fits have always had, so that numbers of earlier versions are kept."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(paired.restarts[0].seed + 1_000_003)
        expected = paired.guide.sample()
    found = paired.draws(1)
    assert all(torch.equal(found[name][0], value) for name, value in expected.items())


def test_a_prediction_is_the_mean_over_draws_of_the_probabilities(paired):
    found = paired.predict(X[:7], draws=5)
    assert found.draws.shape == (5, 7, 2) and found.mean.shape == found.sd.shape == (7, 2)
    torch.testing.assert_close(found.mean, found.draws.mean(0))
    torch.testing.assert_close(found.sd, found.draws.std(0, correction=0))
    torch.testing.assert_close(found.mean.sum(1), torch.ones(7))
    assert float(found.sd.max()) > 0


def test_predictions_are_the_same_each_time_and_whatever_the_batch(paired):
    one, again, parts = (paired.predict(X, draws=4, batch_size=size) for size in (1024, 1024, 3))
    assert torch.equal(one.mean, again.mean)
    torch.testing.assert_close(one.draws, parts.draws)


def test_a_prediction_uses_the_draws_of_the_weights(paired):
    found, drawn = paired.predict(X[:7], draws=5), paired.draws(5)
    expected = torch.softmax(torch.einsum("ni,doi->dno", X[:7], drawn["0.weight"]), -1)
    torch.testing.assert_close(found.draws, expected)


def test_a_map_predicts_with_one_network():
    result = fitted(Gaussian(), "map")
    found = result.predict(X[:7], draws=9)
    assert found.draws.shape[0] == 1 and float(found.sd.max()) == 0.0
    weight = result.included_weights()["0.weight"]
    torch.testing.assert_close(found.mean, torch.softmax(X[:7] @ weight.T, -1))


def test_draws_are_those_of_the_sites_and_the_weights(paired):
    drawn = paired.draws(6)
    assert set(drawn) == {"0.weight.z", "0.weight.slab", "0.weight"}
    assert torch.equal(drawn["0.weight"], drawn["0.weight.z"] * drawn["0.weight.slab"])
    assert set(drawn["0.weight.z"].unique().tolist()) <= {0.0, 1.0}
    assert set(paired.draws(2, sites=lambda name: name.endswith("z"))) == {"0.weight.z"}
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="must be at least 1"):
            paired.draws(wrong)


def test_scores_are_those_of_the_averaged_prediction(paired):
    prediction, scores = paired.predict(X, draws=8), paired.score(X, Y, draws=8)
    assert scores["accuracy"] == pytest.approx(float((prediction.mean.argmax(1) == Y).double().mean()))
    nll = -float(prediction.mean[torch.arange(SIZE), Y].log().mean())
    assert scores["nll"] == pytest.approx(nll, rel=1e-5)
    each = -float(prediction.draws[:, torch.arange(SIZE), Y].log().mean())
    assert each > nll + 1e-6  # the control: the mean of the log is not the log of the mean
    assert 0.0 <= scores["ece"] <= 1.0


def test_scores_of_a_regression(horseshoe):
    y = torch.zeros(SIZE)
    scores = horseshoe.score(X, y)
    assert set(scores) == {"rmse", "nll", "coverage_50", "coverage_90"}
    mean = horseshoe.predict(X).mean
    assert scores["rmse"] == pytest.approx(float(mean.square().mean().sqrt()), rel=1e-5)


def test_inputs_of_the_wrong_size_are_refused(paired):
    with pytest.raises(ValueError, match="does not take inputs of shape"):
        paired.predict(X[:, :3])
    with pytest.raises(ValueError, match="draws must be at least 1"):
        paired.predict(X, draws=0)
    with pytest.raises(ValueError, match="no restart 1"):
        paired.predict(X, restart=1)


# -- inclusion probabilities ---------------------------------------------------------------------------------


def test_the_probability_of_an_atom_is_the_guides(paired):
    found = paired.inclusion_probabilities()
    assert list(found.data_vars) == ["0.weight"] and found["0.weight"].attrs["kind"] == "atom"
    torch.testing.assert_close(torch.tensor(found["0.weight"].values), paired.guide.inclusion()["0.weight.z"])
    share = paired.draws(600)["0.weight.z"].mean(0).numpy()
    assert np.abs(share - found["0.weight"].values).max() < 4 * 0.5 / math.sqrt(600)


@pytest.mark.parametrize("level", ["output", "input", "block"])
def test_the_probability_of_a_group_is_that_of_all_its_weights(level):
    result = fitted(SpikeAndSlab(0.3, level=level, block=(1, 3)), steps=5)
    found = result.inclusion_probabilities()["0.weight"]
    gates = result.guide.inclusion()["0.weight.z"]
    expected = torch.tensor(
        [[gates[i, j // 3] if level == "block" else gates.expand(2, 4)[i, j] for j in range(4)] for i in range(2)]
    )
    assert found.shape == (2, 4)
    np.testing.assert_allclose(found.values, expected.numpy(), rtol=1e-6)


def test_an_atom_without_a_gate_is_counted_in_draws():
    threshold = Hierarchy(
        raw=dist.Normal(0.0, 1.0),
        s=Latent(dist.HalfNormal(1.0), per="layer"),
        weight=lambda raw, s: raw.sign() * (raw.abs() - s).clamp_min(0.0),
        included=exact_zero(),
    )
    result = fitted(threshold, "meanfield", steps=5)
    found = result.inclusion_probabilities(draws=300)["0.weight"]
    expected = (result.draws(300)["0.weight"] != 0).float().mean(0)
    np.testing.assert_allclose(found.values, expected.numpy(), rtol=1e-6)
    assert 0.0 < found.values.mean() < 1.0


def test_a_relative_probability_is_the_share_of_draws_above_the_threshold():
    result = fitted(Hierarchy(weight=dist.Normal(0.0, 1.0), included=relative_threshold(0.5)), "meanfield", steps=5)
    found = result.inclusion_probabilities(draws=200)["0.weight"]
    weight = result.draws(200)["0.weight"]
    rms = weight.square().mean((1, 2), keepdim=True).sqrt()
    np.testing.assert_allclose(found.values, (weight.abs() > 0.5 * rms).float().mean(0).numpy(), rtol=1e-6)
    assert found.attrs["kind"] == "relative" and "0.5" in found.attrs["event"]


def scale_draws(result, draws=200):
    """s_j^2 of each draw of the scales."""
    drawn = result.draws(draws)
    return (drawn["0.weight.tau"][:, None, None] * drawn["0.weight.lam"]) ** 2


def test_shrinkage_follows_its_definition_for_a_regression(horseshoe):
    """Fisher information of one datum is mean x_j^2 / sigma^2 for linear regression."""
    exact = X.square().mean(0) / 0.25
    fisher = horseshoe.restarts[0].fisher["0.weight"]
    error = 3.0 / math.sqrt(SIZE)  # labels are drawn: sd of (noise / sigma)^2 is sqrt(2), of x_j^2 more
    torch.testing.assert_close(fisher, exact.expand(1, 4), rtol=4 * error, atol=0)
    kappa = 1.0 / (1.0 + SIZE * fisher * scale_draws(horseshoe))
    found = horseshoe.shrinkage_factors()["0.weight"]
    np.testing.assert_allclose(found.values, kappa.mean(0).numpy(), rtol=1e-4)
    known = 1.0 / (1.0 + SIZE * exact * scale_draws(horseshoe))
    assert float((known.mean(0) - kappa.mean(0)).abs().max()) < 0.1
    probabilities = horseshoe.inclusion_probabilities()["0.weight"]
    np.testing.assert_allclose(probabilities.values, (kappa < 0.5).float().mean(0).numpy(), atol=1e-6)
    assert probabilities.attrs["kind"] == "shrinkage"


def test_shrinkage_of_halo_uses_the_sd_of_its_laplace():
    result = regression(HALO(prior_sd=1.0), guide="meanfield", steps=5)
    lam = result.draws(200)["0.weight.lam"]
    variance = 2.0 * (lam**2 / (math.sqrt(720.0) / 9.0)) ** 2
    kappa = 1.0 / (1.0 + SIZE * result.restarts[0].fisher["0.weight"] * variance)
    np.testing.assert_allclose(result.shrinkage_factors()["0.weight"].values, kappa.mean(0).numpy(), rtol=1e-4)


def test_the_fisher_information_of_a_classifier_is_that_of_its_softmax():
    result = fitted(
        Hierarchy(s=dist.HalfCauchy(1.0), weight=lambda s: dist.Normal(0.0, s), included=shrinkage_below()), "meanfield"
    )
    weight = result.included_weights()["0.weight"]
    p = torch.softmax(X @ weight.T, -1)
    exact = torch.einsum("nk,ni->ki", p * (1 - p), X**2) / SIZE
    torch.testing.assert_close(result.restarts[0].fisher["0.weight"], exact, rtol=0.35, atol=0.0)


def test_the_shrinkage_factor_is_one_where_data_or_prior_say_nothing():
    sd = torch.tensor([1.0, 0.0, 2.0])
    fisher = torch.tensor([0.0, 3.0, 0.25])
    assert shrinkage_factor(fisher, sd, 10).tolist() == pytest.approx([1.0, 1.0, 1.0 / 11.0])


def test_shrinkage_is_refused_where_the_prior_is_no_scale_mixture(paired):
    with pytest.raises(ValueError, match="no shrinkage factors"):
        paired.shrinkage_factors()
    with pytest.raises(ValueError, match="no shrinkage factors"):
        fitted(Gaussian(), "meanfield", steps=2).shrinkage_factors()
    fixed = Hierarchy(weight=dist.Normal(0.0, 1.0), included=shrinkage_below())
    with pytest.raises(ValueError, match="no scale mixture"):
        fitted(fixed, "meanfield", steps=2).inclusion_probabilities()


def test_a_map_of_halo_has_shrinkage_factors_at_its_point_but_no_probabilities():
    result = regression(HALO(prior_sd=1.0), guide="map", steps=5)
    lam = result.guide.means()["0.weight.lam"]
    sd = math.sqrt(2.0) * lam**2 / (math.sqrt(720.0) / 9.0)
    expected = shrinkage_factor(result.restarts[0].fisher["0.weight"], sd, SIZE)
    np.testing.assert_allclose(result.shrinkage_factors()["0.weight"].values, expected.numpy(), rtol=1e-4)


@pytest.mark.parametrize("ask", ["inclusion_probabilities", "effective_parameters"])
def test_a_map_refuses_probabilities(ask):
    with pytest.raises(ValueError, match="this fit is a MAP.*guide='meanfield'"):
        getattr(regression(HALO(), guide="map", steps=2), ask)()


def test_a_prior_without_an_event_has_no_probabilities():
    result = fitted(Hierarchy(weight=dist.Normal(0.0, 1.0)), "meanfield", steps=2)
    with pytest.raises(ValueError, match="declares no inclusion event"):
        result.inclusion_probabilities()


def test_variables_of_several_tensors_have_dimensions_of_their_own():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    bnn = BayesianNetwork(
        network, {"0.weight": SpikeAndSlab(), "2.weight": Gaussian(), "*.bias": Gaussian(1.0)}, data_size=SIZE
    )
    result = fit_by(WAY[-1], bnn, (X, Y), None, steps=2, device="cpu")
    found = result.inclusion_probabilities(draws=5)
    assert {name: found[name].shape for name in found.data_vars} == {
        "0.weight": (3, 4),
        "0.bias": (3,),
        "2.weight": (2, 3),
        "2.bias": (2,),
    }
    assert found["0.weight"].attrs["kind"] == "atom" and found["2.weight"].attrs["kind"] == "relative"


# -- effective parameters ------------------------------------------------------------------------------------


def test_effective_parameters_are_the_sum_of_one_minus_kappa(horseshoe):
    kappa = 1.0 / (1.0 + SIZE * horseshoe.restarts[0].fisher["0.weight"] * scale_draws(horseshoe))
    counts = (1.0 - kappa).sum((1, 2)).numpy()
    found = horseshoe.effective_parameters().sel(tensor="0.weight")
    assert float(found["mean"]) == pytest.approx(counts.mean(), rel=1e-4)
    assert float(found["lower"]) == pytest.approx(np.quantile(counts, 0.055), rel=1e-4)
    assert float(found["upper"]) == pytest.approx(np.quantile(counts, 0.945), rel=1e-4)
    assert int(found["weights"]) == 4


def test_effective_parameters_of_spike_and_slab_count_the_included(paired):
    counts = paired.draws(200)["0.weight.z"].sum((1, 2)).numpy()
    found = paired.effective_parameters().sel(tensor="0.weight")
    assert float(found["mean"]) == pytest.approx(counts.mean(), rel=1e-6)
    expected = float(paired.guide.inclusion()["0.weight.z"].sum())
    assert abs(float(found["mean"]) - expected) < 4 * counts.std() / math.sqrt(200) + 1e-6


def test_a_scale_mixture_with_another_event_is_counted_by_that_event():
    prior = Hierarchy(lam=dist.HalfCauchy(1.0), weight=lambda lam: dist.Normal(0.0, lam), included=relative_threshold())
    found = fitted(prior, "meanfield", steps=3).effective_parameters(draws=20)
    assert 0.0 < float(found["mean"][0]) <= 8.0


# -- weights to keep -----------------------------------------------------------------------------------------


def test_included_weights_are_the_slabs_locations(paired):
    (family,) = paired.guide.families
    torch.testing.assert_close(paired.included_weights()["0.weight"].flatten(), family.location.detach())


def test_included_weights_are_a_copy(paired):
    before = paired.included_weights()["0.weight"].clone()
    paired.included_weights()["0.weight"].zero_()
    assert torch.equal(before, paired.included_weights()["0.weight"])
