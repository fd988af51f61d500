"""A mask, as a way, is the network with zeros: under Pyro, in both executions of the objective, in all that counts."""

from __future__ import annotations

import copy
import itertools
import pickle

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch.nn import functional

import bayesprune as bp
from bayesprune.inference.execution.objective_graph import trace
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.left_in import left_in
from bayesprune.inference.objective.expectation import Expected, Once, expectation_for, way_expectation
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.training import checkpoint
from bayesprune.inference.training.fit import fit
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.ready_networks import make_ready
from bayesprune.models.ways.way import Way, WaySites
from tests.oracles.gated_networks import PERCEPTRON
from tests.oracles.masks import Masks, half
from tests.oracles.plain_path import batch_for, mlp, move, noise_at, on_graph, on_plain, worst

DATA = 50
PRIORS = {
    "normal": (bp.Gaussian, "meanfield"),
    "points": (bp.HALO, "map"),
    "spike and slab": (bp.SpikeAndSlab, "paired"),
}
EVERY = pytest.mark.parametrize("name", PRIORS)


def problem(name, on="a*.weight", **how):
    """An objective in training mode with half of the weights masked, its guide off its start, and a batch."""
    prior, choice = PRIORS[name]
    model = BayesianNetwork(mlp().double(), {on: prior()}, data_size=DATA).double()
    model.ways.append(Masks(half(model)))
    objective = Objective(model, Guide(model, choice).double(), Gradient(**how))
    move(objective, 0.3, seed=5)
    return objective.train(), *batch_for(model.network)


def by_hand(x, weights, masks, network):
    """The network's outputs, its weights times their masks."""
    first, second = (weights[f"{layer}.weight"] * masks[f"{layer}.weight"] for layer in ("a1", "a2"))
    return functional.linear(torch.tanh(functional.linear(x, first, network.a1.bias)), second, network.a2.bias)


@EVERY
def test_masked_weights_are_zero_under_pyro_and_at_given_values(name):
    model = problem(name)[0].model
    masks = half(model)
    torch.manual_seed(3)
    nodes = poutine.trace(model.sample_weights).get_trace().nodes
    values = {site: nodes[site]["value"] for site in model.sites}
    torch.manual_seed(3)
    for weights in (model.sample_weights(), model.weights_at(values)):
        for tensor, mask in masks.items():
            assert bool((weights[tensor][~mask] == 0).all())
            assert torch.equal(weights[tensor][mask], model.ungated_weights_at(values)[tensor][mask])
    without = model.ungated_weights_at(values)
    if name != "spike and slab":  # control: the priors have no zeros there
        assert all(bool((without[tensor][~mask] != 0).all()) for tensor, mask in masks.items())


def test_the_objective_of_a_masked_model_is_pyros():
    objective, x, y = problem("normal", analytic=False)
    model, guide = objective.model, objective.guide
    factors = guide.draw()
    guide.draw = lambda: factors
    drawn = poutine.trace(guide).get_trace()
    for site, factor in factors.items():
        drawn.nodes[site]["value"] = factor.value
    found = float(objective(x, y).detach())
    assert found == pytest.approx(float(Trace_ELBO().loss(model, poutine.replay(guide, trace=drawn), x, y)), rel=1e-12)
    with torch.no_grad():
        model.ways[0].masks["a1.weight"].logical_not_()
    assert float(objective(x, y).detach()) != pytest.approx(found, rel=1e-3)  # control: the other half


@pytest.mark.parametrize("on", ["a*.weight", "a2.weight"])
def test_the_network_runs_with_the_masked_weights_whatever_has_a_prior(on):
    objective, x, y = problem("points", on)
    model, masks = objective.model, half(objective.model)
    weights = dict(model.network.named_parameters()) | model.ungated_weights_at(objective.guide.means())
    terms = objective.terms(x, y)
    wanted = by_hand(x, weights, masks, model.network)
    torch.testing.assert_close(terms.outputs, wanted.detach(), rtol=0.0, atol=1e-13)
    nll = functional.cross_entropy(wanted, y, reduction="sum") * DATA / len(x)
    assert float(-terms.log_likelihood) == pytest.approx(float(nll.detach()), rel=1e-12)
    ones = {name: torch.ones_like(mask) for name, mask in masks.items()}
    assert not torch.allclose(by_hand(x, weights, ones, model.network), wanted, rtol=0.0, atol=1e-3)  # control


