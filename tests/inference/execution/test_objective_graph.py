"""The objective as one graph: at the same random state it gives the plain path's loss, gradients and statistics."""

from __future__ import annotations

import copy
import functools

import pyro.distributions as dist
import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from torch import nn

from bayesprune.inference.execution.objective_graph import UntraceableError, leaves_of, trace
from bayesprune.inference.guides.factors import (
    BernoulliFactor,
    DeltaFactor,
    LogitNormalFactor,
    LogNormalFactor,
    NormalFactor,
)
from bayesprune.inference.guides.functional import is_functional
from bayesprune.inference.guides.hard_concrete import HardConcreteFactor
from bayesprune.inference.guides.low_rank_normal import LowRankNormalFactor
from bayesprune.inference.guides.paired import SlabFactor
from bayesprune.inference.guides.truncated_lognormal import TruncatedLogNormalFactor
from bayesprune.inference.objective.latent_gate_estimators import ScoreFunction, antithetic
from bayesprune.inference.terms.real import normal_normal
from bayesprune.inference.terms.registry import registered_terms
from bayesprune.inference.terms.table import TERMS
from bayesprune.models.distributions.fitted_normal import FittedNormal
from bayesprune.models.distributions.log_uniform import LogUniform, TruncatedLogUniform
from bayesprune.models.distributions.nonzero_penalty import NonzeroPenalty
from bayesprune.models.distributions.signed_gamma import SignedGamma
from bayesprune.models.distributions.tilted_beta import TiltedBeta
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import exact_zero
from bayesprune.models.language.latent import Latent
from bayesprune.models.likelihoods.counts import Poisson
from bayesprune.models.likelihoods.labels import Bernoulli
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.group_normal_jeffreys import GroupNormalJeffreys
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.horseshoe import Horseshoe
from bayesprune.models.priors.l0_hard_concrete import L0HardConcrete
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab
from bayesprune.models.priors.structured_bayesian_pruning import StructuredBayesianPruning
from bayesprune.models.priors.vib import VIB
from tests.oracles.plain_path import (
    TOLERANCE,
    batch_for,
    differences,
    mlp,
    move,
    noise_at,
    objective_of,
    on_graph,
    on_plain,
    small_conv,
    trained,
    worst,
)
from tests.oracles.random_hierarchy import DESCRIPTIONS, hierarchy_of

PAIRS = registered_terms()
WRONG = 1e-6  # a difference above this is a mistake; between it and TOLERANCE nothing is expected


def check(objective, network=None, **more):
    """Traces the objective; holds the graph to the plain path at other parameters, data, noise and KL weight."""
    network = network or objective.model.network
    x, y = more.pop("batch", batch_for(network))
    traced = trace(objective, x, y)
    move(objective, 0.1, seed=8)
    other, kl_weight = more.pop("other", batch_for(network, seed=1)), 0.6
    expected = on_plain(objective, *other, seed=3, kl_weight=kl_weight)
    found = on_graph(traced, objective, *other, noise_at(traced, 3), kl_weight)
    return traced, found, expected


def assert_agree(found, expected):
    far = {name: value for name, value in differences(found, expected).items() if not value < TOLERANCE}
    assert far == {}


# -- every registered pair ------------------------------------------------------------------------------------


def scaled_by(family, *parameters, per="output"):
    """A scale of that family, by functions so that numbers are float64."""
    return lambda: Hierarchy(
        s=Latent(lambda: family(*parameters), per=per), weight=lambda s: dist.Normal(0.0, 0.1 + s.abs())
    )


def spiked(slab):
    return lambda: Hierarchy(
        s=Latent(lambda: dist.Gamma(2.5, 2.0), per="layer"),
        gate=Latent(lambda: dist.Bernoulli(0.3), per="output", init=0.8),
        slab=Latent(lambda s: slab(0.0, s)),
        weight=lambda gate, slab: gate * slab,
        included=exact_zero(gate="gate", slab="slab"),
    )


def plain(family):
    return lambda: Hierarchy(weight=lambda: family(0.2, 0.7))


