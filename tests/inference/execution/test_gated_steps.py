"""Steps of objectives with gates of units as graphs: theta has its gradient, and what decided in a trace is watched."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from torch import nn

from bayesprune.inference.execution import stepper as stepper_module
from bayesprune.inference.execution.fused import FusedStep
from bayesprune.inference.execution.objective_graph import UntraceableError, trace
from bayesprune.inference.execution.stepper import Stepper
from bayesprune.inference.guides.gate_family import GateFamily
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.objective.unit_gate_estimators import ESTIMATORS
from bayesprune.inference.training.optimizers import make_optimizer
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.gates.cost_pressure import CostPressure
from bayesprune.models.gates.unit_gates import UnitGates
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab
from tests.oracles.plain_path import apart, distance, state_of

TIGHT = 1e-9
TRACED = {"trapezoid", "straight-through", "hard-concrete"}
SIZE = 60


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))


def gated(estimator="trapezoid", priors=None, **more):
    gates = UnitGates(estimator=estimator, **more)
    model = BayesianNetwork(network(), priors or {}, data_size=SIZE, gates=gates, example_input=torch.zeros(2, 4))
    model = model.double()
    objective = Objective(model, Guide(model).double()).train()
    q = theta_of(objective)
    with torch.no_grad():
        q.theta.copy_(torch.linspace(0.0, 1.0, len(q.theta), dtype=torch.float64))
        q.absorbed[0] = True
    return objective


def theta_of(objective):
    return GateFamily.among(objective.guide.ways)


def numbers(objective):
    return {name: value.detach().double().clone() for name, value in objective.named_parameters()}


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (8,), generator=generator)


def steps(stepper, count=4, rate=0.05, seed=0):
    """Takes steps, and moves theta after each as a rule does; what each came to, and theta's gradients."""
    torch.manual_seed(seed)
    terms, gradients = [], []
    for step in range(count):
        found = stepper.step(*batch(step), 1.0)
        q = theta_of(stepper.objective)
        terms.append({"loss": found.loss, "kl": found.kl, **found.kl_of})
        gradients.append(q.theta.grad.clone())
        with torch.no_grad():
            q.theta.sub_(rate * q.theta.grad).clamp_(0.0, 1.0)
        q.theta.grad = None
    stepper.finish()
    return terms, gradients


CASES = {
    "trapezoid": {}, "straight-through": {"estimator": "straight-through"},
    "hard concrete": {"estimator": "hard-concrete"}, "a cost": {"cost": CostPressure(0.1)},
    "under a prior": {"priors": {"2.weight": SpikeAndSlab()}}, "a fixed pi": {"probability": 0.2},
}  # fmt: skip


