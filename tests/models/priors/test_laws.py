"""What every ready prior owes, in one table: a new prior costs a line of it.

A line is a name, settings and the log joint of all that is drawn, written down by scipy from the prior's definition.
The laws are of a small layer of 3 x 4 weights, and of fits of a small network.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from pyro import poutine
from scipy import stats
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.paired import SlabFactor
from bayesprune.inference.objective.objective import Objective
from bayesprune.models.gates.unit_gates import UnitGates
from bayesprune.models.priors.ready import PRIORS, from_config, make_prior
from tests.oracles.low_rank_reference import components, log_density
from tests.oracles.prior_densities import (
    bernoulli,
    concave,
    gamma,
    horseshoe,
    inverse_gamma,
    laplace,
    log_uniform,
    mixture,
    normal,
    normals,
    signed_gamma,
    total,
)
from tests.oracles.str_reference import soft

OUT, FAN_IN, DATA = 3, 4, 50
SIZE = OUT * FAN_IN
HE = sqrt(2.0 / FAN_IN)
TIGHT = 1e-9


# -- the table --------------------------------------------------------------------------------------------------------


@dataclass
class Law:
    """A ready prior at some settings.

    Attributes:
        name: As `make_prior` has it.
        settings: Of the prior.
        density: Latents by name -> log joint; None for gates of units, which stand on no tensor.
        weight: Latents by name -> weights; None where these are a latent.
        kind: Of its inclusion event.
        own: A guide family that a latent insists on, so that no fit is of points alone.
        up_to: Whether the density is known up to a constant only: it has no normaliser.
        by_term: Whether its KL divergence depends on all of q, so that no draw tells it.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    density: Callable[..., np.ndarray] | None = None
    weight: Callable[..., np.ndarray] | None = None
    kind: str = "relative"
    own: str | None = None
    up_to: bool = False
    by_term: bool = False

    def __str__(self):
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.settings.items())])


