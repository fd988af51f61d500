"""Every ready prior's step on a device that is not there: no tensor of another one, and no value that is read."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from bayesprune.inference.execution import fused
from bayesprune.inference.execution.objective_graph import trace
from bayesprune.inference.execution.stepper import Stepper
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.latent_gate_estimators import ScoreFunction, antithetic
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.training.optimizers import make_optimizer
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.gates.cost_pressure import CostPressure
from bayesprune.models.gates.unit_gates import UnitGates
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.latent import Latent
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.horseshoe import Horseshoe
from bayesprune.models.priors.ready import PRIORS, make_prior
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab
from tests.oracles.fake_device import DEVICE, Elsewhere, fake_device, move, move_constants

PAPER = {"xi": 1e-4, "psi": 1e-4, "data_size": 50}
NEEDED = {
    "weight-decay": {"weight_decay": 1e-4, "data_size": 50}, "mcp-paper": {"lam": 1e-3, "gamma": 1.5, "data_size": 50},
    "sws-paper": PAPER, "halo-paper": PAPER,
    "soft-threshold-paper": {"weight_decay": 1e-4, "data_size": 50, "init": -5.0},
}  # fmt: skip
"""Settings of those that need some."""
BATCH = 8


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))


def on_weights(prior, guide=None, on="[04].weight", **more):
    """An objective with a prior on every weight of the network, or on those of a pattern."""
    model = BayesianNetwork(network(), {on: prior}, data_size=50)
    return Objective(model, Guide(model, guide), Gradient(**more)).train()


def by_gates(**more):
    """An objective with gates on the units of the convolution."""
    gates = UnitGates(**more)
    model = BayesianNetwork(network(), {}, data_size=50, gates=gates, example_input=torch.zeros(2, 1, 4, 4))
    return Objective(model, Guide(model)).train()


def ready(name):
    return make_prior(name, **NEEDED.get(name, {}))


MATRICES = {"low-rank": "4.weight"}
"""Patterns of what is for matrices alone."""
OBJECTIVES = {
    name: (lambda name=name: on_weights(ready(name), on=MATRICES.get(name, "[04].weight")))
    for name in PRIORS
    if name != "unit-gates"
} | {
    "a MAP under HALO": lambda: on_weights(HALO(), "map"),
    "a mean-field horseshoe": lambda: on_weights(Horseshoe(), "meanfield"),
    "gates and slabs apart": lambda: on_weights(SpikeAndSlab(), "meanfield"),
    "a score function": lambda: on_weights(SpikeAndSlab(), latent_gates=ScoreFunction(2)),
    "opposite draws": lambda: on_weights(SpikeAndSlab(), latent_gates=antithetic),
    "particles": lambda: on_weights(Horseshoe(), particles=2),
    "terms from draws": lambda: on_weights(Horseshoe(), sticking_the_landing=True),
    "drawn outputs": lambda: on_weights(Gaussian(), "meanfield", local_reparameterisation=True),
    "outputs of gated weights": lambda: on_weights(SpikeAndSlab(), local_reparameterisation="approximate"),
    "a schedule": lambda: on_weights(
        Hierarchy(weight=lambda progress: dist.Normal(0.0, 0.1 + progress)), "meanfield"
    ),
}  # fmt: skip
GATED = {
    "gates of units": lambda: by_gates(), "straight-through": lambda: by_gates(estimator="straight-through"),
    "hard concrete": lambda: by_gates(estimator="hard-concrete"), "a cost": lambda: by_gates(cost=CostPressure(0.1)),
    "a fixed pi": lambda: by_gates(probability=0.3), "a Beta": lambda: by_gates(beta=(1.0, 2.0)),
}  # fmt: skip
REPEATING = {name: (lambda name=name: by_gates(estimator=name)) for name in ("disarm", "reinforce-loo")}


def at(graph, name):
    return getattr(graph, name).device


def steps_of(objective, monkeypatch, execution, optimizer="adam", clip=None, weight_gradient=False):
    """Takes steps on the device; returns the operations that met a tensor of another one, and those of the graph."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(fused, "_MOST_LEAVES", 10**9)  # on a GPU the optimizer is always part of the graph
    monkeypatch.setattr(fused.FusedStep, "_addresses", lambda self: [])
    x = torch.zeros(BATCH, 1, 4, 4)
    y = torch.zeros(BATCH, dtype=torch.long)
    with torch.no_grad():
        objective.terms(x, y)
    constants = []
    with fake_device(monkeypatch) as mode:
        move(objective, mode)
        made = make_optimizer(optimizer, objective, 0.01)
        x, y = mode.from_tensor(x).to(DEVICE), mode.from_tensor(y).to(DEVICE)
        move_constants(objective.model)
        for q in objective.guide.ways.values():
            q._settled._seen = (q.settled, q.settled._version)  # it is looked at where it has changed, and not else
        if execution == "plain":
            stepper = Stepper(objective, made, 10, "plain", clip=clip)
            take = lambda: stepper.step(x, y, 1.0, weight_gradient)  # noqa: E731
        else:
            traced = trace(objective, x, y)
            nodes = traced.graph.graph.nodes
            constants = [n.target for n in nodes if n.op == "get_attr" and at(traced.graph, n.target) != DEVICE]
            constants += [n.name for n in nodes if torch.device(n.kwargs.get("device", DEVICE)) != DEVICE]
            step = fused.FusedStep(objective, made, traced, compiled=True, clip=clip)
            assert step._rule is not None
            take = lambda: step(x, y, 1.0)  # noqa: E731
        take()
        with Elsewhere() as elsewhere:
            if execution == "fused":
                # The numbers of a step (rates, KL weight) are the one thing that goes from the host to the device.
                step._write_numbers = lambda kl_weight, number=1: None
            take()
    return elsewhere.seen, constants


