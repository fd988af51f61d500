"""The collapsed objective of unit gates is that of the whole Pyro model, with its minima in theta at the ends."""

from __future__ import annotations

import copy

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import bayesprune as bp
from bayesprune.inference.guides.functional import functional
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.objective.unit_gate_estimators import ESTIMATORS, ExactToggle
from bayesprune.inference.objective.unit_gate_expectation import GATES, UnitGateExpectation
from tests.oracles.enumerated_objective import enumerated, every_draw
from tests.oracles.gated_networks import CASES, PERCEPTRON

PRICES = {
    "flattening": {"log_gamma": 3.0},
    "per datum": {"kappa": 0.06},
    "fixed probability": {"probability": 0.3},
    "beta": {"beta": (1.5, 4.0)},
    "cost": {"cost": {"strength": 0.4, "macs": 0.7}},
}


def problem(price, choice="map", case=PERCEPTRON, **options):
    """An objective with gates enumerated, a batch, and theta all over its range, both ends among them."""
    model = case.model(**{"log_gamma": None, **price}, **options)
    guide = Guide(model, choice).double()
    made = Objective(model, guide, expectation=UnitGateExpectation.of(guide, enumerated))
    x = case.inputs(6)
    y = torch.arange(6) % 2
    with torch.no_grad():
        theta = torch.linspace(0.05, 0.95, len(guide.gates.theta), dtype=torch.float64)
        theta[1], theta[-2] = 0.0, 1.0
        guide.gates.theta.copy_(theta)
    return made, x, y


def explicit(made, x, y, pi=None):
    """The negative ELBO of model and guide under Pyro, the mean over all gates by enumeration."""
    guide, model = made.guide, made.model
    factors = guide.draw()
    guide.draw = lambda: factors
    trace = poutine.trace(guide).get_trace(x, y)
    for name, factor in factors.items():
        trace.nodes[name]["value"] = factor.value
    sites = {site: one.probability_site for site, one in model.gates.sets.items()}
    for site, at in (pi or {}).items():
        if sites[site] in trace.nodes:
            trace.nodes[sites[site]]["fn"] = dist.Delta(at).to_event(1)
            trace.nodes[sites[site]]["value"] = at
    best = guide.gates.best_priors
    guide.gates.best_priors = lambda: {sites[site]: at for site, at in pi.items()} if pi else best()
    total = 0.0
    try:
        for values, chance in every_draw(guide.gates.probabilities()):
            if chance == 0:
                continue
            for site, drawn in values.items():
                trace.nodes[site]["value"] = drawn
            total += float(chance) * float(Trace_ELBO().loss(model, poutine.replay(guide, trace=trace), x, y))
    finally:
        guide.gates.best_priors = best
    return total


@pytest.mark.parametrize("choice", ["map", "meanfield"])
@pytest.mark.parametrize("price", [name for name in PRICES if name != "cost"])
def test_the_collapsed_objective_is_that_of_the_explicit_model_at_its_best_pi(price, choice):
    made, x, y = problem(PRICES[price], choice)
    made.gradient = Gradient(analytic=False)  # the weights' terms from the draw, as Pyro has them
    factors = made.guide.draw()
    made.guide.draw = lambda: factors
    terms = made.terms(x, y)
    expected = explicit(made, x, y)
    assert float(terms.loss.detach()) == pytest.approx(expected, abs=1e-6)
    assert float(terms.kl - terms.log_likelihood) == pytest.approx(expected, abs=1e-6)
    if PRICES[price].keys() <= {"log_gamma", "kappa"}:  # it is a straight line in theta
        constant = made.model.gates.pressure("0.gate").prior(torch.zeros((), dtype=torch.float64)).log_normaliser
        line = 3.0 * float(made.guide.gates.theta.sum().detach()) - 7 * float(constant)
        assert float(terms.kl_of[GATES].detach()) == pytest.approx(line, abs=1e-9)
    if price != "fixed probability":  # control: another pi costs more
        best = made.guide.gates.best_priors()
        pi = {site: 0.5 * best[f"{site}_probability"] + 0.1 for site in made.model.gates.sets}
        assert explicit(made, x, y, pi) > expected + 1e-2
    with torch.no_grad():
        made.guide.gates.theta[0] += 1e-3
    assert float(made.terms(x, y).loss.detach()) != pytest.approx(expected, abs=1e-5)  # control


