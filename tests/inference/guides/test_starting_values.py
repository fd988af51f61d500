"""A guide starts at the network it was given: the outputs at its centre, gates on, are the network's."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.func import functional_call

from bayesprune.inference.guides.guide import Guide
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import exact_zero
from bayesprune.models.language.latent import Latent
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.horseshoe import Horseshoe, RegularisedHorseshoe
from bayesprune.models.priors.laplace import Laplace
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def own(**changes):
    return Hierarchy(
        tau=Latent(dist.HalfCauchy(1.0), per="network"),
        lam=Latent(dist.HalfCauchy(1.0), per="output"),
        z=Latent(dist.Normal(0.0, 1.0)),
        weight=lambda tau, lam, z: tau * lam * z,
        **changes,
    )


def weights_at_start(bnn, choice=None):
    guide = Guide(bnn, choice)
    values = guide.means()
    for name, site in bnn.sites.items():
        if site.support == "boolean":
            values[name] = torch.ones_like(values[name])
    return guide, bnn.weights_at(values)


@pytest.mark.parametrize(
    ("prior", "choice"),
    [
        (Gaussian(), None),
        (Laplace(), None),
        (HALO(), "map"),
        (HALO(), "meanfield"),
        (HALO.from_paper(1e-3, 1e-3, 1e-3, 100), "map"),
        (Horseshoe(), "meanfield"),
        (Horseshoe(per="output"), "map"),
        (RegularisedHorseshoe(), "meanfield"),
        (SpikeAndSlab(), "paired"),
        (SpikeAndSlab(level="block", block=(2, 3)), "paired"),
        (SpikeAndSlab(level="input"), "meanfield"),
        (own(), "meanfield"),
    ],
    ids=str,
)
def test_the_network_is_reproduced_at_the_start(prior, choice):
    plain = network()
    bnn = BayesianNetwork(plain, {"*.weight": prior}, data_size=10)
    guide, weights = weights_at_start(bnn, choice)
    assert guide.notes == []
    for name, weight in weights.items():
        torch.testing.assert_close(weight, plain.get_parameter(name).detach(), rtol=1e-4, atol=1e-6)
    x = torch.randn(7, 4)
    with torch.no_grad():
        torch.testing.assert_close(functional_call(bnn.network, weights, (x,)), plain(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prior", [Horseshoe(), SpikeAndSlab(), HALO()])
def test_a_tensor_of_zeros_is_a_possible_start(prior):
    plain = network()
    nn.init.zeros_(plain[0].weight)
    bnn = BayesianNetwork(plain, {"0.weight": prior}, data_size=10)
    guide, weights = weights_at_start(bnn)
    torch.testing.assert_close(weights["0.weight"], torch.zeros(6, 4))
    assert all(bool(torch.isfinite(p).all()) for p in guide.parameters())


def test_gates_start_dense_and_where_their_init_says():
    bnn = BayesianNetwork(network(), {"0.weight": SpikeAndSlab(initial_inclusion=0.6)}, data_size=10)
    torch.testing.assert_close(Guide(bnn).inclusion()["0.weight.z"], torch.full((6, 4), 0.6))
    plain = Hierarchy(
        z=dist.Bernoulli(0.2), s=dist.Normal(0.0, 1.0), weight=lambda z, s: z * s, included=exact_zero("z")
    )
    bnn = BayesianNetwork(network(), {"0.weight": plain}, data_size=10)
    torch.testing.assert_close(Guide(bnn).inclusion()["0.weight.z"], torch.full((6, 4), 0.9))


def test_a_weight_that_cannot_be_solved_for_is_said_in_a_note():
    rank = Hierarchy(
        u=Latent(dist.Normal(0.0, 1.0), dims={"output": None, "rank": 2}),
        v=Latent(dist.Normal(0.0, 1.0), dims={"rank": 2, "input": None}),
        weight=lambda u, v: u @ v,
    )
    bnn = BayesianNetwork(network(), {"0.weight": rank}, data_size=10)
    assert Guide(bnn).notes == [
        "0.weight starts from its prior: the weights cannot be solved for one latent per weight"
    ]


def test_an_init_may_be_a_number_or_a_function_of_the_weights():
    prior = Hierarchy(
        tau=Latent(dist.HalfCauchy(1.0), per="output", init=lambda weight: weight.abs().amax(1, keepdim=True)),
        lam=Latent(dist.HalfCauchy(1.0), init=lambda tau, fan_in: tau / fan_in),
        c=Latent(dist.Beta(1.0, 1.0), per="layer", init=0.25),
        weight=lambda tau, lam, c: dist.Normal(0.0, tau * lam * c),
    )
    plain = network()
    bnn = BayesianNetwork(plain, {"0.weight": prior}, data_size=10)
    found = Guide(bnn).means()
    largest = plain[0].weight.detach().abs().amax(1, keepdim=True)
    torch.testing.assert_close(found["0.weight.tau"], largest)
    torch.testing.assert_close(found["0.weight.lam"], (largest / 4).expand(6, 4))
    assert float(found["0.weight.c"]) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("latent", "init"),
    [
        (dist.HalfCauchy(1.0), -1.0),
        (dist.HalfCauchy(1.0), 0.0),
        (dist.Beta(1.0, 1.0), 1.5),
        (dist.HalfCauchy(1.0), float("nan")),
    ],
)
def test_an_init_outside_the_support_is_refused(latent, init):
    prior = Hierarchy(s=Latent(latent, init=init), weight=lambda s: dist.Normal(0.0, 0.1 + s))
    with pytest.raises(ValueError, match="init of s"):
        Guide(BayesianNetwork(network(), {"0.weight": prior}, data_size=10))


@pytest.mark.parametrize("init", [0.0, 1.0])
def test_a_gate_may_not_start_certain(init):
    prior = Hierarchy(z=Latent(dist.Bernoulli(0.5), init=init), s=dist.Normal(0.0, 1.0), weight=lambda z, s: z * s)
    with pytest.raises(ValueError, match="init of z"):
        Guide(BayesianNetwork(network(), {"0.weight": prior}, data_size=10))


@pytest.mark.parametrize("init", [lambda progress: 1.0 + progress, lambda wieght: wieght])
def test_an_init_that_asks_for_what_there_is_not_is_refused(init):
    prior = Hierarchy(s=Latent(dist.HalfCauchy(1.0), init=init), weight=lambda s: dist.Normal(0.0, s))
    with pytest.raises(ValueError, match=r"init of s asks for '(progress|wieght)', but .* size, fan_in.* weight"):
        Guide(BayesianNetwork(network(), {"0.weight": prior}, data_size=10))


def test_an_init_of_the_wrong_shape_is_refused():
    prior = Hierarchy(
        s=Latent(dist.HalfCauchy(1.0), per="layer", init=lambda weight: weight.abs()),
        weight=lambda s: dist.Normal(0.0, s),
    )
    with pytest.raises(ValueError, match="init of s does not broadcast"):
        Guide(BayesianNetwork(network(), {"0.weight": prior}, data_size=10))