ROWS = {"pressure": 0.3, "raw_sd": 0.7, "g": "exp", "per": "output"}
RING = np.array([[0.7, 0.7, 0.3, 0.3], [0.3, 0.7, 0.7, 0.3], [0.3, 0.3, 0.7, 0.7]])
"""Outputs at 0, 1/3 and 2/3 of a ring, inputs at its quarters: two near ones each, .3 x 2 / 2 for the others."""
DECAY = {"weight_decay": 0.1, "data_size": DATA, "init": -6.0}
LAWS = [
    Law("gaussian", {}, lambda weight: normal(weight, HE)),
    Law("gaussian", {"sd": 0.3}, lambda weight: normal(weight, 0.3)),
    Law("weight-decay", {"weight_decay": 0.1, "data_size": DATA}, lambda weight: normal(weight, sqrt(0.2))),
    Law("laplace", {}, lambda weight: laplace(weight, HE / sqrt(2.0))),
    Law("laplace", {"scale": 0.2}, lambda weight: laplace(weight, 0.2)),
    Law("mcp", {"lam": 2.0, "gamma": 0.4}, lambda weight: concave(weight, 2.0, 0.8), up_to=True),
    Law("mcp", {}, lambda weight: concave(weight, sqrt(FAN_IN), 2.0 * HE), up_to=True),
    Law(
        "mcp-paper", {"lam": 0.04, "gamma": 20.0, "data_size": DATA}, lambda weight: concave(weight, 2, 0.8), up_to=True
    ),
    Law(
        "sws",
        {"kappa": 6.5},
        lambda square, weight: gamma(square, SIZE + 1.0, SIZE + 1.0) + laplace(weight, square / 0.5),
    ),
    Law(
        "sws-paper",
        {"xi": 0.1, "psi": 0.2, "data_size": DATA},
        lambda square, weight: gamma(square, SIZE + 1.0, 10.0) + laplace(weight, square / 5.0),
    ),
    Law(
        "halo",
        {"kappa": 4.5},
        lambda lam, weight: gamma(lam, 3.0, 3.0) + laplace(weight, lam**2 / 0.5),
        kind="shrinkage",
    ),
    Law(
        "halo",
        {"prior_sd": 0.5},
        lambda lam, weight: gamma(lam, 3.0, 3.0) + laplace(weight, 9.0 * lam**2 * 0.5 / sqrt(720.0)),
        kind="shrinkage",
    ),
    Law(
        "halo-paper",
        {"xi": 0.01, "psi": 0.02, "weight_decay": 0.1, "data_size": DATA},
        lambda lam, weight: (
            signed_gamma(lam, 3.0, 1.0) + laplace(weight, lam**2 / 0.5) - 2.5 * total(lam**2 + weight**2)
        ),
        kind="shrinkage",
    ),
    Law(
        "halo-paper",
        {"xi": 0.01, "psi": 0.02, "data_size": DATA, "signed": False, "lam_start": 0.7},
        lambda lam, weight: gamma(lam, 3.0, 1.0) + laplace(weight, lam**2 / 0.5),
        kind="shrinkage",
    ),
    Law("horseshoe", {}, horseshoe, lambda tau, lam, z: tau * lam * z, "shrinkage"),
    Law(
        "horseshoe",
        {"tau0": 0.3, "per": "output"},
        lambda tau, lam, z: horseshoe(tau, lam, z, 0.3),
        lambda tau, lam, z: tau * lam * z,
        "shrinkage",
    ),
    Law(
        "regularised-horseshoe",
        {"slab_sd": 2.0, "slab_df": 3.0},
        lambda tau, lam, c2, z: horseshoe(tau, lam, z) + inverse_gamma(c2, 1.5, 6.0),
        lambda tau, lam, c2, z: z / np.sqrt((tau * lam) ** -2 + 1.0 / c2),  # precisions of Normals add up
        "shrinkage",
    ),
    Law("soft-threshold", {}, normals((0.4 * DATA) ** -0.5, sqrt(2.5)), lambda s, raw: soft(raw, s, "exp"), "atom"),
    Law(
        "soft-threshold", ROWS, normals((0.3 * FAN_IN / SIZE) ** -0.5, 0.7), lambda s, raw: soft(raw, s, "exp"), "atom"
    ),
    Law("soft-threshold-paper", DECAY, normals(sqrt(0.2), sqrt(0.2)), lambda s, raw: soft(raw, s), "atom"),
    Law("sparse-gaussian", {"expected_density": 0.2}, lambda weight: normal(weight, sqrt(2.0 / (0.2 * FAN_IN)))),
    Law("reduction", {"sd": 0.3}, lambda weight: normal(weight, 0.3), kind="reduction"),
    Law(
        "spike-and-slab",
        {"expected_density": 0.2},
        lambda z, slab: bernoulli(z, 0.2) + normal(slab, sqrt(2.0 / (0.2 * FAN_IN))),
        lambda z, slab: z * slab,
        "atom",
        own="paired",
    ),
    Law(
        "spike-and-slab",
        {"slab_sd": 0.7, "level": "output"},
        lambda z, slab: bernoulli(z, 0.1) + normal(slab, 0.7),
        lambda z, slab: z * slab,
        "atom",
        own="paired",
    ),
    Law(
        "edge-gates",
        {"density": 0.2, "slab_sd": 0.7},
        lambda z, slab: bernoulli(z, 0.2) + normal(slab, 0.7),
        lambda z, slab: z * slab,
        "atom",
        own="paired",
    ),
    Law(
        "edge-gates",
        {"graph": "watts-strogatz", "neighbours": 2, "rewiring": 0.3, "slab_sd": 0.7},
        lambda z, slab: bernoulli(z, RING) + normal(slab, 0.7),
        lambda z, slab: z * slab,
        "atom",
        own="paired",
    ),
    Law(
        "edge-gates",
        {"density": 0.3, "evidence": 4.0, "slab_sd": 0.7},
        lambda p, z, slab: total(stats.beta.logpdf(p, 1.2, 2.8)) + bernoulli(z, p) + normal(slab, 0.7),
        lambda p, z, slab: z * slab,
        "atom",
        own="paired",
    ),
    Law(
        "continuous-spike-and-slab",
        {"expected_density": 0.2, "slab_sd": 0.6, "annealing": 0.5},
        lambda weight: mixture(weight, 0.2, 0.006, 0.6),
        kind="membership",
    ),
    Law(
        "scheduled-spike-and-slab",
        {"expected_density": 0.3, "slab_sd": 0.5, "spike_sd": 0.02},
        lambda weight: mixture(weight, 0.3, 0.02, 0.5),
        kind="membership",
    ),
    Law("low-rank", {}, log_density(sqrt(10.0), 0.2 * 3 * (OUT + FAN_IN)), components, "atom"),
    Law("sparse-variational-dropout", {}, lambda weight: log_uniform(weight), own="normal", up_to=True),
    Law(
        "group-normal-jeffreys",
        {"per": "input"},
        lambda z, w: log_uniform(z) + normal(w, 1.0),
        lambda z, w: z * w,
        own="normal",
        up_to=True,
    ),
    Law(
        "group-horseshoe",
        {"tau0": 0.3},
        lambda s_a, s_b, z_a, z_b, w: (
            gamma(s_a, 0.5, 1.0 / 0.09)
            + inverse_gamma(s_b, 0.5, 1.0)
            + gamma(z_a, 0.5, 1.0)
            + inverse_gamma(z_b, 0.5, 1.0)
            + normal(w, 1.0)
        ),
        lambda s_a, s_b, z_a, z_b, w: np.sqrt(s_a * s_b * z_a * z_b) * w,
    ),
    Law(
        "l0-hard-concrete",
        {"lam": 0.7, "level": "output"},
        lambda z, w: -0.7 * FAN_IN * total(z != 0) + normal(w, HE),
        lambda z, w: z * w,
        "atom",
        own="hardconcrete",
        by_term=True,
    ),
    Law(
        "l0-hard-concrete",
        {"slab_sd": inf},
        lambda z, w: -total(z != 0),
        lambda z, w: z * w,
        "atom",
        own="hardconcrete",
        by_term=True,
    ),
    Law(
        "structured-bayesian-pruning",
        {"low": -4.0, "high": 0.5},
        lambda theta, w: total(stats.loguniform.logpdf(theta, np.exp(-4.0), np.exp(0.5))) + normal(w, HE),
        lambda theta, w: theta * w,
        own="truncatedlognormal",
    ),
    Law(
        "vib",
        {"strength": 0.5, "slab_sd": 0.4},
        lambda z, w: 0.5 * log_uniform(z) + normal(w, 0.4),
        lambda z, w: z * w,
        own="normal",
        up_to=True,
        by_term=True,
    ),
]
GATES = Law("unit-gates", {"kappa": 1e-4}, kind="atom")


