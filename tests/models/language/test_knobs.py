"""Knobs: numbers of a declaration that a rule moves, followed by both executions, kept with a fit, refused if wrong."""

from __future__ import annotations

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from safetensors import safe_open

import bayesprune as bp
from bayesprune.inference.execution.objective_graph import trace
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.tensor_prior import TensorPrior
from tests.oracles.plain_path import batch_for, mlp, noise_at, objective_of, on_graph, on_plain, worst

torch.manual_seed(5)
X = torch.randn(30, 4)
Y = (X[:, 0] > 0).long()


def decayed(decay=1e-1, **more):
    """A prior by its weight decay, which is a knob."""
    return Hierarchy(
        weight=lambda decay: dist.Normal(0.0, decay.rsqrt()), included=bp.relative_threshold(0.1),
        knobs={"decay": decay}, **more,
    )  # fmt: skip


def still(decay):
    """The same without a knob."""
    return Hierarchy(weight=lambda: dist.Normal(0.0, torch.tensor(decay, dtype=torch.float64).rsqrt()))


def gated(kappa):
    """A network with gates at a price, and a decay under which units leave a short fit."""
    gates = bp.UnitGates(kappa=kappa, weight_scale=0.3)
    return bp.BayesianNetwork(bp.lenet_300_100(4, 2, hidden=(6,)), {}, data_size=30, gates=gates, example_input=X[:1])


# -- what a declaration sees ---------------------------------------------------------------------------------