def test_the_gradient_at_the_weights_that_the_network_ran_with_is_dense():
    objective, x, y = problem("points")
    masks, terms = half(objective.model), objective.terms(x, y)
    assert set(terms.weights) == set(masks)
    found = dict(zip(terms.weights, torch.autograd.grad(terms.loss, list(terms.weights.values())), strict=True))
    ran = {name: weight.detach() for name, weight in terms.weights.items()}
    ones, step = {name: torch.ones_like(mask) for name, mask in masks.items()}, 1e-6

    def nll(moved):
        outputs = by_hand(x, {**ran, **moved}, ones, objective.model.network).detach()
        return float(functional.cross_entropy(outputs, y, reduction="sum")) * DATA / len(x)

    for name, mask in masks.items():
        slopes = torch.zeros_like(ran[name])
        for place in itertools.product(*map(range, mask.shape)):
            shift = torch.zeros_like(ran[name])
            shift[place] = step
            slopes[place] = (nll({name: ran[name] + shift}) - nll({name: ran[name] - shift})) / (2 * step)
        torch.testing.assert_close(found[name], slopes, rtol=1e-5, atol=1e-6)
        assert float(found[name][~mask].abs().median()) > 1e-2
    location = objective.guide.families[0].location  # control: what is trained sees nothing where the masks are zero
    terms = objective.terms(x, y)
    (by_data,) = torch.autograd.grad(terms.loss - sum(terms.kl_of.values()), location)
    assert bool((by_data[~torch.cat([mask.flatten() for mask in masks.values()])] == 0).all())


def test_a_step_that_runs_the_network_more_than_once_keeps_no_weights():
    objective, x, y = problem("normal", particles=2)
    assert objective.terms(x, y).weights == {}


@EVERY
@pytest.mark.parametrize("particles", [1, 2])
def test_the_graph_runs_with_the_masks_as_they_are_when_it_runs(name, particles):
    objective, x, y = problem(name, particles=particles)
    traced = trace(objective, x, y)
    before = on_graph(traced, objective, x, y, noise_at(traced, 3), 0.6)
    assert worst(before, on_plain(objective, x, y, seed=3, kl_weight=0.6)) < 1e-9
    with torch.no_grad():
        objective.model.ways[0].masks["a1.weight"].logical_not_()
    expected = on_plain(objective, x, y, seed=3, kl_weight=0.6)
    assert worst(on_graph(traced, objective, x, y, noise_at(traced, 3), 0.6), expected) < 1e-9
    assert worst(before, expected) > 1e-3  # control: the masks of before


def test_without_ways_the_graph_has_no_node_for_them():
    def nodes(model):
        objective = Objective(model, Guide(model, "meanfield").double()).train()
        return len(trace(objective, *batch_for(model.network)).graph.graph.nodes)

    plain = BayesianNetwork(mlp().double(), {"a*.weight": bp.Gaussian()}, data_size=DATA).double()
    masked = copy.deepcopy(plain)
    masked.ways.append(Masks(half(masked)))
    idle = copy.deepcopy(plain)
    idle.ways.append(Way())
    assert nodes(idle) == nodes(plain) < nodes(masked)


def masked_model(prior=bp.SpikeAndSlab):
    model = BayesianNetwork(mlp(), {"a*.weight": prior()}, data_size=DATA)
    model.ways.append(Masks(half(model)))
    return model