def test_where_the_cost_is_the_price_the_gates_cost_what_the_network_is_expected_to():
    made, x, y = problem(PRICES["cost"])
    model, q = made.model, made.guide.gates
    expected = 0.0
    for values, chance in every_draw(q.probabilities()):
        a, b = (float(gates.sum()) for gates in values.values())
        macs = 3 * a + a * b + 2 * b
        share = 0.7 * macs / 30 + 0.3 * (macs + a + b + 2) / (30 + 9)
        expected += float(chance) * 0.4 * model.data_size * share
    assert float(made.terms(x, y).kl_of[GATES].detach()) == pytest.approx(expected, rel=1e-12)
    assert float(model.gates.cost({s: t * 0.99 for s, t in q.probabilities().items()})) < expected  # control
    best = q.best_priors()
    for site, price in model.gates.prices(q.probabilities()).items():
        at = best[f"{site}_probability"]
        torch.testing.assert_close(at, (torch.logit(q.probabilities()[site]) - price).sigmoid())


@pytest.mark.parametrize("price", PRICES)
def test_the_objective_is_affine_in_each_gate_and_curved_with_a_fixed_probability(price):
    made, x, y = problem(PRICES[price])

    def loss(gate, at):
        with torch.no_grad():
            theta = made.guide.gates.theta
            before = theta[gate].clone()
            theta[gate] = at
            found = float(made.terms(x, y).loss)
            theta[gate] = before
        return found

    for gate in (0, 3, 5):
        second = loss(gate, 0.8) - 2.0 * loss(gate, 0.5) + loss(gate, 0.2)
        if price in ("fixed probability", "beta"):
            assert second > 0.05  # control
        else:
            assert abs(second) < 1e-10 * abs(loss(gate, 0.5))
    ends = loss(0, 1.0) - loss(0, 0.0)
    if price not in ("fixed probability", "beta"):
        (slope,) = torch.autograd.grad(made.terms(x, y).loss, made.guide.gates.theta)
        assert float(slope[0]) == pytest.approx(ends, rel=1e-9)  # the effect of the unit, and its price


def useful(price, scale=3.0):
    """A problem whose labels are those of the network, so that some of its units are of use."""
    made, x, _ = problem(price)
    with torch.no_grad():
        for family in made.guide.families:
            family.location.mul_(scale)
        weights = made.model.ungated_weights_at(made.guide.means())
        y = torch.func.functional_call(made.model.network, weights, (x,)).argmax(1)
        made.guide.gates.theta.fill_(0.5)
    return made, x, y


def test_with_flattening_projected_steps_end_at_a_corner():
    made, x, y = useful({"log_gamma": 1.0})
    theta = made.guide.gates.theta
    for _ in range(100):
        (slope,) = torch.autograd.grad(made.terms(x, y).loss, theta)
        with torch.no_grad():
            theta.sub_(0.05 * slope).clamp_(0.0, 1.0)
    (slope,) = torch.autograd.grad(made.terms(x, y).loss, theta)
    assert set(theta.tolist()) == {0.0, 1.0}
    assert bool(((slope > 0) == (theta == 0)).all())  # which the gradient points at


def test_with_a_fixed_probability_the_optimum_lies_inside():
    made, x, y = useful({"probability": 0.3}, scale=1.5)
    theta, prior = made.guide.gates.theta, torch.logit(torch.tensor(0.3, dtype=torch.float64))
    for _ in range(80):  # theta is the prior's odds less the effect of the unit
        (slope,) = torch.autograd.grad(made.terms(x, y).loss, theta)
        effect = slope - (torch.logit(theta.detach()) - prior)
        with torch.no_grad():
            theta.copy_(0.5 * theta + 0.5 * (prior - effect).sigmoid())
    (slope,) = torch.autograd.grad(made.terms(x, y).loss, theta)
    assert float(slope.abs().max()) < 1e-6 and float(effect.max() - effect.min()) > 1.0
    assert bool(((theta > 0.0) & (theta < 1.0)).all()) and bool(((theta - 0.5).abs() < 0.45).any())


@pytest.mark.parametrize("name", ["convolutional", "residual", "recurrent"])
def test_any_network_has_its_gates_in_the_objective(name):
    case = CASES[name]
    made, _, _ = problem({"log_gamma": 3.0}, case=case)
    with torch.no_grad():
        made.guide.gates.theta.copy_(torch.arange(len(made.guide.gates.theta)) % 2.0)
    x, y = case.inputs(6), torch.arange(6) % 2
    made.eval()
    made.expectation.estimator = ESTIMATORS["trapezoid"]()
    terms = made.terms(x, y)
    wanted = case.by_hand(made.model.network, x, made.guide.gates.probabilities())
    nll = nn.functional.cross_entropy(wanted, y, reduction="sum") * 50 / 6
    assert float(-terms.log_likelihood) == pytest.approx(float(nll.detach()), rel=1e-12)
    other = case.by_hand(made.model.network, x, {s: 1 - t for s, t in made.guide.gates.probabilities().items()})
    assert not torch.allclose(other, wanted, rtol=0.0, atol=1e-3)  # control