@pytest.mark.parametrize("execution", ["plain", "fused"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_stays_on_its_device_and_reads_no_value(name, execution, monkeypatch):
    seen, constants = steps_of(OBJECTIVES[name](), monkeypatch, execution)
    assert not seen and not constants


@pytest.mark.parametrize("execution", ["plain", "fused"])
@pytest.mark.parametrize("name", GATED)
def test_so_does_one_with_gates_of_units(name, execution, monkeypatch):
    assert steps_of(GATED[name](), monkeypatch, execution) == ([], [])


@pytest.mark.parametrize("name", REPEATING)
def test_so_does_one_whose_estimator_runs_the_network_again(name, monkeypatch):
    # The state of the CPU's random numbers is kept and put back, which is no tensor of the step.
    seen, _ = steps_of(REPEATING[name](), monkeypatch, "plain")
    assert not seen


@pytest.mark.parametrize("execution", ["plain", "fused"])
def test_so_does_one_with_momentum_and_a_limit_on_the_gradient(execution, monkeypatch):
    sgd = lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9, foreach=True)  # noqa: E731
    assert steps_of(on_weights(HALO()), monkeypatch, execution, sgd, clip=0.1) == ([], [])


def test_so_does_one_that_gives_the_weights_gradient(monkeypatch):
    assert steps_of(on_weights(HALO()), monkeypatch, "plain", weight_gradient=True) == ([], [])


# -- controls ---------------------------------------------------------------------------------------------------


def test_a_prior_that_reads_a_value_in_its_step_is_caught(monkeypatch):
    reads = Hierarchy(
        tau=Latent(lambda: dist.Gamma(2.0, 2.0), per="layer"), weight=lambda tau: dist.Normal(0.0, float(tau) * tau)
    )
    with pytest.raises(DataDependentOutputException):
        steps_of(on_weights(reads), monkeypatch, "plain")


def test_a_prior_that_makes_a_tensor_on_the_cpu_is_caught(monkeypatch):
    one = Hierarchy(
        tau=Latent(lambda: dist.Gamma(2.0, 2.0), per="layer"),
        weight=lambda tau: dist.Normal(0.0, tau * torch.tensor(2.0, device="cpu")),
    )
    seen, _ = steps_of(on_weights(one), monkeypatch, "plain")
    assert seen
    many = Hierarchy(
        tau=Latent(lambda: dist.Gamma(2.0, 2.0), per="output"),
        weight=lambda tau: dist.Normal(torch.zeros(1, 1, device="cpu"), tau),
    )
    with pytest.raises(RuntimeError, match="device"):
        steps_of(on_weights(many), monkeypatch, "plain")


def test_a_step_that_reads_its_loss_is_caught(monkeypatch):
    objective = on_weights(HALO())
    whole = Stepper._plain_step

    def reads(self, *arguments):
        terms = whole(self, *arguments)
        float(terms.loss)
        return terms

    monkeypatch.setattr(Stepper, "_plain_step", reads)
    with pytest.raises(DataDependentOutputException):
        steps_of(objective, monkeypatch, "plain")
