"""Guides: which family each latent gets, errors of assignment, and that they are Pyro guides."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from bayesprune.inference.guides.guide import Guide, assign_families
from bayesprune.inference.objective.objective import Objective
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import exact_zero
from bayesprune.models.language.latent import Latent
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.horseshoe import Horseshoe, RegularisedHorseshoe
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab

X, Y = torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 1])


def model(*priors):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    return BayesianNetwork(network, dict(zip(("0.weight", "2.weight"), priors, strict=False)), data_size=10)


def families(bnn, choice=None):
    return {name.split("weight")[-1] or "weight": family for name, family in assign_families(bnn, choice).items()}


@pytest.mark.parametrize(
    ("prior", "choice", "expected"),
    [
        (HALO(), None, {".lam": "delta", "weight": "delta"}),
        (HALO(), "meanfield", {".lam": "lognormal", "weight": "normal"}),
        (HALO(), {"lam": "lognormal"}, {".lam": "lognormal", "weight": "delta"}),
        (HALO(), {"*.lam": "lognormal", "weight": "normal"}, {".lam": "lognormal", "weight": "normal"}),
        (Horseshoe(), None, {".tau": "lognormal", ".lam": "lognormal", ".z": "normal"}),
        (Horseshoe(), "map", {".tau": "delta", ".lam": "delta", ".z": "delta"}),
        (SpikeAndSlab(), None, {".z": "paired", ".slab": "paired"}),
        (SpikeAndSlab(), "meanfield", {".z": "bernoulli", ".slab": "normal"}),
        (SpikeAndSlab(), "paired", {".z": "paired", ".slab": "paired"}),
    ],
)
def test_each_latent_gets_the_documented_family(prior, choice, expected):
    bnn = model(prior)
    assert families(bnn, choice) == expected
    guide = Guide(bnn, choice)
    assert guide.is_map == (set(expected.values()) == {"delta"})
    assert set(guide.draw()) == set(bnn.sites)


@pytest.mark.parametrize("choice", [{"z": "bernoulli"}, {"slab": "normal"}, {"slab": "delta"}])
def test_taking_one_of_a_pair_out_of_it_unpairs_the_other(choice):
    bnn = model(SpikeAndSlab())
    guide = Guide(bnn, choice)
    assert set(guide.family_of.values()) == {"bernoulli", choice.get("slab", "normal")}
    assert set(guide.draw()) == set(bnn.sites)
    sizes = {family: sum(p.numel() for p in family.parameters()) for family in guide.families}
    assert len(sizes) == 2 and bool(torch.isfinite(Objective(bnn, guide)(X, Y)))


def test_a_latents_own_guide_wins_over_the_mode_and_the_mapping_over_both():
    prior = Hierarchy(lam=Latent(dist.HalfCauchy(1.0), guide="lognormal"), weight=lambda lam: dist.Normal(0.0, lam))
    assert families(model(prior), "map") == {".lam": "lognormal", "weight": "delta"}
    assert families(model(prior), {"lam": "delta"})[".lam"] == "delta"


def test_priors_of_one_model_keep_their_own_defaults():
    found = assign_families(model(HALO(), SpikeAndSlab()), None)
    assert found == {"0.weight.lam": "delta", "0.weight": "delta", "2.weight.z": "paired", "2.weight.slab": "paired"}
    assert assign_families(model(Gaussian(), SpikeAndSlab()), "paired")["0.weight"] == "normal"


@pytest.mark.parametrize(
    ("prior", "choice", "message"),
    [
        (Gaussian(), "mean-field", "guide 'mean-field' is unknown: expected one of map, meanfield, paired"),
        (Gaussian(), "paired", "needs a prior with a gate and a slab"),
        (SpikeAndSlab(), "map", "is a Bernoulli, which has no delta guide"),
        (HALO(), {"lam": "normal"}, "has positive values, but the normal guide is for real ones"),
        (HALO(), {"weight": "lognormal"}, "has real values"),
        (HALO(), {"lam": "gamma"}, "guide family 'gamma' is unknown"),
        (HALO(), {"tau": "delta"}, "guide= names 'tau', which matches no latent: the sites are 0.weight.lam"),
        (
            Hierarchy(s=dist.Uniform(0.0, 2.0), weight=lambda s: dist.Normal(0.0, 1.0 + s)),
            "meanfield",
            "no mean-field family",
        ),
        (
            Hierarchy(s=Latent(dist.Normal(0.0, 1.0), guide="gaussian"), weight=lambda s: s),
            None,
            "guide family 'gaussian' is unknown",
        ),
    ],
)
def test_a_wrong_assignment_is_one_sentence(prior, choice, message):
    with pytest.raises(ValueError, match=message):
        Guide(model(prior), choice)


def test_the_remedy_for_a_support_without_a_family_is_one_that_works():
    prior = Hierarchy(s=dist.Uniform(0.0, 2.0), weight=lambda s: dist.Normal(0.0, 1.0 + s))
    with pytest.raises(ValueError) as problem:
        Guide(model(prior), "meanfield")
    if "guide='delta'" in str(problem.value):
        Guide(model(prior), {"s": "delta"})


@pytest.mark.parametrize("prior", [Gaussian(), HALO(), Horseshoe(), RegularisedHorseshoe(), SpikeAndSlab(0.3)])
@pytest.mark.parametrize("choice", [None, "meanfield"])
def test_a_guide_is_a_pyro_guide_of_the_models_sites(prior, choice):
    bnn = model(prior, SpikeAndSlab(level="output"))
    guide = Guide(bnn, choice)
    trace = poutine.trace(guide).get_trace(X, Y)
    sampled = {name: node for name, node in trace.nodes.items() if node["type"] == "sample"}
    assert set(sampled) == set(bnn.sites)
    trace.compute_log_prob()
    for name, node in sampled.items():
        assert node["value"].shape == bnn.sites[name].shape
        assert node["log_prob"].shape == ()
    replayed = poutine.trace(poutine.replay(bnn, trace)).get_trace(X, Y)
    assert torch.isfinite(replayed.log_prob_sum().detach())


def test_samples_of_the_guide_are_distributed_as_its_pyro_draws():
    bnn = model(SpikeAndSlab(0.3))
    guide = Guide(bnn)
    torch.manual_seed(0)
    ours = torch.stack([guide.sample()["0.weight.slab"] for _ in range(600)])
    theirs = torch.stack([guide()["0.weight.slab"].detach() for _ in range(600)])
    error = ours.std(0) / 600**0.5 * 2**0.5
    assert bool(((ours.mean(0) - theirs.mean(0)).abs() < 4.5 * error).all())


def test_the_centre_is_the_median_of_each_factor():
    bnn = model(Horseshoe(), SpikeAndSlab())
    guide = Guide(bnn)
    means = guide.means()
    for name, factor in guide.draw().items():
        if bnn.sites[name].support == "positive":
            torch.testing.assert_close(means[name], factor.location.detach().exp())
        elif bnn.sites[name].support == "boolean":
            torch.testing.assert_close(means[name], factor.probability.detach())
        else:
            torch.testing.assert_close(means[name], factor.location.detach())
    assert torch.equal(guide.inclusion()["2.weight.z"], means["2.weight.z"])


def test_asking_for_the_centre_leaves_the_random_state_as_it_was():
    guide = Guide(model(Horseshoe(), SpikeAndSlab()))
    before = torch.get_rng_state()
    guide.means()
    guide.inclusion()
    assert torch.equal(before, torch.get_rng_state())


def test_the_guides_parameters_are_not_the_models():
    bnn = model(Gaussian())
    guide = Guide(bnn)
    assert not {id(p) for p in guide.parameters()} & {id(p) for p in bnn.parameters()}
    assert sum(p.numel() for p in guide.parameters()) == 24
    grouped = [p for parameters in guide.groups().values() for p in parameters]
    assert {id(p) for p in grouped} == {id(p) for p in guide.parameters()}


def test_a_gate_without_a_named_slab_is_not_paired():
    prior = Hierarchy(
        z=dist.Bernoulli(0.5), s=dist.Normal(0.0, 1.0), weight=lambda z, s: z * s, included=exact_zero("z")
    )
    assert families(model(prior)) == {".z": "bernoulli", ".s": "normal"}


def test_the_centre_carries_no_gradient():
    for choice in ("map", "meanfield"):
        means = Guide(model(Gaussian(), HALO()), choice).means()
        assert not any(value.requires_grad for value in means.values())