POSITIVE = {
    dist.Gamma: (2.5, 0.7),
    dist.InverseGamma: (2.5, 0.7),
    dist.Exponential: (0.7,),
    dist.HalfNormal: (0.7,),
    dist.HalfCauchy: (0.7,),
    dist.LogNormal: (0.3, 0.7),
}
CASES = {
    **{(family, NormalFactor): (plain(family), "meanfield") for family in (dist.Normal, dist.Laplace)},
    **{(family, LowRankNormalFactor): (plain(family), {"weight": "lowrank"}) for family in (dist.Normal, dist.Laplace)},
    **{(family, DeltaFactor): (plain(family), "map") for family in (dist.Normal, dist.Laplace)},
    **{(family, SlabFactor): (spiked(family), "paired") for family in (dist.Normal, dist.Laplace)},
    **{(family, LogNormalFactor): (scaled_by(family, *given), "meanfield") for family, given in POSITIVE.items()},
    **{(family, DeltaFactor): (scaled_by(family, *given), "map") for family, given in POSITIVE.items()},
    (SignedGamma, DeltaFactor): (scaled_by(SignedGamma, 2.5, 0.7), "map"),
    (dist.Beta, LogitNormalFactor): (scaled_by(dist.Beta, 2.5, 0.8), "meanfield"),
    (TiltedBeta, LogitNormalFactor): (scaled_by(TiltedBeta, 2.5, 1.8, 0.6, 3.0), "meanfield"),
    (dist.Uniform, LogitNormalFactor): (scaled_by(dist.Uniform, 0.0, 1.0), "meanfield"),
    (dist.Bernoulli, BernoulliFactor): (spiked(dist.Normal), "meanfield"),
    (LogUniform, NormalFactor): (GroupNormalJeffreys, None),
    (FittedNormal, NormalFactor): (VIB, None),
    (NonzeroPenalty, HardConcreteFactor): (L0HardConcrete, None),
    (TruncatedLogUniform, TruncatedLogNormalFactor): (StructuredBayesianPruning, None),
}


def pairs_met(objective):
    """The pairs (prior family, factor family) that an evaluation meets."""
    factors, met = objective.guide.draw(), set()

    def visit(site, fn):
        met.add((type(fn.base_dist), type(factors[site])))
        return factors[site].value

    shared = {}
    for name, prior in objective.model.priors.items():
        prior.run(visit, objective.model.network.get_parameter(name), shared)
    return met