def test_every_ready_prior_stands_in_the_table_and_is_listed_with_a_line_on_what_it_is():
    assert {law.name for law in (*LAWS, GATES)} == set(PRIORS)
    assert all(entry.summary for entry in PRIORS.values())


# -- one layer --------------------------------------------------------------------------------------------------------


@functools.cache
def layer(place, guide=None):
    """The prior on a layer alone in float64, with a guide that is moved off its start."""
    torch.manual_seed(place)
    prior = make_prior(LAWS[place].name, **LAWS[place].settings)
    network = nn.Sequential(nn.Linear(FAN_IN, OUT)).double()
    model = bp.BayesianNetwork(network, {"0.weight": prior}, data_size=DATA).double()
    objective = Objective(model, Guide(model, guide).double())
    with torch.no_grad():
        for parameter in objective.guide.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return objective


def named(values):
    """Values by the name of the latent, as arrays with a leading axis of copies."""
    found = {site.removeprefix("0.weight").removeprefix(".") or "weight": value for site, value in values.items()}
    return {
        name: value.reshape(len(value), *(value.shape[1:] or (1, 1))).detach().numpy() for name, value in found.items()
    }


@functools.cache
@torch.no_grad()
def draws(place, count=2000):
    """(values by site, log q) of draws from the guide, all at once; a point has no density."""
    objective = layer(place)
    guide, sites = objective.guide, objective.model.sites
    torch.manual_seed(1)
    factors, values, log_q = guide.draw(), {}, torch.zeros(count, dtype=torch.float64)
    for site in sites:
        factor = factors[site]
        if isinstance(factor, SlabFactor):  # open: a Normal of the guide; closed: the prior
            gate = values[factor.pair.gate.name]
            location, scale = gate * factor.location, torch.where(gate == 1, factor.scale, slab_sd(LAWS[place]))
            q = torch.distributions.Normal(location, scale)
            values[site] = q.sample()
        else:
            q = factor.distribution()
            values[site] = q.sample((count,))
        if factor.has_density:
            log_q += q.log_prob(values[site]).reshape(count, -1).sum(1)
    return values, log_q.numpy()