@pytest.mark.parametrize("in_graph", [True, False], ids=["optimizer in the graph", "operations"])
@pytest.mark.parametrize("case", CASES)
def test_a_gated_step_of_a_graph_is_the_plain_one(case, in_graph, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    plain, fused = (gated(**CASES[case]) for _ in range(2))
    takers = [
        Stepper(plain, make_optimizer("adam", plain, 0.01), 10, "plain"),
        Stepper(fused, make_optimizer("adam", fused, 0.01), 10, "fused", compiled=in_graph),
    ]
    (expected, slopes), (found, others) = (steps(one) for one in takers)
    assert takers[1].report.fused_steps == 4
    for one, other in zip(found, expected, strict=True):
        assert apart(one, other) < TIGHT
    for one, other in zip(others, slopes, strict=True):
        assert distance(one, other) < TIGHT and float(other.abs().max()) > 0.0
    ends = [state_of(one.objective, one.optimizer) for one in takers]
    assert apart(*({name: value.double() for name, value in end.items()} for end in ends)) < TIGHT
    # The control: gates drawn from another state of the random numbers.
    again = gated(**CASES[case])
    other = Stepper(again, make_optimizer("adam", again, 0.01), 10, "fused", compiled=in_graph)
    assert distance(steps(other, seed=1)[1][-1], slopes[-1]) > 1e-6


@pytest.mark.parametrize("estimator", sorted(set(ESTIMATORS) - TRACED))
def test_estimators_that_choose_units_or_repeat_random_numbers_are_not_traced(estimator):
    objective = gated(estimator)
    with pytest.raises(UntraceableError, match="cannot be traced"):
        trace(objective, *batch())
    stepper = Stepper(objective, make_optimizer("adam", objective, 0.01), 10**6, "auto", compiled=False)
    stepper.step(*batch(), 1.0)
    assert stepper.report.name == "plain"
    assert theta_of(objective).theta.grad is not None


def test_theta_that_is_rounded_makes_another_graph():
    objective = gated()
    twin = copy.deepcopy(objective)
    fused = Stepper(objective, make_optimizer("adam", objective, 0.01), 10, "fused", compiled=False)
    plain = Stepper(twin, make_optimizer("adam", twin, 0.01), 10, "plain")
    for seed in range(4):
        if seed == 2:
            held = fused._fused.traced
            assert held.holds
            for one in (objective, twin):
                q = theta_of(one)
                with torch.no_grad():
                    q.theta.copy_((q.theta > 0.5).double())
                    q.settled.fill_(True)
            assert not held.holds
        found = []
        for one in (fused, plain):
            torch.manual_seed(seed)
            found.append(one.step(*batch(seed), 1.0))
        assert apart(*({"loss": one.loss, "kl": one.kl} for one in found)) < TIGHT
    report = fused.finish()
    assert (report.fused_steps, report.graphs) == (4, 2)
    assert "2 graphs of a model that changed" in str(report)


def test_a_graph_of_what_was_removed_is_used_no_more():
    one, other = gated(), gated(estimator="straight-through")
    stepper = Stepper(one, make_optimizer("adam", one, 0.01), 10, "fused", compiled=False)
    stepper.step(*batch(), 1.0)
    before = numbers(one)
    stepper.go_on_with(other, make_optimizer("adam", other, 0.01), for_good=True)
    start = numbers(other)
    stepper.step(*batch(), 1.0)
    assert apart(numbers(one), before) == 0.0
    assert apart(numbers(other), start) > 0.0
    assert stepper.finish().graphs == 2


def test_a_step_with_gates_is_taken_as_a_graph_by_hand_too():
    objective = gated()
    optimizer = make_optimizer("sgd", objective, 0.01)
    step = FusedStep(objective, optimizer, trace(objective, *batch()), compiled=False)
    step(*batch(), 1.0)
    assert theta_of(objective).theta.grad is not None


# -- compilation rationed ---------------------------------------------------------------------------------------


def changing(monkeypatch, seconds, **more):
    """A stepper whose model changes, whose plain steps seem to take so many seconds."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(Stepper, "_time_plain", lambda self, x, y, kl_weight, steps, once: seconds)
    monkeypatch.setattr(stepper_module, "_SECONDS_PER_NODE", 0.0)  # so that a graph is expected to cost 5 s
    objective = gated()
    return Stepper(objective, make_optimizer("adam", objective, 0.01), 10**6, "auto", changing=True, **more)


def fused_from(stepper, count):
    """Number of the first of some steps that is fused, from 1; 0 if none is."""
    before, first = stepper.report.fused_steps, 0
    for step in range(1, count + 1):
        stepper.step(*batch(), 1.0)
        if not first and stepper.report.fused_steps > before:
            first = step
    return first


def test_a_graph_has_to_be_repaid_by_as_many_steps_as_the_model_has_lasted(monkeypatch):
    # 0.4 of 0.25 s are expected to be saved, 1.5 times 5 s to be repaid: 75 steps, asked at 32, 64 and 128.
    stepper = changing(monkeypatch, 0.25)
    assert fused_from(stepper, 140) == 129
    again = changing(monkeypatch, 0.5)  # 38 steps
    assert fused_from(again, 70) == 65
    never = changing(monkeypatch, 0.01)
    assert fused_from(never, 140) == 0 and "32 steps of 10 ms" not in never.report.reason
    assert "128 steps of 10 ms are to come, which do not repay" in never.report.reason
    # The control: of a model that does not change all steps to come repay it.
    objective = gated()
    fixed = Stepper(objective, make_optimizer("adam", objective, 0.01), 10**6, "auto")
    assert fused_from(fixed, 2) == 1


def test_what_the_graph_before_has_cost_and_saved_decides_on_the_next(monkeypatch):
    stepper = changing(monkeypatch, 0.5)
    assert fused_from(stepper, 80) == 65
    objective = gated()
    stepper._compile_seconds = 5.0
    stepper.go_on_with(objective, make_optimizer("adam", objective, 0.01))
    assert stepper._saved > 0.9  # these steps take milliseconds
    assert fused_from(stepper, 40) == 33  # the model before has lasted for 80 steps
    stepper._compile_seconds = 1e4
    stepper.go_on_with(objective, make_optimizer("adam", objective, 0.01))
    assert fused_from(stepper, 70) == 0
    stepper._compile_seconds = 5.0
    stepper.go_on_with(objective, make_optimizer("adam", objective, 0.01), for_good=True)
    assert fused_from(stepper, 2) == 1
    assert stepper.finish().graphs == 3


def test_a_gated_graph_is_compared_with_the_plain_step_at_the_same_gates(monkeypatch):
    monkeypatch.setattr(stepper_module, "_CHECK_EVERY", 2)
    objective = gated()
    stepper = Stepper(objective, make_optimizer("adam", objective, 0.01), 10, "fused", compiled=False)
    for seed in range(4):
        stepper.step(*batch(seed), 1.0)
    assert stepper.report.fused_steps == 4
    # The control: what the declaration says of the price has changed since the trace.
    objective.expectation._removed += 1.0
    with pytest.warns(UserWarning, match="reads something that changes during the fit"):
        stepper.step(*batch(), 1.0)
    assert stepper.report.name == "plain"


@pytest.mark.slow
@pytest.mark.parametrize("case", ["trapezoid", "hard concrete"])
def test_a_compiled_gated_step_is_the_plain_one(case):
    plain, fused = (gated(**CASES[case]) for _ in range(2))
    expected, slopes = steps(Stepper(plain, make_optimizer("adam", plain, 0.01), 10, "plain"))
    taker = Stepper(fused, make_optimizer("adam", fused, 0.01), 10, "fused", compiled=True)
    found, others = steps(taker)
    assert taker.report.compiled and taker.report.fused_steps == 4
    for one, other in zip(
        [*found, *({"theta": g} for g in others)], [*expected, *({"theta": g} for g in slopes)], strict=True
    ):
        assert apart(one, other) < TIGHT