def test_callables_of_latents_weights_and_factors_are_given_the_number():
    declared = Hierarchy(
        lam=Latent(lambda a: dist.Exponential(a), per="layer"),
        weight=lambda lam, a: dist.Normal(0.0, lam + a),
        factor=lambda weight, a: -a * weight.square().sum(),
        knobs={"a": 0.5},
    )
    w, lam = torch.randn(2, 3, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    for value in (0.5, 3.0):
        prior = TensorPrior("w", declared, (2, 3), 10)
        prior.moving["a"].set(value)
        _, terms = prior.evaluate({"lam": lam, "weight": w}, w)
        assert terms["lam"].item() == pytest.approx(math.log(value) - 0.7 * value, rel=1e-14)
        expected = torch.distributions.Normal(0.0, lam + value).log_prob(w).sum().item()
        assert terms["weight"].item() == pytest.approx(expected, rel=1e-14)
        assert terms["factor"].item() == pytest.approx(-value * w.square().sum().item(), rel=1e-14)
        assert all(term.dtype == torch.float64 for term in terms.values())


@pytest.mark.parametrize(
    ("ready", "name", "factor", "again"),
    [
        (bp.HALO(kappa=5.0), "kappa", 3.0, bp.HALO(kappa=15.0)),
        (bp.HALO.from_paper(1e-3, 2e-3, data_size=50), "kappa", 3.0, bp.HALO.from_paper(3e-3, 2e-3, data_size=50)),
        (bp.SpikeAndSlab(0.2, slab_sd=0.5), "odds", 0.5, bp.SpikeAndSlab(1 / 9, slab_sd=0.5)),
        (bp.Horseshoe(tau0=0.2), "tau0", 3.0, bp.Horseshoe(tau0=0.6)),
        (bp.RegularisedHorseshoe(tau0=0.2, slab_sd=1.0), "tau0", 3.0, bp.RegularisedHorseshoe(tau0=0.6, slab_sd=1.0)),
        (bp.Laplace(scale=0.3), "strength", 3.0, bp.Laplace(scale=0.1)),
        (bp.MCP(lam=2.0, gamma=1.5), "lam", 3.0, bp.MCP(lam=6.0, gamma=1.5)),
        (bp.SWS(kappa=2.0), "kappa", 3.0, bp.SWS(kappa=6.0)),
    ],
)  # fmt: skip
def test_a_knob_of_a_ready_prior_is_a_factor_on_the_constant_it_is_named_after(ready, name, factor, again):
    values = TensorPrior("w", ready, (3, 4), 10)
    values.moving[name].set(factor)
    expected = TensorPrior("w", again, (3, 4), 10)
    assert values.probe() == pytest.approx(expected.probe(), rel=1e-12)
    values.moving[name].set(1.01 * factor)
    assert values.probe() != pytest.approx(expected.probe(), rel=1e-5)


@pytest.mark.parametrize(
    ("ready", "name", "again"),
    [
        (bp.L0HardConcrete(lam=0.4), "lam", bp.L0HardConcrete(lam=1.2)),
        (bp.VIB(strength=0.5, slab_sd=1.0), "strength", bp.VIB(strength=1.5, slab_sd=1.0)),
        (bp.GroupHorseshoe(tau0=0.5), "tau0", bp.GroupHorseshoe(tau0=1.5)),
    ],
)
def test_so_it_is_where_the_prior_is_a_price(ready, name, again):
    moved, expected = (objective_of(one, None) for one in (ready, again))
    moved.model.knobs[name].scale(3.0)
    expected.load_state_dict(moved.state_dict())
    x, y = batch_for(moved.model.network)
    found, wanted = on_plain(moved, x, y, seed=2), on_plain(expected, x, y, seed=2)
    found.buffers = wanted.buffers = {}
    assert worst(found, wanted) < 1e-10
    moved.model.knobs[name].scale(3.01)
    off = on_plain(moved, x, y, seed=2)
    assert abs(float(off.parts["kl"] - wanted.parts["kl"])) > 1e-6


# -- both executions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", ["meanfield", "map"])
def test_a_knob_that_was_moved_is_the_prior_declared_there_bit_for_bit(guide):
    moved, again = objective_of(decayed(0.1), guide), objective_of(decayed(0.4), guide)
    x, y = batch_for(moved.model.network)
    traced, other = trace(moved, x, y), trace(again, x, y)
    noise = noise_at(traced, 7)
    moved.model.knobs["decay"].set(0.4)
    pairs = [
        (on_plain(moved, x, y, seed=7), on_plain(again, x, y, seed=7)),
        (on_graph(traced, moved, x, y, noise), on_graph(other, again, x, y, noise)),
    ]
    for found, expected in pairs:
        assert worst(found, expected) == 0.0
    assert worst(on_plain(moved, x, y, seed=7), on_graph(traced, moved, x, y, noise)) < 1e-9
    moved.model.knobs["decay"].set(0.41)
    assert worst(on_graph(traced, moved, x, y, noise), pairs[1][1]) > 1e-6


def test_it_is_the_prior_without_a_knob_too():
    moved, fixed = objective_of(decayed(0.1), "map"), objective_of(still(0.4), "map")
    x, y = batch_for(moved.model.network)
    moved.model.knobs["decay"].set(0.4)
    found, expected = on_plain(moved, x, y, seed=2), on_plain(fixed, x, y, seed=2)
    found.buffers = expected.buffers = {}
    assert worst(found, expected) < 1e-12


# -- the knobs of a model ------------------------------------------------------------------------------------


def names():
    return [name for name, one in mlp().named_parameters() if one.ndim == 2]


def test_knobs_of_one_name_move_together_by_a_factor():
    first, second, *_ = names()
    model = bp.BayesianNetwork(mlp(), {first: decayed(0.1), second: decayed(0.3)}, data_size=30)
    group = model.knobs["decay"]
    assert list(model.knobs) == ["decay"] and len(model.knobs) == 1 and "decay" in model.knobs
    group.scale(2.0)
    assert group.values == {first: pytest.approx(0.2), second: pytest.approx(0.6)} and group.factor == 2.0
    with pytest.raises(ValueError, match="declared with several values"):
        group.set(0.5)
    with pytest.raises(ValueError, match="has several values"):
        _ = group.value
    model.knobs[f"{second}.decay"].set(0.9)
    assert group.values == {first: pytest.approx(0.2), second: pytest.approx(0.9)}
    with pytest.raises(KeyError, match="there is no knob 'kappa'"):
        model.knobs["kappa"]
    with pytest.raises(ValueError, match="positive"):
        group.scale(0.0)


def test_copies_have_their_own_and_keep_what_was_moved():
    model = bp.BayesianNetwork(mlp(), {names()[0]: decayed(0.1)}, data_size=30)
    model.knobs["decay"].set(0.7)
    other = copy.deepcopy(model).to(torch.float32)
    other.knobs["decay"].set(0.2)
    assert model.knobs["decay"].value == 0.7 and other.knobs["decay"].value == pytest.approx(0.2, rel=1e-6)
    assert other.priors[names()[0]].moving["decay"].value.dtype == torch.float32
    assert model.priors[names()[0]].moving["decay"].value.dtype == torch.float64


def test_a_fingerprint_is_that_of_the_declaration():
    prior = bp.HALO(kappa=3.0)
    model = bp.BayesianNetwork(mlp(), {names()[0]: prior}, data_size=30)
    before = prior.fingerprint()
    model.knobs["kappa"].scale(9.0)
    assert prior.fingerprint() == before != bp.HALO(kappa=27.0).fingerprint()
    assert "kappa" not in prior.structure()


def test_units_that_leave_do_not_take_the_knob_along():
    torch.manual_seed(0)
    model = gated(1e-2)
    model.knobs["gates.price"].scale(5.0)
    fit = bp.fit(model, (X, Y), steps=60, batch_size=10, rules=[bp.Gating(delay=0.0)])
    assert fit.model.plan is not None and fit.model.knobs["price"].value == pytest.approx(5.0)
    like = gated(5e-2)
    theta = {site: torch.full((one.count,), 0.3) for site, one in like.gates.sets.items()}
    moved = copy.deepcopy(model)
    assert float(moved.gates.cost(theta)) == pytest.approx(float(like.gates.cost(theta)), rel=1e-5)


# -- what is kept --------------------------------------------------------------------------------------------


def test_what_was_moved_is_saved_and_comes_back(tmp_path):
    torch.manual_seed(0)
    model = bp.BayesianNetwork(bp.lenet_300_100(4, 2, hidden=(5,)), {"*.weight": bp.HALO(kappa=3.0)}, data_size=30)
    fit = bp.fit(model, (X, Y), steps=4, batch_size=10)
    fit.save(tmp_path / "declared")
    assert not any("knobs" in name for name in _stored(tmp_path / "declared"))
    fit.model.knobs["kappa"].scale(2.5)
    fit.save(tmp_path / "moved")
    assert bp.Fit.load(tmp_path / "moved", model).model.knobs["kappa"].value == pytest.approx(2.5)
    assert bp.Fit.load(tmp_path / "declared", model).model.knobs["kappa"].value == 1.0
    assert copy.deepcopy(fit).model.knobs["kappa"].value == pytest.approx(2.5)


def _stored(folder):
    with safe_open(folder / "restart-0.safetensors", framework="pt") as file:
        return list(file.keys())


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"knobs": {"fan_in": 1.0}}, "'fan_in' cannot be a knob"),
        ({"knobs": {"decay": 0.0}}, "must be a positive number"),
        ({"knobs": {"decay": True}}, "must be a positive number"),
        ({"knobs": {"decay": 1.0}, "budget": "lam"}, "names no knob"),
        ({"knobs": [1.0]}, "takes numbers by name"),
        ({}, "depends on 'decay', which is not declared"),
    ],
)
def test_bad_knobs_are_refused_in_one_sentence(more, says):
    with pytest.raises(ValueError, match=says):
        Hierarchy(weight=lambda decay: dist.Normal(0.0, decay), **more)


@pytest.mark.parametrize(
    "given", [{"more": "other"}, {"low": 2.0}, {"high": 0.5}, {"value": -1.0}, {"above": math.inf}]
)
def test_a_knob_refuses_what_it_cannot_be(given):
    with pytest.raises(ValueError, match="Knob|knob"):
        Knob(**given)