def slab_sd(law):
    return law.settings.get("slab_sd", sqrt(2.0 / (law.settings.get("expected_density", 0.1) * FAN_IN)))


def moved(values, sites):
    """Two of the draws, points moved too."""
    torch.manual_seed(4)
    found = {site: value[:2] for site, value in values.items()}
    free = [site for site in found if sites[site].support in ("real", "positive")]
    return found | {site: found[site] * torch.exp(0.2 * torch.randn_like(found[site])) for site in free}


TABLE = pytest.mark.parametrize("place", range(len(LAWS)), ids=map(str, LAWS))


@TABLE
def test_the_log_joint_of_the_pyro_model_is_the_one_written_down(place):
    law, model = LAWS[place], layer(place).model
    two = moved(draws(place)[0], model.sites)
    expected = law.density(**named(two))
    assert abs(expected[0] - expected[1]) > 1e-3  # control: another value has another density

    def log_joint(at):
        given = {site: value[at] for site, value in two.items()}
        trace = poutine.trace(poutine.condition(model.sample_weights, given)).get_trace()
        if law.weight is not None:
            weight = law.weight(**{name: value[at] for name, value in named(two).items()})
            np.testing.assert_allclose(trace.nodes["0.weight"]["value"].detach(), weight, rtol=TIGHT)
        return float(trace.log_prob_sum().detach())

    found = np.array([log_joint(0), log_joint(1)])
    if law.up_to:
        found, expected = np.diff(found), np.diff(expected)
    np.testing.assert_allclose(found, expected, rtol=TIGHT, atol=TIGHT)


# What no draw tells, and what has a constant of its own choice, is held to the papers' forms in test_term_values.
TOLD = [place for place, law in enumerate(LAWS) if not (law.by_term or law.up_to)]


@pytest.mark.parametrize("place", TOLD, ids=[str(LAWS[place]) for place in TOLD])
def test_the_objective_s_price_is_the_mean_of_log_q_less_log_p(place):
    law, objective = LAWS[place], layer(place)
    torch.manual_seed(2)
    price = np.array([sum(float(term) for term in objective.kl_terms().values()) for _ in range(32)])
    values, log_q = draws(place)
    drawn = log_q - law.density(**named(values))
    error = sqrt(drawn.var() / len(drawn) + price.var() / len(price)) + TIGHT * abs(drawn.mean())
    assert abs(price.mean() - drawn.mean()) < 5.0 * error
    # Control: so many draws tell a mistake of a nat in the sum over all weights.
    assert error < 0.2 * max(1.0, abs(drawn.mean()) / 10.0)


@TABLE
def test_the_price_of_points_is_minus_the_log_joint_up_to_a_constant(place):
    law = LAWS[place]
    if law.own is not None:
        assert law.own in layer(place).guide.family_of.values()
        return
    objective = layer(place, "map")
    assert objective.guide.is_map

    def price_and_density():
        values = {site: value.detach()[None] for site, value in objective.guide.means().items()}
        return sum(float(term) for term in objective.kl_terms().values()), float(law.density(**named(values))[0])

    before = price_and_density()
    with torch.no_grad():
        for parameter in objective.guide.parameters():
            parameter += 0.05
    price, density = price_and_density()
    with torch.no_grad():
        for parameter in objective.guide.parameters():
            parameter -= 0.05
    assert abs(density - before[1]) > 1e-3  # control: there is a difference to be seen
    np.testing.assert_allclose(price - before[0], before[1] - density, rtol=1e-8)


# -- fits -------------------------------------------------------------------------------------------------------------

FITS = [*LAWS, GATES]
ALL = pytest.mark.parametrize("place", range(len(FITS)), ids=map(str, FITS))
generator = torch.Generator().manual_seed(0)
X = torch.randn(DATA, FAN_IN, generator=generator)
Y = (X[:, 0] > 0).long()


def model_of(law):
    torch.manual_seed(3)
    network, prior = bp.lenet_300_100(FAN_IN, 2, (8, 6)), make_prior(law.name, **law.settings)
    if isinstance(prior, UnitGates):
        return bp.BayesianNetwork(network, {}, data_size=DATA, gates=prior, example_input=X[:1])
    return bp.BayesianNetwork(network, {"fc*.weight": prior}, data_size=DATA)