@pytest.mark.parametrize("execution", ["plain", "fused"])
def test_a_fit_counts_masked_weights_as_out_and_is_kept_with_its_masks(execution, tmp_path):
    model = masked_model()
    masks = half(model)
    x, y = batch_for(model.network, count=DATA, dtype=torch.float32)
    found = fit(
        model, (x, y), steps=12, batch_size=25, seed=1, execution=execution, compiled=False, precision="float32"
    )
    assert found.settings["execution"]["name"] == execution
    left, probabilities = left_in(found.guide), found.inclusion_probabilities()
    for name, mask in masks.items():
        assert not bool(left[name][~mask].any())
        assert float(probabilities[name].values[~mask.numpy()].max()) == 0.0
        assert float(probabilities[name].values[mask.numpy()].min()) > 0.0  # control
    pruned = bp.prune(found, min_inclusion=0.0001)
    assert all(bool((pruned.network.get_parameter(n)[~mask] == 0).all()) for n, mask in masks.items())
    outputs = found.predict(x)
    found.save(tmp_path / "fit")
    other = masked_model()
    for mask in other.ways[0].masks:  # of the file, and not of the model that it is loaded into
        other.ways[0].masks[mask].fill_(True)
    loaded = bp.Fit.load(tmp_path / "fit", model=other)
    for name, mask in masks.items():
        assert torch.equal(loaded.model.ways[0].masks[name], mask)
    torch.testing.assert_close(loaded.predict(x), outputs)
    without = BayesianNetwork(mlp(), {"a*.weight": bp.SpikeAndSlab()}, data_size=DATA)
    with pytest.raises(ValueError, match="fitted with other halves between weights and network"):
        bp.Fit.load(tmp_path / "fit", model=without)


def test_a_masked_fit_of_ready_parts_keeps_its_masks_between_processes_and_asks_for_the_model_on_disk(tmp_path):
    def made():
        return BayesianNetwork(make_ready("lenet-300-100", (4,), 3, 0.02), {"*.weight": bp.Gaussian()}, data_size=DATA)

    torch.manual_seed(0)
    model, (x, y) = made(), batch_for(mlp(), count=DATA, dtype=torch.float32)
    plain = fit(model, (x, y), steps=2)
    model.ways.append(Masks(half(model)))
    found = fit(model, (x, y), steps=2)
    received = pickle.loads(pickle.dumps(found))
    for name, mask in half(model).items():
        assert torch.equal(received.model.ways[0].masks[name], mask)
    torch.testing.assert_close(received.predict(x), found.predict(x))
    found.save(tmp_path / "masked")
    with pytest.raises(ValueError, match=r"code of your own \('halves' between weights and network\).* pass the model"):
        bp.Fit.load(tmp_path / "masked")
    plain.save(tmp_path / "plain")
    assert len(bp.Fit.load(tmp_path / "plain").model.ways) == 0  # control: its parts are ready ones


class Regrow(bp.Callback):
    """Turns one mask over after every epoch; may be killed in an epoch."""

    is_resumable = True

    def __init__(self, killed_in=None):
        self.killed_in = killed_in

    def on_step(self, state):
        if state.epoch == self.killed_in:
            raise KeyboardInterrupt

    def on_epoch(self, state):
        state.objective.model.ways[0].masks["a1.weight"].logical_not_()


def test_masks_that_change_go_on_from_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARE", 1.0)
    monkeypatch.setattr(checkpoint, "LEAST", 0.0)

    def fitted(**how):
        model = masked_model()
        return fit(model, batch_for(model.network, count=DATA, dtype=torch.float32), epochs=3, seed=1, **how)

    whole = fitted(callbacks=[Regrow()])
    with pytest.raises(KeyboardInterrupt):
        fitted(callbacks=[Regrow(killed_in=1)], checkpoint=tmp_path / "fit")
    resumed = fitted(callbacks=[Regrow()], checkpoint=tmp_path / "fit")
    for one, other in ((whole.guide, resumed.guide), (whole.model, resumed.model)):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert not torch.equal(
        whole.model.ways[0].masks["a1.weight"], half(whole.model)["a1.weight"]
    )  # control: it changed


def test_a_copy_of_a_masked_model_has_masks_of_its_own():
    model = masked_model()
    copied = copy.deepcopy(model).to(torch.float64)
    copied.ways[0].masks["a1.weight"].fill_(False)
    assert torch.equal(model.ways[0].masks["a1.weight"], half(model)["a1.weight"])
    assert bool((copied.sample_weights()["a1.weight"] == 0).all())


# ------------------------------------------------------------------------------------------------- what is asked for


class Drawing(Way):
    """A way that draws something."""

    name = "noise"

    def __init__(self):
        super().__init__()
        self.sets = {"noise.on": WaySites("noise.on", torch.arange(2))}


