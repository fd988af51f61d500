"""`bp.reference`: what it chooses, says and refuses; and fits beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.analysis.reference import reference as home

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(30, 3, generator=GENERATOR)
Y = X[:, 0] - 0.4 * X[:, 1] + 0.5 * torch.randn(30, generator=GENERATOR)


def model(prior=None, likelihood=None, bias=False, out=1):
    torch.manual_seed(0)
    return bp.BayesianNetwork(
        nn.Linear(3, out, bias=bias), {"weight": prior or bp.SpikeAndSlab(0.3, 1.0)}, likelihood or bp.Normal(0.5), 30
    )


@pytest.fixture(scope="module")
def exact():
    return bp.reference(model(), (X, Y), draws=500)


@pytest.fixture(scope="module")
def fit():
    return bp.fit(model(), (X, Y), steps=300, batch_size=30, learning_rate=0.05, execution="plain", precision="float64")


def test_a_reference_says_what_it_is(exact):
    assert exact.method == "enumeration" and exact.is_exact and exact.has_mixed
    assert "8 states of 3 gates" in exact.reason and math.isnan(exact.r_hat)
    found = exact.inclusion_probabilities()["weight"]
    assert found.shape == (1, 3) and found.attrs["kind"] == "atom" and found.dims == ("weight.output", "weight.input")
    assert exact.posterior["weight"].dims[:2] == ("chain", "draw") and exact.posterior["weight.z"].shape == (
        1,
        500,
        1,
        3,
    )
    assert "weight[0,2]" in str(exact) and "log evidence" in str(exact)
    assert exact.to_arviz().posterior["weight"].shape == (1, 500, 1, 3)


def test_chains_of_a_sampler_have_an_r_hat_and_a_number_of_draws(exact):
    found = bp.reference(model(), (X, Y), "gibbs", draws=400, warmup=50)
    assert found.r_hat < 1.05 and 0 < found.ess <= 2000 and found.log_evidence is None
    assert "R-hat" in str(found)
    difference = found.inclusion_probabilities()["weight"] - exact.inclusion_probabilities()["weight"]
    assert float(np.abs(difference).max()) < 0.03


def test_chains_that_have_not_met_are_told():
    apart = np.broadcast_to(np.arange(2.0)[:, None, None], (2, 50, 2))
    moving = 0.01 * np.random.default_rng(0).standard_normal((2, 50, 2))

    def mixing(weights, conditional=None):
        return home._mixing(home.xr.Dataset({"w": (("chain", "draw", "k"), weights)}), conditional)

    assert mixing(apart + moving)[0] > 1.5 and mixing(moving)[0] < 1.1
    # Gates that are open in one chain for good and closed in the other are no gates without an R-hat.
    assert mixing(moving, apart)[0] == math.inf and mixing(moving, apart)[1] == 1.0
    assert mixing(moving, np.ones((2, 50, 2))) == mixing(moving)
    half = moving + 0.5
    half[0] = 1.0
    assert mixing(moving, half)[0] > 1.5


def test_a_fit_beside_its_reference(fit, exact):
    found = bp.against_reference(fit, exact)
    assert found.largest < 0.4 and 0.4 < found.sd_ratio < 1.3 and found.log_score <= found.best_log_score
    q = fit.inclusion_probabilities()["weight"].values.ravel()
    p = exact.inclusion_probabilities()["weight"].values.ravel()
    assert found.largest == pytest.approx(np.abs(p - q).max())
    assert found.weights.weight.values.tolist() == ["weight[0,0]", "weight[0,1]", "weight[0,2]"]
    assert "inclusion probabilities: largest difference" in str(found)


def test_the_figure_is_written(fit, exact, tmp_path):
    bp.plot_against_reference(fit, exact, path=tmp_path / "beside.svg")
    text = (tmp_path / "beside.svg").read_text()
    assert "inclusion probability, enumeration" in text and "weight[0,2]" in text
    with pytest.raises(ValueError, match="probability"):
        bp.plot_against_reference(fit, exact, probability=1.0)


def test_another_models_reference_is_refused(fit, exact):
    other = bp.BayesianNetwork(nn.Linear(3, 1), {"*": bp.Gaussian(1.0)}, bp.Normal(0.5), 30)
    with pytest.raises(ValueError, match="another model"):
        bp.against_reference(fit, bp.reference(other, (X, Y), draws=10, points="flat"))
    with pytest.raises(ValueError, match="data"):
        bp.against_reference(fit, home.Reference(**{**exact.__dict__, "data_size": 31}))
    with pytest.raises(ValueError, match="units"):
        bp.against_reference(fit, home.Reference(**{**exact.__dict__, "standardised": True}))


BAD = {
    "method='laplace'|takes one of": {"method": "laplace"},
    "points=": {"points": "free"},
    "kl_weight=": {"kl_weight": 0.0},
    "draws": {"draws": 1},
    "chains": {"chains": 0},
    "seed": {"seed": -1},
    "gates, which NUTS": {"method": "nuts"},
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_arguments_are_refused(sentence):
    with pytest.raises(ValueError, match=sentence):
        bp.reference(model(), (X, Y), **BAD[sentence])


def test_models_without_a_reference_are_refused_in_a_sentence():
    deep = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
    with pytest.raises(ValueError, match="hidden layers"):
        bp.reference(bp.BayesianNetwork(deep, {"*.weight": bp.SpikeAndSlab()}, bp.Normal(1.0), 30), (X, Y))
    with pytest.raises(ValueError, match="gates"):
        bp.reference(model(likelihood=bp.Poisson(), bias=True), (X, (Y.abs() * 3).round()))
    with pytest.raises(ValueError, match="BayesianNetwork"):
        bp.reference(nn.Linear(3, 1), (X, Y))
    with pytest.raises(ValueError, match="kl_weight"):
        bp.reference(model(prior=bp.Horseshoe()), (X, Y), kl_weight=0.5)


@pytest.mark.slow
def test_nuts_is_the_conjugate_posterior_where_there_is_one_and_takes_a_horseshoe():
    bnn = model(prior=bp.Gaussian(0.7), likelihood=bp.Normal(), bias=True)
    exact = bp.reference(bnn, (X, Y), draws=10)
    found = bp.reference(bnn, (X, Y), "nuts", draws=250, warmup=150, chains=2)
    assert found.divergences == 0 and found.r_hat < 1.05 and "divergences 0" in str(found)
    for name in ("weight", "bias", "noise"):
        away = np.abs(found.mean[name].values - exact.mean[name].values) / exact.sd[name].values
        assert away.max() < 0.25
        assert np.abs(found.sd[name].values / exact.sd[name].values - 1.0).max() < 0.25
    horseshoe = bp.reference(model(prior=bp.Horseshoe(0.3)), (X, Y), draws=30, warmup=30, chains=2)
    assert horseshoe.method == "nuts" and "no Normal slab" in horseshoe.reason
    shares = horseshoe.inclusion_probabilities()["weight"]
    assert shares.attrs["kind"] == "shrinkage" and float(shares[0, 0]) > float(shares[0, 2])
