"""The default KL weight and fade-in follow the rule that the docs state, and no fit is tempered that must not be."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from bayesprune.inference.defaults.kl_weight import default_kl_warmup, default_kl_weight, default_rules
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.posterior.shrinkage import is_linear
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.gates.unit_gates import UnitGates
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.likelihoods.labels import Categorical
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.l0_hard_concrete import L0HardConcrete
from bayesprune.models.priors.mcp import MCP
from bayesprune.models.priors.structured_bayesian_pruning import StructuredBayesianPruning
from bayesprune.models.priors.sws import SWS
from bayesprune.models.priors.vib import VIB


def declared(data_size, prior=None, patterns=("*.weight",)):
    network = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 6))  # 100 weights
    return BayesianNetwork(network, dict.fromkeys(patterns, prior or Gaussian()), data_size=data_size)


@pytest.mark.parametrize(
    ("data_size", "weight"),
    [(1, 0.1), (99, 0.1), (101, 0.1), (250, 0.25), (555, 0.56), (999, 1.0), (1000, 1.0), (10**6, 1.0)],
)
def test_it_is_a_tenth_up_to_one_datum_a_weight_and_the_elbo_from_ten_on(data_size, weight):
    assert default_kl_weight(declared(data_size)) == weight


def test_a_single_tensor_under_a_prior_is_never_tempered():
    linear = BayesianNetwork(nn.Linear(1000, 1), {"weight": Gaussian()}, data_size=10)
    assert default_kl_weight(linear) == 1.0
    assert default_kl_weight(declared(10, patterns=("2.weight",))) == 1.0  # the last layer of a network
    assert default_kl_weight(declared(10)) == 0.1  # the same network, all of it
    with_bias = BayesianNetwork(nn.Linear(1000, 3), {"*": Gaussian()}, data_size=10)
    assert default_kl_weight(with_bias) == 1.0 and is_linear(with_bias) and not is_linear(declared(10))


def test_constants_of_a_paper_weigh_what_they_say():
    for stated in (
        HALO.from_paper(1e-4, 1e-4, data_size=50), MCP.from_paper(1e-4, 2.0, data_size=50),
        SWS.from_paper(1e-4, 1e-4, data_size=50),
    ):  # fmt: skip
        model = declared(50, stated)
        assert default_kl_weight(model) == 1.0 and default_kl_warmup(model, Guide(model, "map")) == 0.0
    for ours in (HALO(), MCP(), SWS()):
        model = declared(50, ours)
        assert default_kl_weight(model) == 0.1 and default_kl_warmup(model, Guide(model, None)) == 0.6


def test_a_noise_that_is_learned_weighs_the_data_by_itself():
    for likelihood, guide, weight in (
        (Normal(), "map", 1.0), (Normal(), "meanfield", 0.5), (Normal(0.5), "map", 0.1), (Categorical(), "map", 0.1),
        (Normal(0.5), "meanfield", 0.1),
    ):  # fmt: skip
        network = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 6))  # 100 weights
        model = BayesianNetwork(network, {"*.weight": Gaussian()}, likelihood, data_size=50)
        assert default_kl_weight(model, guide) == weight
    for prior, weight in ((VIB(), 1.0), (StructuredBayesianPruning(), 1.0), (L0HardConcrete(), 0.5), (HALO(), 1.0)):
        model = BayesianNetwork(network, {"*.weight": prior}, Normal(), data_size=50)
        assert default_kl_weight(model) == weight, prior  # noise of groups leaves weights points, gates do not


def test_gates_of_units_have_their_price_and_wait_by_themselves():
    network = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 6))
    gated = BayesianNetwork(network, {}, data_size=20, gates=UnitGates(), example_input=torch.zeros(1, 4))
    assert default_kl_weight(gated) == 1.0 and default_kl_warmup(gated, Guide(gated, None)) == 0.0


def test_a_prior_of_ones_own_is_tempered_like_a_ready_one_and_a_mean_field_fades_in_like_a_map():
    own = Hierarchy(weight=dist.Normal(0.0, 1.0))
    model = declared(50, own)
    assert default_kl_weight(model) == 0.1
    assert default_kl_warmup(model, Guide(model, "meanfield")) == default_kl_warmup(model, Guide(model, "map")) == 0.6


def test_a_decay_of_biases_does_not_decide_the_weight_of_another_prior():
    network = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 3))
    decay = Gaussian.from_weight_decay(1e-4, data_size=50)

    def weight(priors):
        return default_kl_weight(BayesianNetwork(network, priors, data_size=50))

    assert weight({"*.weight": Gaussian(), "*.bias": decay}) == weight({"*.weight": Gaussian()}) == 0.1
    assert weight({"*.weight": decay}) == weight({"*.weight": HALO.from_paper(1e-4, 1e-4, data_size=50)}) == 1.0
    assert weight({"*.weight": HALO.from_paper(1e-4, 1e-4, data_size=50), "*.bias": decay}) == 1.0


def test_what_further_restarts_begin_with_is_a_rule_of_fits_that_have_any():
    one, several = default_rules(kl_warmup=None), default_rules(2, kl_warmup=None)
    assert one == {"kl_warmup": "0.6"}  # checkpoints of earlier versions go on
    assert set(several) == {"kl_warmup", "starts of restarts"}
    assert several["kl_warmup"] != one["kl_warmup"]
    assert set(default_rules(2, kl_warmup=0.5)) == {"starts of restarts"}
