"""The reserved argument `progress`: what a declaration sees of it, and that a fit moves it and puts it back."""

from __future__ import annotations

import copy

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.execution.objective_graph import trace
from bayesprune.inference.watching.callbacks import Callback
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.tensor_prior import TensorPrior
from tests.oracles.plain_path import (
    BATCH,
    DATA,
    apart,
    batch_for,
    mlp,
    noise_at,
    objective_of,
    on_graph,
    on_plain,
    parts_of,
    worst,
)

torch.manual_seed(3)
X = torch.randn(30, 4)
Y = (X[:, 0] > 0).long()
SLAB, FIRST, LAST, ANNEALING = 0.8, 0.5, 0.01, 0.7


def annealed(annealing=ANNEALING):
    return bp.ContinuousSpikeAndSlab(0.2, SLAB, LAST, FIRST, annealing)


def fixed(spike):
    """The prior that is not annealed, by its distribution."""
    return Hierarchy(weight=lambda: bp.SpikeSlabMixture(0.2, spike, SLAB), included=bp.slab_membership())


def spike_at(share):
    """The spike on its way, from a table of a geometric row."""
    return float(np.interp(min(share / ANNEALING, 1.0), np.linspace(0, 1, 1001), np.geomspace(FIRST, LAST, 1001)))


# -- what a declaration sees ---------------------------------------------------------------------------------


def test_it_is_a_reserved_name():
    with pytest.raises(ValueError, match="'progress' is a reserved argument"):
        Hierarchy(progress=dist.HalfCauchy(1.0), weight=dist.Normal(0.0, 1.0))