def test_a_way_that_draws_needs_a_guide_and_a_name_of_its_own():
    model = BayesianNetwork(mlp(), {"a*.weight": bp.Gaussian()}, data_size=DATA)
    model.ways.append(Drawing())
    with pytest.raises(ValueError, match="Drawing draws noise.on, for which there is no guide: register"):
        Guide(model)


def test_units_do_not_leave_a_model_with_a_way_that_cannot_follow():
    model = PERCEPTRON.model()
    model.ways.append(Masks({}))
    with pytest.raises(ValueError, match="Masks does not say what is left of it when units are removed"):
        model.with_network(model.network, {})


def test_ways_that_cannot_follow_units_are_refused_before_training():
    model = PERCEPTRON.model()
    model.ways.append(Masks(half(model)))
    x, y = PERCEPTRON.inputs(50), torch.arange(50) % 2
    with pytest.raises(
        ValueError, match=r"halves between weights and network cannot follow units that leave: .*remove=None"
    ):
        bp.fit(model, (x, y), steps=4, precision="float64")
    found = bp.fit(model, (x, y), steps=4, precision="float64", rules=[bp.Gating(remove=None, step=1e-3)])
    assert all(not bool(left_in(found.guide)[name][~mask].any()) for name, mask in half(model).items())


def test_two_ways_of_one_name_are_refused():
    model = masked_model()
    model.ways.append(Masks({}))
    with pytest.raises(ValueError, match="two ways of the model are called 'halves'"):
        Guide(model)


class Doubled(Way):
    """A way whose data term is averaged over the network as it is and with outputs of the first layer doubled."""

    name = "doubled"

    def weights(self, weights, values, network):
        return (
            {**weights, "a1.weight": weights["a1.weight"] * (1.0 + values["twice"])} if "twice" in values else weights
        )


@way_expectation(Doubled)
def over_both(way, model, guide):
    def average(nll, batch, data_size):
        both = [nll({"twice": torch.tensor(value)}).sum() for value in (0.0, 1.0)]
        return Expected(torch.stack(both).mean() * (data_size / batch), {"doubling": torch.tensor(2.5).double()})

    return average


def test_a_way_brings_the_average_of_its_own_and_its_part_of_the_kl_term():
    model = BayesianNetwork(mlp().double(), {"a*.weight": bp.Gaussian()}, data_size=DATA).double()
    guide = Guide(model, "map").double()
    x, y = batch_for(model.network)
    plain = Objective(model, guide)
    assert isinstance(plain.expectation, Once)
    before = plain.terms(x, y)
    model.ways.append(Doubled())
    terms = Objective(model, guide).terms(x, y)
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        network.a1.weight.mul_(2.0)
        twice = float(dist.Categorical(logits=network(x)).log_prob(y).sum()) * DATA / len(x)
    assert float(terms.log_likelihood) == pytest.approx(0.5 * (float(before.log_likelihood) + twice), rel=1e-12)
    assert float(terms.kl - before.kl) == pytest.approx(2.5, rel=1e-9)
    assert float(terms.kl_of["doubling"]) == 2.5 and terms.weights == {}
    assert abs(twice - float(before.log_likelihood)) > 1e-2  # control
    model.ways.append(Doubled())
    with pytest.raises(ValueError, match="Doubled and Doubled each average the data term in their own way"):
        expectation_for(model, guide)


def test_gates_and_masks_act_together_in_one_list():
    model = PERCEPTRON.model()
    values, x = PERCEPTRON.values(), PERCEPTRON.inputs()
    masks = half(model)
    model.ways.append(Masks(masks))
    weights = {name: model.network.get_parameter(name).detach() for name in model.priors}
    given = {site.name: weights[site.tensor] for site in model.sites.values()}
    found = torch.func.functional_call(model.network, model.weights_at({**given, **values}), (x,))
    masked = copy.deepcopy(model.network)
    with torch.no_grad():
        for name, mask in masks.items():
            masked.get_parameter(name).mul_(mask)
    torch.testing.assert_close(found, PERCEPTRON.by_hand(masked, x, values), rtol=0.0, atol=1e-13)
    assert not torch.allclose(found, PERCEPTRON.by_hand(model.network, x, values), rtol=0.0, atol=1e-3)  # control
    there = model.open_at(values)
    assert all(bool((there[name][~mask] == 0).all()) for name, mask in masks.items())
