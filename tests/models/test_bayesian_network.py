"""A network with priors: patterns, copies, the log joint by hand, and Pyro's own machinery on it."""

from __future__ import annotations

import copy

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive
from pyro.infer.inspect import get_model_relations
from scipy import stats
from torch import nn

from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.latent import Latent
from bayesprune.models.likelihoods.labels import Categorical
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.horseshoe import Horseshoe
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab


def network(inputs=4, hidden=3, outputs=2):
    torch.manual_seed(1)
    made = nn.Sequential()
    made.add_module("fc1", nn.Linear(inputs, hidden))
    made.add_module("act", nn.Tanh())
    made.add_module("fc2", nn.Linear(hidden, outputs))
    return made


def shared_horseshoe():
    return Hierarchy(
        tau=Latent(dist.HalfCauchy(1.0), per="network"),
        lam=Latent(dist.HalfCauchy(1.0), per="weight"),
        z=Latent(dist.Normal(0.0, 1.0)),
        weight=lambda tau, lam, z: tau * lam * z,
    )


def trace_of(model, *args):
    with torch.no_grad():
        trace = poutine.trace(model).get_trace(*args)
        trace.compute_log_prob()
    return trace


def sampled(trace):
    """Names of the sampled sites, without the entry that Pyro makes for the plate over the data."""
    return [
        name
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not node["is_observed"] and name != "data"
    ]


# -- declaring -----------------------------------------------------------------------------------------------


def test_an_unmatched_pattern_lists_the_parameters():
    with pytest.raises(ValueError, match="'conv\\*' matches no parameter.*fc1.weight.*fc2.bias"):
        BayesianNetwork(network(), {"conv*": Gaussian()}, data_size=10)


def test_overlapping_patterns_are_refused_by_the_tensor_they_share():
    with pytest.raises(ValueError, match="both match fc1.weight"):
        BayesianNetwork(network(), {"fc1.*": Gaussian(), "*.weight": Gaussian()}, data_size=10)


def test_no_prior_at_all_is_refused():
    with pytest.raises(ValueError, match="no parameter has a prior"):
        BayesianNetwork(network(), {}, data_size=10)


@pytest.mark.parametrize("prior", [dist.Normal(0.0, 1.0), Gaussian, "gaussian"])
def test_what_is_no_hierarchy_is_refused_in_a_sentence(prior):
    with pytest.raises(ValueError, match="fc1.weight.*Hierarchy"):
        BayesianNetwork(network(), {"fc1.weight": prior}, data_size=10)


@pytest.mark.parametrize("size", [None, 0, -3])
def test_data_size_is_required_and_positive(size):
    with pytest.raises(ValueError, match="data_size must be the number of training data"):
        BayesianNetwork(network(), {"*.weight": Gaussian()}, data_size=size)


def test_gates_are_unit_gates():
    with pytest.raises(ValueError, match="gates= takes UnitGates"):
        BayesianNetwork(network(), {"*.weight": Gaussian()}, data_size=10, gates={"act": Gaussian()})


def test_parameters_without_a_prior_are_the_models_parameters():
    bnn = BayesianNetwork(network(), {"fc*.weight": Gaussian()}, data_size=10)
    assert bnn.point_estimates == ("fc1.bias", "fc2.bias")
    wanted = {name for name, parameter in bnn.named_parameters() if parameter.requires_grad}
    assert wanted == {"network.fc1.bias", "network.fc2.bias"}
    assert "point estimates: fc1.bias, fc2.bias" in str(bnn)
    everything = BayesianNetwork(network(), {"*": Gaussian()}, data_size=10)
    assert everything.point_estimates == () and "point estimates: none" in str(everything)


def test_a_learned_noise_scale_is_a_parameter_too():
    bnn = BayesianNetwork(network(outputs=1), {"*": Gaussian()}, Normal(), 10)
    assert [n for n, p in bnn.named_parameters() if p.requires_grad] == ["likelihood.log_scale"]


def test_the_users_network_and_buffers_are_never_modified():
    mine = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    before = copy.deepcopy(mine.state_dict())
    bnn = BayesianNetwork(mine, {"*.weight": Gaussian()}, data_size=10)
    bnn.train()
    for _ in range(3):
        poutine.trace(bnn).get_trace(torch.randn(10, 4), torch.randint(2, (10,)))
    with torch.no_grad():
        for parameter in bnn.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[name], value) for name, value in mine.state_dict().items())
    assert all(parameter.requires_grad for parameter in mine.parameters())
    assert not torch.equal(bnn.network[1].running_mean, mine[1].running_mean)  # the copy's buffers did move