def test_latents_weights_and_factors_may_ask_for_it():
    declared = Hierarchy(
        lam=Latent(lambda progress: dist.Exponential(1.0 + progress), per="layer"),
        weight=lambda lam, progress: dist.Normal(0.0, lam + progress),
        factor=lambda weight, progress: -progress * weight.square().sum(),
    )
    prior = TensorPrior("w", declared, (2, 3), 10)
    w, lam = torch.randn(2, 3, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    for share in (1.0, 0.25, 0.0):
        prior.progress.set(share)
        _, terms = prior.evaluate({"lam": lam, "weight": w}, w)
        assert terms["lam"].item() == pytest.approx(np.log(1 + share) - (1 + share) * 0.7, rel=1e-14)
        expected = torch.distributions.Normal(0.0, lam + share).log_prob(w).sum()
        assert terms["weight"].item() == pytest.approx(expected.item(), rel=1e-14)
        assert terms["factor"].item() == pytest.approx(-share * w.square().sum().item(), rel=1e-14)
        assert all(term.dtype == torch.float64 for term in terms.values())


def test_it_is_one_outside_a_fit():
    w = torch.randn(3, 4, dtype=torch.float64)
    (one,), (last,) = (
        TensorPrior("w", h, (3, 4), 10).evaluate({"weight": w}, w)[1].values() for h in (annealed(), fixed(LAST))
    )
    assert torch.equal(one, last)
    (first,) = TensorPrior("w", fixed(FIRST), (3, 4), 10).evaluate({"weight": w}, w)[1].values()
    assert not torch.equal(one, first)


def test_a_declaration_that_fails_where_a_fit_begins_is_refused_at_once():
    with pytest.raises(ValueError, match="wrong support"):
        Hierarchy(weight=lambda progress: dist.Normal(0.0, progress))
    Hierarchy(weight=lambda progress: dist.Normal(0.0, 1.0 + progress))


def test_a_declaration_is_final_from_where_it_no_longer_changes():
    shares = (0.0, 0.5, 0.699, 0.701, 0.9, 1.0)
    assert [annealed().is_final(share) for share in shares] == [False, False, False, True, True, True]
    assert all(fixed(LAST).is_final(share) for share in shares)


def test_it_moves_with_the_model_and_its_copies_have_their_own():
    model = bp.BayesianNetwork(mlp(), {"a*.weight": annealed()}, data_size=DATA)
    other = copy.deepcopy(model).to(torch.float64)
    other.progress.set(0.25)
    assert other.progress.value.dtype == torch.float64 and float(model.progress.value) == 1.0
    assert all(prior.progress is other.progress for prior in other.priors.values())


def test_a_model_that_does_not_ask_has_none():
    for prior in (bp.Gaussian(), annealed(0.0)):
        model = bp.BayesianNetwork(mlp(), {"a*.weight": prior}, data_size=DATA)
        names = [name for name, _ in model.named_buffers()]
        assert model.progress is None and all(name.startswith("knobs.") for name in names)


# -- the objective on its way --------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.69, 0.7, 1.0])
@pytest.mark.parametrize("guide", ["meanfield", "map"])
def test_the_objective_is_that_of_the_prior_with_the_spike_of_the_moment(guide, share):
    moving = objective_of(annealed(), guide)
    x, y = batch_for(moving.model.network)
    moving.model.progress.set(share)
    exponent = min(share / ANNEALING, 1.0)
    still = objective_of(fixed(FIRST ** (1 - exponent) * LAST**exponent), guide)
    found, expected = on_plain(moving, x, y, seed=2), on_plain(still, x, y, seed=2)
    found.buffers = {}
    assert worst(found, expected) < 1e-12
    off = objective_of(fixed(1.001 * FIRST ** (1 - exponent) * LAST**exponent), guide)
    assert abs(float(on_plain(off, x, y, seed=2).parts["kl"] - expected.parts["kl"])) > 1e-6


def test_the_graph_reads_the_progress_and_does_not_keep_that_of_its_trace():
    objective = objective_of(annealed(), "meanfield")
    x, y = batch_for(objective.model.network)
    traced = trace(objective, x, y)
    noise = noise_at(traced, 7)
    found = {}
    for share in (1.0, 0.2, 0.5):
        objective.model.progress.set(share)
        found[share] = on_graph(traced, objective, x, y, noise)
        torch.manual_seed(7)
        assert worst(found[share], on_plain(objective, x, y, seed=7)) < 1e-9
    assert worst(found[0.2], found[0.5]) > 1e-3


# -- fits ----------------------------------------------------------------------------------------------------


class Record(Callback):
    def __init__(self):
        self.shares, self.spikes, self.at_end = [], [], None

    def on_step(self, state):
        self.shares.append(float(state.objective.model.progress.value))
        prior = state.objective.model.priors["a1.weight"]
        fn = prior.hierarchy.weight_value(fan_in=4, progress=state.objective.model.progress.value)
        self.spikes.append(float(fn.spike_sd))

    def on_fit_end(self, state):
        self.at_end = float(state.objective.model.progress.value)


def fitted(prior, execution="plain", **more):
    model = bp.BayesianNetwork(mlp(), {"a*.weight": prior}, data_size=30)
    how = {"steps": 12, "batch_size": BATCH, "precision": "float64", "learning_rate": 0.01, "device": "cpu", **more}
    return bp.fit(model, (X, Y), execution=execution, compiled=False, **how)


def test_a_fit_sets_the_share_of_its_steps_before_each_and_ends_on_the_declared_prior():
    record = Record()
    result = fitted(annealed(), callbacks=[record], restarts=2)
    assert record.shares == pytest.approx([k / 12 for k in range(12)] * 2, rel=1e-12)
    np.testing.assert_allclose(record.spikes, [spike_at(k / 12) for k in range(12)] * 2, rtol=1e-5)
    assert record.spikes[0] == pytest.approx(FIRST) and record.spikes[9] == record.spikes[11] == pytest.approx(LAST)
    assert record.at_end == 1.0 and all(float(one.model.progress.value) == 1.0 for one in result.restarts)


def test_a_fit_that_is_stopped_or_fails_puts_it_back():
    seen = []

    class Stops(Callback):
        def on_step(self, state):
            seen.append(state.objective.model)
            if len(seen) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(annealed(), callbacks=[Stops()])
    assert float(seen[-1].progress.value) == 1.0
    stopped = fitted(annealed(), stop=lambda state: True)
    assert float(stopped.model.progress.value) == 1.0


def test_a_fit_on_the_fused_path_anneals_as_the_plain_one():
    plain, fused = (fitted(annealed(), execution) for execution in ("plain", "fused"))
    assert (plain.settings["execution"]["name"], fused.settings["execution"]["name"]) == ("plain", "fused")
    assert fused.settings["execution"]["fused_steps"] > 6
    assert apart(dict(fused.guide.state_dict()), dict(plain.guide.state_dict())) < 1e-9
    assert apart(dict(fitted(annealed(0.0)).guide.state_dict()), dict(plain.guide.state_dict())) > 1e-3


def test_what_is_saved_knows_nothing_of_it(tmp_path):
    result = fitted(annealed())
    model = bp.BayesianNetwork(mlp(), {"a*.weight": annealed()}, data_size=30)
    again = bp.Fit.load(result.save(tmp_path / "fit"), model)
    assert float(again.model.progress.value) == 1.0 and "progress.value" not in result.model.state_dict()
    x, y = X.double(), Y
    objectives = [bp.objective(one.model, one.guide) for one in (result, again)]
    parts = []
    for each in objectives:
        torch.manual_seed(1)
        parts.append(parts_of(each.terms(x, y)))
    assert apart(*parts) == 0.0


def test_the_fingerprint_is_that_of_the_declared_prior():
    declared = annealed()
    model = bp.BayesianNetwork(mlp(), {"a*.weight": declared}, data_size=30)
    before = declared.fingerprint()
    model.progress.set(0.1)
    assert declared.fingerprint() == before
    assert bp.ContinuousSpikeAndSlab(0.2, SLAB, 0.02, FIRST, ANNEALING).fingerprint() != before


def test_nothing_of_a_network_is_changed_by_a_model_with_progress():
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    model = bp.BayesianNetwork(network, {"0.weight": annealed()}, data_size=30)
    names = {name for name, _ in model.named_buffers()} - {f"network.{name}" for name, _ in network.named_buffers()}
    assert names == {"progress.value", "knobs._numbers.0.value"}
    assert model.network.state_dict().keys() == network.state_dict().keys()
