"""Log densities against Pyro's own traces of model and guide at the same values."""

from __future__ import annotations

import pytest
import torch
from pyro import poutine
from torch import nn

import bayesprune as bp
from bayesprune.analysis.diagnostics.log_densities import LogDensities


@torch.no_grad()
def by_pyro(one, values, among=None):
    sites = {name: values[name] for name in one.model.sites}
    guide = poutine.trace(poutine.condition(one.guide, data=sites)).get_trace()
    prior = poutine.trace(poutine.condition(one.model.sample_weights, data=sites)).get_trace()
    wanted = guide.log_prob_sum(lambda name, _: among is None or name in among)
    return float(prior.log_prob_sum()), float(wanted)


@pytest.mark.parametrize("name", ["gaussian", "horseshoe", "spike", "convolution", "halo"])  # halo has a factor
def test_densities_are_those_of_pyro_s_traces(name, request):
    densities = LogDensities(request.getfixturevalue(name), 0)
    for draw in densities.fit.map_draws(dict, 2):
        weights, log_prior, log_guide = densities.at(draw)
        assert (log_prior, log_guide) == pytest.approx(by_pyro(densities.one, draw), rel=1e-12)
        assert all(torch.equal(weight, draw[tensor]) for tensor, weight in weights.items())
        assert log_prior != pytest.approx(log_guide, rel=1e-3) or name == "halo"  # control: the two are told apart


def test_the_guide_s_density_may_be_that_of_some_sites(spike):
    densities = LogDensities(spike, 1)
    (draw,) = densities.fit.map_draws(dict, 1)
    slabs = [name for name in spike.model.sites if name.endswith("slab")]
    _, _, log_guide = densities.at(draw, slabs)
    assert log_guide == pytest.approx(by_pyro(densities.one, draw, slabs)[1], rel=1e-12)
    assert log_guide != pytest.approx(densities.at(draw)[2], rel=1e-3)  # control


def test_likelihoods_are_those_of_the_network_in_evaluation_mode(digits):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 10))
    bnn = bp.BayesianNetwork(network, {"0.weight": bp.Gaussian(0.3)}, data_size=300)
    fit = bp.fit(bnn, digits["train"], epochs=1, device="cpu")
    densities = LogDensities(fit, 0)
    weights = densities.one.model.weights_at(densities.one.guide.means())
    x, y = digits["train"]
    found = densities.likelihoods(weights, x, y)
    own = {**dict(densities.one.model.network.named_parameters()), **weights}
    hidden = x.double() @ own["0.weight"].T + own["0.bias"]
    norm = densities.one.model.network[1]

    def expected(mean, variance):
        normal = (hidden - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias
        return (normal @ own["3.weight"].T + own["3.bias"]).log_softmax(dim=1)[torch.arange(300), y]

    own_statistics = expected(hidden.mean(0), hidden.var(0))
    torch.testing.assert_close(found, own_statistics, rtol=1e-10, atol=1e-10)
    running = expected(norm.running_mean, norm.running_var)  # control: those of the draws of the last steps
    assert float((found - running).detach().abs().max()) > 0.1
    fit.inputs = None
    torch.testing.assert_close(LogDensities(fit, 0).likelihoods(weights, x, y), running, rtol=1e-10, atol=1e-10)
    assert found.dtype == torch.float64


def test_a_guide_with_points_has_no_density_of_all_sites(make_fit, digits):
    priors = {"fc1.weight": bp.Gaussian(0.3), "fc3.weight": bp.HALO(kappa=20.0)}
    mixed = make_fit(priors, {"fc3.weight*": "delta"}, epochs=1)
    refusal = r" needs a guide with a density at every site, but fc3.weight\S* \(delta\) has none"
    with pytest.raises(ValueError, match="the joint k-hat" + refusal):
        bp.pareto_khat(mixed, digits["train"], joint=True)
    with pytest.raises(ValueError, match="posterior=True" + refusal):
        bp.loo(mixed, digits["train"], posterior=True)
    assert bp.loo(mixed, digits["train"], draws=2, points=2).posterior is None  # control: of the guide's predictions