# -- the model -----------------------------------------------------------------------------------------------


def test_the_sites_are_those_that_a_trace_holds():
    bnn = BayesianNetwork(
        network(), {"fc1.weight": Horseshoe(), "fc2.weight": SpikeAndSlab(), "*.bias": Gaussian(1.0)}, data_size=10
    )
    trace = trace_of(bnn, torch.randn(5, 4), torch.randint(2, (5,)))
    assert sampled(trace) == list(bnn.sites)
    assert sampled(trace) == [
        *("fc1.weight.tau", "fc1.weight.lam", "fc1.weight.z", "fc1.bias"),
        *("fc2.weight.z", "fc2.weight.slab", "fc2.bias"),
    ]
    for name, site in bnn.sites.items():
        assert trace.nodes[name]["value"].shape == site.shape
    # Weights that are a function of the latents are in the trace as well.
    expected = trace.nodes["fc2.weight.z"]["value"] * trace.nodes["fc2.weight.slab"]["value"]
    assert torch.equal(trace.nodes["fc2.weight"]["value"], expected)


def test_a_latent_of_the_network_is_one_site_for_all_tensors_of_its_pattern():
    bnn = BayesianNetwork(network(), {"fc*.weight": shared_horseshoe()}, data_size=10)
    trace = trace_of(bnn, torch.randn(5, 4), torch.randint(2, (5,)))
    assert [name for name in sampled(trace) if name.endswith("tau")] == ["fc*.weight.tau"]
    values = {name: trace.nodes[name]["value"] for name in sampled(trace)}
    for tensor in ("fc1.weight", "fc2.weight"):
        weight = values["fc*.weight.tau"] * values[f"{tensor}.lam"] * values[f"{tensor}.z"]
        torch.testing.assert_close(trace.nodes[tensor]["value"], weight)
    assert torch.equal(bnn.weights_at(values)["fc2.weight"], trace.nodes["fc2.weight"]["value"])


def test_one_hierarchy_under_two_patterns_has_the_sites_it_declares():
    declared = shared_horseshoe()
    bnn = BayesianNetwork(network(), {"fc1.weight": declared, "fc2.weight": declared}, data_size=10)
    trace = trace_of(bnn, torch.randn(5, 4), torch.randint(2, (5,)))
    assert sampled(trace) == list(bnn.sites)


@pytest.mark.parametrize("batch", [7, 20])
def test_the_log_joint_is_the_one_written_by_hand(batch):
    plain = network().double()
    prior = Hierarchy(
        tau=Latent(lambda: dist.HalfCauchy(0.7), per="output"),
        weight=lambda tau, fan_in: dist.Normal(0.1, tau / fan_in),
    )
    bnn = BayesianNetwork(plain, {"fc*.weight": prior, "fc1.bias": HALO(kappa=0.9)}, Categorical(), 20)
    x, y = torch.randn(batch, 4, dtype=torch.float64), torch.randint(2, (batch,))
    trace = trace_of(bnn, x, y)
    v = {name: trace.nodes[name]["value"].detach().numpy() for name in sampled(trace)}
    expected = stats.gamma(3.0, scale=1 / 3.0).logpdf(v["fc1.bias.lam"]).sum()
    expected += stats.laplace(0, v["fc1.bias.lam"] ** 2 / 0.1).logpdf(v["fc1.bias"]).sum()
    for tensor, fan_in in (("fc1.weight", 4), ("fc2.weight", 3)):
        tau = v[f"{tensor}.tau"]
        expected += stats.halfcauchy(scale=0.7).logpdf(tau).sum()
        expected += stats.norm(0.1, tau / fan_in).logpdf(v[tensor]).sum()
    hidden = np.tanh(x.numpy() @ v["fc1.weight"].T + v["fc1.bias"])
    logits = hidden @ v["fc2.weight"].T + plain.fc2.bias.detach().numpy()
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    data = logits[np.arange(batch), y.numpy()].sum()
    assert float(trace.log_prob_sum()) == pytest.approx(expected + data * 20 / batch, rel=1e-12)
    if batch < 20:  # the control: without the scale to all the data it is another number
        assert abs(float(trace.log_prob_sum()) - expected - data) > 1.0


def test_the_weights_that_a_trace_uses_are_those_the_network_runs_on():
    bnn = BayesianNetwork(network(), {"*": Gaussian(1.0)}, Normal(0.1), 10)
    x = torch.randn(5, 4)
    trace = trace_of(bnn, x, torch.randn(5, 2))
    plain = network()
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(trace.nodes[name]["value"])
    assert torch.allclose(trace.nodes["obs"]["fn"].base_dist.loc, plain(x))