def test_gates_move_in_the_measure_in_which_the_estimator_has_seen_them():
    made, x, y = problem({"log_gamma": 3.0})
    made.expectation.estimator = ExactToggle(units=2)
    q = made.guide.gates
    q.absorbed[2] = True
    steps = []
    for _ in range(40):
        (slope,) = torch.autograd.grad(made.terms(x, y).loss, q.theta)
        assert int(q.touched.sum()) == 2 and bool((slope[~q.touched] == 0).all()) and not bool(q.touched[2])
        steps.append(q.touched)
    assert bool(torch.stack(steps).any(0)[[0, 1, 3, 4, 5, 6]].all())
    made.expectation.estimator = enumerated
    (slope,) = torch.autograd.grad(made.terms(x, y).loss, q.theta)
    assert q.touched is None and bool((slope != 0).all())  # control


def test_once_settled_theta_is_a_mask_without_gradient():
    made, x, y = problem({"log_gamma": 3.0})
    q = made.guide.gates
    with torch.no_grad():
        q.theta.copy_((q.theta > 0.5).double())
    with_draws = made.terms(x, y)
    q.settled.fill_(True)
    made.expectation.estimator = lambda *_: pytest.fail("no draws are needed any more")
    settled = made.terms(x, y)
    assert float(settled.loss.detach()) == pytest.approx(float(with_draws.loss.detach()), rel=1e-13)
    (slope,) = torch.autograd.grad(settled.loss, q.theta, allow_unused=True)
    assert slope is None or bool((slope == 0).all())
    with torch.no_grad():
        q.theta.fill_(1.0)
    plain = -made.model.likelihood.log_prob(made.model.network(x), y).sum() * 50 / 6
    assert float(-made.terms(x, y).log_likelihood) == pytest.approx(float(plain.detach()), rel=1e-13)
    assert float(plain.detach()) != pytest.approx(float(-settled.log_likelihood), rel=1e-3)  # control


def on_a_device(made, x, y):
    """The objective and a batch without values, on a device that need not be there; IN PLACE, inside a fake mode."""
    for module in made.modules():
        for name, tensor in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty_like(tensor, device="cuda"), tensor.requires_grad))
        for name, tensor in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty_like(tensor, device="cuda"))
    return torch.empty_like(x, device="cuda"), torch.empty_like(y, device="cuda")


@pytest.mark.parametrize("name", ["perceptron", "convolutional", "residual"])
@pytest.mark.parametrize("price", PRICES)
def test_a_step_waits_for_no_device_and_takes_no_table_from_another(name, price):
    def terms(move=None):
        made, _, _ = problem(PRICES[price], case=CASES[name])
        x, y = CASES[name].inputs(6), torch.arange(6) % 2
        made.expectation.estimator = ESTIMATORS["trapezoid"]()
        made.model.gates.cost(made.guide.gates.probabilities())  # what is made once, is
        with FakeTensorMode(allow_non_fake_inputs=True), functional():
            x, y = on_a_device(made, x, y)
            if move is not None:
                move(made)
            return made.terms(x, y)

    assert terms().loss.device.type == "cuda"

    def table_stays_behind(made):
        tables = made.model.gates._readers[0]._taken
        tables.register_buffer("0", torch.empty_like(tables["0"], device="cpu"), persistent=False)

    with pytest.raises(RuntimeError, match="device"):  # control
        terms(table_stays_behind)
    with pytest.raises(DataDependentOutputException):  # control
        terms(lambda made: bool(made.guide.gates.settled))


def test_whether_gates_are_settled_is_known_without_asking_in_every_step():
    made, x, y = problem({"log_gamma": 3.0})
    q = made.guide.gates
    assert not q.is_settled and not q.is_open
    q.load_state_dict({**q.state_dict(), "settled": torch.tensor(True), "theta": torch.ones_like(q.theta)})
    assert q.is_settled and q.is_open
    other = copy.deepcopy(made.guide).gates
    other.settled.fill_(False)
    assert q.is_settled and not other.is_settled


def test_a_bayesian_network_with_gates_runs_as_a_pyro_model():
    model = bp.BayesianNetwork(
        PERCEPTRON.make(), {}, data_size=9, gates=bp.UnitGates(log_gamma=2.0), example_input=torch.zeros(1, 3)
    )
    trace = poutine.trace(model).get_trace(torch.randn(5, 3))
    trace.compute_log_prob()
    assert {"0.gate", "0.gate_probability", "2.gate", "2.gate_probability", "obs"} <= set(trace.nodes)
    pi, gates = trace.nodes["0.gate_probability"]["value"], trace.nodes["0.gate"]["value"]
    expected = dist.Bernoulli(pi).log_prob(gates).sum()
    torch.testing.assert_close(trace.nodes["0.gate"]["log_prob_sum"], expected)