def fitted(model, **how):
    more = {"steps": 4, "batch_size": 25, "device": "cpu", "precision": "float64", "execution": "plain", **how}
    rules = [bp.Gating(step=1e-4)] if model.gates is not None else []  # so short that no layer closes in four steps
    return bp.fit(model, (X, Y), more.pop("guide", None), rules=rules, **more)


@functools.cache
def fit_of(place, guide=None):
    return fitted(model_of(FITS[place]), guide=guide)


# One graph for all settings of a prior: only those with a form of their own are traced again.
NAMES = [law.name for law in LAWS]
FORMS = [place for place, name in enumerate(NAMES) if name not in NAMES[:place] or name in ("halo-paper", "horseshoe")]


@pytest.mark.parametrize("place", FORMS, ids=[str(LAWS[place]) for place in FORMS])
def test_a_fit_is_the_same_on_both_execution_paths(place):
    torch.manual_seed(place)
    prior = make_prior(LAWS[place].name, **LAWS[place].settings)
    model = bp.BayesianNetwork(nn.Sequential(nn.Linear(FAN_IN, 2)), {"0.weight": prior}, data_size=DATA)
    plain, fused = fitted(model, steps=3), fitted(model, steps=3, execution="fused", compiled=False)
    assert (plain.settings["execution"]["fused_steps"], fused.settings["execution"]["fused_steps"]) == (0, 3)
    found, start = dict(fused.guide.state_dict()), Guide(copy.deepcopy(model).double()).double().state_dict()
    for name, value in plain.guide.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=TIGHT, atol=TIGHT)
    assert not all(torch.allclose(start[name], value) for name, value in found.items())  # control: it has moved


@ALL
def test_inclusion_is_a_probability_of_each_weight(place):
    # Points have none: a prior whose default they are is fitted with a mean-field guide.
    prior = make_prior(FITS[place].name, **FITS[place].settings)
    fit = fit_of(place, "meanfield" if getattr(prior, "default_guide", None) == "map" else None)
    found = fit.inclusion_probabilities(draws=20)
    assert found.data_vars
    for name in fit.model.priors:
        values = found[name].values
        assert values.shape == fit.model.priors[name].shape and ((values >= 0.0) & (values <= 1.0)).all(), name
        assert found[name].attrs["kind"] == FITS[place].kind, name


@ALL
def test_a_saved_fit_is_the_fit_that_is_read_back(place, tmp_path):
    law, fit = FITS[place], fit_of(place)
    again = bp.Fit.load(fit.save(tmp_path / "fit"), model_of(law))
    state = again.guide.state_dict()
    for name, value in fit.guide.state_dict().items():
        assert torch.equal(state[name], value), name
    ones, others = (each.predict(X[:5], draws=3).mean for each in (again, fit))
    assert torch.equal(ones, others)
    if law is GATES:
        return
    declared = make_prior(law.name, **law.settings)
    assert fit.guide.is_map == (declared.default_guide == "map")
    assert repr(from_config(declared.config)) == repr(declared)
    assert from_config(declared.config).fingerprint() == declared.fingerprint()
    other = Law("gaussian", {"sd": 0.123})
    with pytest.raises(ValueError, match="has changed since"):
        bp.Fit.load(tmp_path / "fit", model_of(other))


@ALL
def test_a_pruned_network_with_a_closed_unit_is_cut_to_the_same_function(place):
    pruned = bp.prune(fit_of(place), sparsity=0.2, criterion="magnitude").network.double().eval()
    x = X.double()
    with torch.no_grad():
        before = pruned(x)
        first, second = (pruned.fc1.weight.abs().sum(1) * pruned.fc2.weight.abs().sum(0)).topk(2).indices
        pruned.fc1.weight[first] = 0.0  # nothing is read
        pruned.fc2.weight[:, second] = 0.0  # it is not read
        closed, small = pruned(x), bp.compact(pruned, x[:2]).network
        assert small.fc1.out_features <= 6
        torch.testing.assert_close(small(x), closed, rtol=TIGHT, atol=TIGHT)
        assert float((before - closed).abs().max()) > 1e-6  # control: the units had done something