# -- Pyro's machinery ----------------------------------------------------------------------------------------


def test_predictive_draws_data_and_weights_from_the_prior():
    bnn = BayesianNetwork(network(), {"fc*.weight": Horseshoe()}, data_size=10)
    drawn = Predictive(bnn, num_samples=6)(torch.randn(5, 4))
    assert drawn["obs"].shape == (6, 5) and set(drawn["obs"].unique().tolist()) <= {0, 1}
    # Pyro puts a one where the plate over the data would stand.
    lam, z, weight = (drawn[f"fc1.weight{part}"].reshape(6, 3, 4) for part in (".lam", ".z", ""))
    torch.testing.assert_close(weight, drawn["fc1.weight.tau"].reshape(6, 1, 1) * lam * z)


def test_predictive_takes_posterior_draws():
    bnn = BayesianNetwork(network(), {"*": Gaussian()}, Normal(1e-3), 10)
    x = torch.randn(5, 4)
    state = {name: value.detach().unsqueeze(0) for name, value in network().named_parameters()}
    drawn = Predictive(bnn, posterior_samples=state)(x)
    assert torch.allclose(drawn["obs"][0], network()(x), atol=0.01)


def test_nuts_finds_the_conjugate_posterior_of_a_linear_regression():
    torch.manual_seed(0)
    x = torch.randn(30, 2, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -0.5], dtype=torch.float64) + 0.5 * torch.randn(30, dtype=torch.float64)
    line = nn.Linear(2, 1, bias=False).double()
    bnn = BayesianNetwork(line, {"weight": Gaussian(1.0)}, Normal(0.5), 30)
    precision = x.T @ x / 0.25 + torch.eye(2, dtype=torch.float64)
    mean = torch.linalg.solve(precision, x.T @ y / 0.25)
    sd = torch.linalg.inv(precision).diagonal().sqrt()
    pyro.set_rng_seed(0)
    mcmc = MCMC(NUTS(bnn), num_samples=150, warmup_steps=60, disable_progbar=True)
    mcmc.run(x, y)
    drawn = mcmc.get_samples()["weight"].reshape(150, 2)
    assert bool(((drawn.mean(0) - mean).abs() < 0.35 * sd).all())
    assert bool((drawn.std(0) / sd > 0.75).all()) and bool((drawn.std(0) / sd < 1.3).all())


def test_nuts_runs_on_scales_and_a_scalar_site():
    line = nn.Linear(3, 1)
    bnn = BayesianNetwork(line, {"weight": Horseshoe(1.0)}, Normal(1.0), 8)
    mcmc = MCMC(NUTS(bnn, max_tree_depth=3), num_samples=5, warmup_steps=5, disable_progbar=True)
    mcmc.run(torch.randn(8, 3), torch.randn(8))
    drawn = mcmc.get_samples()
    assert drawn["weight.tau"].shape == (5,) and bool((drawn["weight.lam"] > 0).all())


def test_pyro_reads_the_models_graph():
    bnn = BayesianNetwork(network(), {"fc*.weight": Horseshoe()}, data_size=10)
    found = get_model_relations(bnn, (torch.randn(5, 4), torch.randint(2, (5,))))
    assert found["sample_dist"]["fc1.weight.lam"] == "HalfCauchy"
    assert found["sample_dist"]["fc1.weight.z"] == "Normal"
    assert "fc1.weight.lam" in found["sample_sample"]["obs"] or "obs" in found["observed"]
    assert found["plate_sample"]["data"] == ["obs"]


def test_float64_stays_float64_throughout():
    bnn = BayesianNetwork(network().double(), {"fc1.*": Horseshoe(), "fc2.*": SpikeAndSlab()}, data_size=10)
    trace = trace_of(bnn, torch.randn(5, 4, dtype=torch.float64), torch.randint(2, (5,)))
    assert {trace.nodes[name]["value"].dtype for name in sampled(trace)} == {torch.float64}
    assert trace.log_prob_sum().dtype == torch.float64


def test_convolutions_take_priors_at_every_level():
    conv = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(4, 2, 5, 5)
    conv(x)
    for level in ("weight", "kernel", "output", "input", "block"):
        bnn = BayesianNetwork(conv, {"*.weight": SpikeAndSlab(0.5, level=level, block=(2, 1))}, data_size=10)
        assert bnn(x).shape == (4,)