def one_layer():
    """4 -> 3, so that a trace is quick."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 3))


def test_there_is_a_case_for_every_registered_pair():
    assert set(CASES) == set(PAIRS)


# A pair of each kind of factor is quick: terms alone are traced for all pairs in test_term_tracing.
ONE_OF_EACH = {kind: (family, kind) for family, kind in reversed(CASES)}.values()


@pytest.mark.parametrize(
    "pair",
    [pytest.param(pair, marks=() if pair in ONE_OF_EACH else pytest.mark.slow) for pair in CASES],
    ids=lambda pair: "-".join(kind.__name__ for kind in pair),
)
def test_the_graph_is_the_plain_path_for_every_registered_pair(pair):
    make, guide = CASES[pair]
    objective = objective_of({"0.weight": make()}, guide, one_layer())
    assert pair in pairs_met(objective)
    _, found, expected = check(objective)
    assert_agree(found, expected)


# -- random compositions --------------------------------------------------------------------------------------


def check_random(description, guide, make_network):
    gated = description[2].startswith("gated")
    guide = {"points": "map", "spread": "meanfield"}.get(guide, guide)
    if gated and guide == "map" or not gated and guide == "paired":
        guide = "meanfield"
    event(f"{description[2]}, {guide}")
    # An Exponential or a gate that was far off would make numbers so large that the rest is lost in rounding.
    objective = objective_of(hierarchy_of(description), guide, make_network(), spread=0.1)
    _, found, expected = check(objective)
    assert_agree(found, expected)


NETWORKS = {"mlp": mlp, "normalised": lambda: mlp(norm=True), "convolution": small_conv}
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize("guide", ["points", "spread", "paired"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_graph_is_the_plain_path_for_random_hierarchies(network, guide):
    @settings(max_examples=1, derandomize=True, phases=[Phase.generate], **QUIET)
    @given(DESCRIPTIONS)
    def run(description):
        check_random(description, guide, NETWORKS[network])

    run()


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["points", "spread", "paired"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_graph_is_the_plain_path_for_many_random_hierarchies(network, guide):
    @settings(max_examples=60, **QUIET)
    @given(DESCRIPTIONS)
    def run(description):
        check_random(description, guide, NETWORKS[network])

    run()


# -- estimators, networks, likelihoods; every ready prior: models/priors/test_laws -----------


def tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a1, self.middle, self.a2 = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
            self.middle.weight, self.middle.bias = self.a1.weight, self.a1.bias

        def forward(self, x):
            return self.a2(torch.tanh(self.middle(torch.tanh(self.a1(x)))))

    return Tied()


def numbers(x, y):
    return x, y.double() + 0.3


VARIANTS = {
    "halo without xi": lambda: objective_of(HALO.from_paper(0.0, 1e-2, 1e-3, 50), "meanfield"),
    "halo without psi": lambda: objective_of(HALO.from_paper(1e-3, 0.0, 0.0, 50, signed=False), "map"),
    "halo without a penalty": lambda: objective_of(HALO(kappa=0.0), "meanfield"),
    "terms from the draw": lambda: objective_of(Horseshoe(), "meanfield", analytic=False),
    "slab from the draw": lambda: objective_of(SpikeAndSlab(), "paired", analytic=False),
    "opposite gates": lambda: objective_of(SpikeAndSlab(level="input"), "paired", latent_gates=antithetic),
    "a gate a tile": lambda: objective_of(SpikeAndSlab(level="block", block=(2, 2)), "paired"),
    "particles": lambda: objective_of(Gaussian(), "meanfield", particles=3),
    "particles of gates": lambda: objective_of(SpikeAndSlab(), "paired", particles=2),
    "particles, normalised": lambda: objective_of(Gaussian(), "meanfield", mlp(norm=True), particles=3),
    "tied weights": lambda: objective_of({"a*.weight": Gaussian()}, "meanfield", tied()),
    "tied point estimates": lambda: objective_of({"a2.weight": Gaussian()}, "meanfield", tied()),
    "a bias with a prior": lambda: objective_of({"a1.*": Gaussian(0.5)}, "meanfield"),
    "sticking the landing": lambda: objective_of(Horseshoe(), "meanfield", sticking_the_landing=True),
    "two hierarchies": lambda: objective_of({"a1.weight": HALO(), "a2.weight": SpikeAndSlab()}, None),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_graph_is_the_plain_path_for(variant):
    _, found, expected = check(VARIANTS[variant]())
    assert_agree(found, expected)


LIKELIHOODS = [Normal(), Normal(0.4), Bernoulli(), Poisson()]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=["normal, scale learned", "normal", "bernoulli", "poisson"])
def test_the_graph_is_the_plain_path_for_every_likelihood(likelihood):
    objective = objective_of({"0.weight": Gaussian()}, "meanfield", one_layer(), copy.deepcopy(likelihood))
    (x, y), (x2, y2) = batch_for(objective.model.network), batch_for(objective.model.network, 1)
    wide = lambda y: torch.stack([(y == 0), (y == 1), (y == 2)], dim=1).double()  # noqa: E731
    traced, found, expected = check(objective, batch=(x, wide(y)), other=(x2, wide(y2)))
    assert_agree(found, expected)
    learned = {name for name in found.gradients if "likelihood" in name}
    assert learned == {f"model.likelihood.{name}" for name, _ in likelihood.named_parameters()}
    assert all(bool(found.gradients[name].abs() > 0) for name in learned)


def test_running_statistics_are_updated_as_on_the_plain_path():
    objective = objective_of(Gaussian(), "meanfield", mlp(norm=True))
    _, found, expected = check(objective)
    before = dict(objective.named_buffers())
    assert all(not torch.equal(expected.buffers[name], before[name]) for name in before)
    assert int(found.buffers["model.network.norm.num_batches_tracked"]) == 1
    assert_agree(found, expected)


# -- what is seen to fail -------------------------------------------------------------------------------------


def seen_to_differ(found, expected):
    assert worst(found, expected) > WRONG
    return {name for name, value in differences(found, expected).items() if value > WRONG}


def test_a_term_that_is_wrong_in_its_functional_form_only_is_seen(monkeypatch):
    pair = (dist.Normal, NormalFactor)

    def wrong(prior, q):
        value = normal_normal(prior, q)
        return value + 1e-3 * q.location.square().sum() if is_functional() else value

    monkeypatch.setitem(TERMS, pair, wrong)
    _, found, expected = check(objective_of({"0.weight": plain(dist.Normal)()}, "meanfield", one_layer()))
    seen = seen_to_differ(found, expected)
    assert {"parts loss", "parts kl", "gradients guide.families.0.location"} <= seen
    assert "parts log_likelihood" not in seen


def test_a_gradient_that_is_wrong_in_the_functional_form_only_is_seen(monkeypatch):
    pair = (dist.Normal, NormalFactor)

    def wrong(prior, q):
        value = normal_normal(prior, q)
        return value + (value.detach() - value) * 1e-3 if is_functional() else value

    monkeypatch.setitem(TERMS, pair, wrong)
    _, found, expected = check(objective_of({"0.weight": plain(dist.Normal)()}, "meanfield", one_layer()))
    seen = seen_to_differ(found, expected)
    assert seen == {f"gradients guide.families.0.{name}" for name in ("location", "log_scale")}


def test_a_graph_without_the_factor_is_seen():
    decayed = Hierarchy(
        weight=lambda: dist.Normal(0.0, 1.0), factor=lambda weight: -1e-3 * weight.square().sum(), improper="of a test"
    )
    objective = objective_of({"0.weight": decayed}, "meanfield", one_layer())
    x, y = batch_for(objective.model.network)
    right = trace(objective, x, y)
    decayed.factor = lambda weight: 0.0 * weight.sum()
    without = trace(objective, x, y)
    decayed.factor = lambda weight: -1e-3 * weight.square().sum()
    expected = on_plain(objective, x, y, 3)
    assert_agree(on_graph(right, objective, x, y, noise_at(right, 3)), expected)
    assert "parts 0.weight.factor" in seen_to_differ(on_graph(without, objective, x, y, noise_at(without, 3)), expected)


def test_noise_in_another_order_is_seen():
    positive_and_real = Hierarchy(s=Latent(lambda: dist.Gamma(2.5, 2.0)), weight=lambda s: dist.Normal(0.0, s))
    objective = objective_of({"0.weight": positive_and_real}, "meanfield", one_layer())
    x, y = batch_for(objective.model.network)
    traced = trace(objective, x, y)
    noise, expected = noise_at(traced, 3), on_plain(objective, x, y, 3)
    assert [len(each) for each in noise] == [12, 12]
    assert_agree(on_graph(traced, objective, x, y, noise), expected)
    seen_to_differ(on_graph(traced, objective, x, y, noise[::-1]), expected)
    seen_to_differ(on_graph(traced, objective, x, y, [noise[0], noise[1].flip(0)]), expected)


def test_running_statistics_that_move_twice_are_seen():
    objective = objective_of({"a2.weight": Gaussian()}, "meanfield", mlp(norm=True))
    traced, found, expected = check(objective)
    for buffer in objective.buffers():
        if buffer.is_floating_point():
            buffer += 1e-3
    again = on_graph(traced, objective, *batch_for(objective.model.network, 1), noise_at(traced, 3), 0.6)
    assert seen_to_differ(again, expected) <= {name for name in differences(found, expected) if "buffers" in name}


# -- the graph itself -----------------------------------------------------------------------------------------


def test_the_leaves_are_every_trained_number_once():
    objective = objective_of({"a1.weight": Horseshoe(), "a2.weight": SpikeAndSlab()}, None, mlp(norm=True), Normal())
    counts = {name: torch.zeros(parameter.numel()) for name, parameter in trained(objective).items()}
    names = {id(parameter): name for name, parameter in trained(objective).items()}
    for leaf in leaves_of(objective):
        flat = torch.zeros_like(leaf.parameter)
        leaf.of(flat).add_(1.0)
        counts[names[id(leaf.parameter)]] += flat.flatten()
    assert all(bool((count == 1).all()) for count in counts.values())
    assert len(leaves_of(objective)) > len(counts)  # sites are apart


@functools.cache
def is_random(kind):
    objective = {
        "plain": lambda: objective_of(Gaussian(), "meanfield"),
        "dropout": lambda: objective_of(Gaussian(), "meanfield", mlp(dropout=0.3)),
        "gates": lambda: objective_of(SpikeAndSlab(), "paired"),
        "drawn gates": lambda: objective_of(SpikeAndSlab(), "paired", latent_gates=ScoreFunction(2)),
    }[kind]()
    return trace(objective, *batch_for(objective.model.network)).has_random_numbers


def test_a_graph_knows_whether_it_draws_random_numbers():
    assert {kind: is_random(kind) for kind in ("plain", "dropout", "gates", "drawn gates")} == {
        "plain": False, "dropout": True, "gates": False, "drawn gates": True,
    }  # fmt: skip


def test_tracing_changes_nothing():
    objective = objective_of(SpikeAndSlab(), "paired", mlp(norm=True, dropout=0.2))
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    random, modes = torch.get_rng_state(), [module.training for module in objective.modules()]
    trace(objective, *batch_for(objective.model.network))
    assert all(torch.equal(before[name], value) for name, value in objective.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in objective.modules()] == modes
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert not is_functional()


def test_a_graph_fits_batches_of_its_own_shape_and_format_only():
    objective = objective_of({"0.weight": Gaussian()}, "map", one_layer())
    x, y = batch_for(objective.model.network)
    traced = trace(objective, x, y)
    assert traced.fits(x, y) and traced.noise == ()
    assert not traced.fits(x[:3], y[:3]) and not traced.fits(x.float(), y) and not traced.fits(x, y.int())


# -- what cannot be traced ------------------------------------------------------------------------------------


def branching(**more):
    """A scale that is cut off by a look at its value."""
    return Hierarchy(
        tau=Latent(lambda: dist.Gamma(2.0, 1.0), per=more.pop("per", "layer")),
        weight=lambda tau: dist.Normal(0.0, tau if tau > 1 else tau.square()),
        **more,
    )


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


REFUSED = {
    "a network that branches": (
        lambda: objective_of({"*a2.weight": Gaussian()}, "map", nn.Sequential(mlp(), Branches())),
        "traced",
    ),
    "a shared latent": (lambda: objective_of(branching(per="network"), "meanfield"), "shared latents"),
    "particles": (lambda: objective_of({"a1.weight": branching()}, "meanfield", particles=2), "several particles"),
    "gates": (
        lambda: objective_of(
            Hierarchy(
                tau=Latent(lambda: dist.Gamma(2.0, 1.0), per="layer"),
                z=Latent(lambda: dist.Bernoulli(0.3), per="output", init=0.8),
                slab=Latent(lambda tau: dist.Normal(0.0, tau if tau > 1 else tau.square())),
                weight=lambda z, slab: z * slab,
                included=exact_zero(gate="z", slab="slab"),
            ),
            "paired",
        ),
        "gates",
    ),
    "an average over all steps": (
        lambda: objective_of({"a2.weight": Gaussian()}, "map", cumulative()),
        "cannot be traced",
    ),
}


def cumulative():
    """Batch normalisation whose momentum is one over the number of steps, which is a look at a value."""
    network = mlp(norm=True)
    network.norm.momentum = None
    return network


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_for_the_whole_network(kind):
    make, message = REFUSED[kind]
    objective = make()
    with pytest.raises(UntraceableError, match=message):
        trace(objective, *batch_for(objective.model.network))
    assert not is_functional()
    assert all(family._given is None for family in objective.guide.families)


def test_a_prior_that_branches_is_left_out_alone():
    objective = objective_of({"a1.weight": Horseshoe(), "a2.weight": branching()}, "meanfield")
    traced = trace(objective, *batch_for(objective.model.network))
    assert traced.alone == ("a2.weight",)
    assert not any(site.startswith("a2") for site in traced.sites) and "a1.weight.lam" in traced.sites
