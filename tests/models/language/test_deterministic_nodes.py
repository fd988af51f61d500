"""Nodes of a hierarchy whose callables return a tensor: numbers by hand, refusals, fingerprints."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import exact_zero, relative_threshold
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.tensor_prior import TensorPrior

SHAPE = (4, 3)


def normalised(per="weight", **changes):
    """A simplex of local scales, as those of the Dirichlet-Laplace prior."""
    declared = {
        "t": Latent(dist.Gamma(0.5, 1.0), per=per),
        "phi": lambda t: t / t.sum(),
        "tau": Latent(dist.HalfCauchy(1.0), per="layer"),
        "weight": lambda tau, phi: dist.Laplace(0.0, tau * phi),
        "included": relative_threshold(),
    }
    return Hierarchy(**{**declared, **changes})


def bound(hierarchy, shape=SHAPE):
    return TensorPrior("fc.weight", hierarchy, shape, 100)


def values_of(prior):
    """Positive numbers that are in no order."""
    generator = torch.Generator().manual_seed(3)
    return {name: torch.rand(site.shape, generator=generator) + 0.1 for name, site in prior.sites.items()}


FORMS = {
    "simplex": (lambda t: t / t.sum(), "weight", lambda t: t / t.sum()),
    "simplex of each output": (
        lambda t: t / t.sum(1, keepdim=True),
        "weight",
        lambda t: torch.stack([row / row.sum() for row in t]),
    ),
    "simplex over outputs": (lambda t: t / t.sum(), "output", lambda t: (t / t.sum()).expand(SHAPE)),
    "one number": (lambda t: t / (1.0 + t), "layer", lambda t: (t / (1.0 + t)).expand(SHAPE)),
    "one number for the network": (lambda t: t.sqrt(), "network", lambda t: t.sqrt().expand(SHAPE)),
    "multiplicative gamma process": (
        lambda t: torch.cumprod(t, 0),
        "output",
        lambda t: torch.tensor([math.prod(t.flatten()[: row + 1].tolist()) for row in range(4)])[:, None].expand(SHAPE),
    ),
    "softmax over inputs": (
        lambda t: torch.softmax(t, 1),
        "weight",
        lambda t: torch.stack([row.exp() / row.exp().sum() for row in t]),
    ),
    "softmax of inputs": (
        lambda t: torch.softmax(t, 1),
        "input",
        lambda t: (t.exp() / t.exp().sum()).expand(SHAPE),
    ),
    "sorted": (
        lambda t: t.sort(0).values,
        "output",
        lambda t: torch.tensor(sorted(t.flatten().tolist()))[:, None].expand(SHAPE),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_the_formula_of_the_node(form):
    function, per, by_hand = FORMS[form]
    declared = Hierarchy(t=Latent(dist.Gamma(2.0, 1.0), per=per), phi=function, weight=lambda phi: dist.Normal(0, phi))
    prior = bound(declared)
    assert list(prior.sites) == ["t", "weight"] and prior.deterministic == {"phi"}
    given = values_of(prior)
    _, terms = prior.evaluate(given)
    expected = dist.Normal(0.0, by_hand(given["t"])).log_prob(given["weight"]).sum()
    torch.testing.assert_close(terms["weight"], expected)
    assert not torch.allclose(dist.Normal(0.0, given["t"].expand(SHAPE)).log_prob(given["weight"]).sum(), expected)


def test_a_node_of_nodes_and_numbers_is_taken():
    declared = Hierarchy(
        t=Latent(dist.Gamma(2.0, 1.0), per="output"),
        scale=lambda fan_in: fan_in**-0.5,
        phi=lambda t: torch.cumprod(t, 0),
        psi=lambda phi, scale: phi / phi.max() * scale,
        weight=lambda psi: dist.Normal(0.0, psi),
    )
    prior = bound(declared)
    given = values_of(prior)
    run = torch.cumprod(given["t"], 0)
    expected = dist.Normal(0.0, run / run.max() / math.sqrt(3)).log_prob(given["weight"]).sum()
    torch.testing.assert_close(prior.evaluate(given)[1]["weight"], expected)
    double = {name: value.double() for name, value in given.items()}
    assert prior.evaluate(double, torch.empty(0, dtype=torch.float64))[1]["weight"].dtype == torch.float64


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), np.array(0.5), np.int64(1), 0.5], ids=repr)
def test_a_number_of_numpy_is_a_node_too(number):
    prior = bound(Hierarchy(scale=lambda: number, weight=lambda scale: dist.Normal(0.0, scale)))
    given = values_of(prior)
    expected = dist.Normal(0.0, float(number)).log_prob(given["weight"]).sum()
    torch.testing.assert_close(prior.evaluate(given)[1]["weight"], expected)
    with pytest.raises(ValueError, match="returned ndarray"):  # control
        bound(Hierarchy(scale=lambda: np.ones(3), weight=lambda scale: dist.Normal(0.0, scale)))


def test_a_node_of_named_dimensions_has_any_shape_that_its_children_take():
    declared = Hierarchy(
        d=Latent(dist.Gamma(2.0, 1.0), dims={"rank": 2}),
        shrink=lambda d: torch.cumprod(d, 0),
        u=Latent(lambda shrink: dist.Normal(0.0, 1.0 / shrink), dims={"output": None, "rank": 2}),
        v=Latent(dist.Normal(0.0, 1.0), dims={"rank": 2, "input": None}),
        weight=lambda u, v: u @ v,
    )
    assert bound(declared).simulate()["weight"].shape == SHAPE


def test_a_node_of_blocks_reduces_over_blocks_where_it_says_so():
    declared = Hierarchy(
        t=Latent(dist.Gamma(2.0, 1.0), per="block", block=(2, 2)),
        phi=Latent(lambda t: t / t.sum(), per="block", block=(2, 2)),
        weight=lambda phi: dist.Normal(0.0, phi),
    )
    prior = bound(declared, (4, 4))
    given = values_of(prior)
    by_hand = (given["t"] / given["t"].sum()).repeat_interleave(2, 0).repeat_interleave(2, 1)
    expected = dist.Normal(0.0, by_hand).log_prob(given["weight"]).sum()
    torch.testing.assert_close(prior.evaluate(given)[1]["weight"], expected)


def test_a_number_for_the_network_may_depend_on_another_through_a_node_but_not_on_one_of_each_layer():
    def declared(per):
        return Hierarchy(
            t=Latent(dist.Gamma(2.0, 1.0), per=per),
            root=lambda t: t.sqrt(),
            tau=Latent(lambda root: dist.HalfCauchy(root), per="network"),
            weight=lambda tau: dist.Normal(0.0, tau),
        )

    assert list(declared("network").latents) == ["t", "tau"]
    with pytest.raises(
        ValueError, match="tau is one number for the whole network but depends on t, which is per layer"
    ):
        declared("layer")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phi": lambda t: t.flatten()[:7]}, "phi is a deterministic node of shape .7,., which does not broadcast"),
        ({"phi": Latent(lambda t: t * 2.0, per="output")}, "does not broadcast to its entries of shape .6, 1."),
        ({"phi": Latent(lambda t: t / t.sum(), guide="delta")}, "phi is a deterministic node.*guide="),
        ({"phi": Latent(lambda t: t / t.sum(), init=1.0)}, "phi is a deterministic node.*init="),
        ({"phi": lambda t: t - t.sum()}, "wrong support"),
        ({"phi": lambda t: t / t.sum(1)}, "cannot be evaluated on a trial tensor of shape"),
        ({"included": exact_zero("phi")}, "names 'phi' as the gate, but it is a deterministic node"),
        ({"phi": lambda t: (t, t)}, "phi must return a Pyro distribution, or a tensor.*returned tuple"),
        ({"phi": lambda t, mu: t * mu}, "phi depends on 'mu', which is not declared"),
        ({"t": lambda phi: dist.Gamma(phi, 1.0)}, "cycle"),
    ],
)
def test_a_node_that_cannot_be_used_is_refused_in_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message) as refusal:
        normalised(**changes)
    assert "\n" not in str(refusal.value)


def test_the_printed_hierarchy_shows_a_node_as_a_formula():
    declared = Hierarchy(
        t=dist.Gamma(0.5, 1.0),
        phi=lambda t: t / t.sum(),
        weight=lambda phi: dist.Normal(0.0, phi),
    )
    lines = str(declared).splitlines()
    assert "phi      = t / t.sum()" in lines and any(line.startswith("t        ~ Gamma") for line in lines)
    assert list(normalised().latents) == ["t", "tau"] and list(normalised().nodes) == ["t", "phi", "tau"]


def test_the_fingerprint_changes_with_the_formula_of_a_node():
    found = [
        normalised(phi=function).fingerprint()
        for function in (
            lambda t: t / t.sum(),
            lambda t: t / t.mean(),
            lambda t: t,
            lambda t: t.sort(0).values,
            lambda t: t.sort(0, descending=True).values,
        )
    ]
    assert len(set(found)) == len(found) and normalised().fingerprint() == found[0]


def test_the_pyro_model_records_the_node_and_draws_no_latent_for_it():
    model = BayesianNetwork(nn.Linear(3, 4), {"weight": normalised()}, data_size=10)
    trace = pyro.poutine.trace(model).get_trace(torch.randn(5, 3))
    node = trace.nodes["weight.phi"]
    drawn = trace.nodes["weight.t"]["value"]
    assert node["is_observed"]
    torch.testing.assert_close(node["value"], drawn / drawn.sum())
    assert set(model.sites) == {"weight.t", "weight.tau", "weight"}


def test_prior_simulation_takes_it():
    assert 0.0 < bp.prior_sparsity(normalised(), (20, 10)).mean < 1.0
