"""Steps on the fused path: the plain path's parameters, optimizer state and running statistics, at the same seed."""

from __future__ import annotations

import functools

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from bayesprune.inference.execution.fused import FusedStep, clipped
from bayesprune.inference.execution.objective_graph import trace
from bayesprune.inference.objective.latent_gate_estimators import ScoreFunction, antithetic
from bayesprune.inference.training.optimizers import make_optimizer
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.latent import Latent
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.horseshoe import Horseshoe
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab
from tests.oracles.plain_path import (
    CLASSES,
    apart,
    batch_for,
    distance,
    mlp,
    move,
    objective_of,
    parts_of,
    state_of,
    trained,
)

STEPS, LAST = 8, 3  # the size of an odd last batch
TIGHT = 1e-9
COMPILE = torch.compile


@pytest.fixture
def no_compilation(monkeypatch):
    """`torch.compile` gives the function back: what would be compiled runs, optimizer and all, without the wait."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


def branching():
    """A prior that looks at a value."""
    return Hierarchy(
        tau=Latent(lambda: dist.Gamma(2.0, 2.0), per="layer"),
        weight=lambda tau: dist.Normal(0.0, tau if tau > 1 else tau.square()),
    )


class Own(torch.optim.Optimizer):
    """An optimizer of one's own: steps of the sign."""

    def __init__(self, groups):
        super().__init__(groups, {"lr": 0.01})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.state[parameter]["taken"] = self.state[parameter].get("taken", 0) + 1
                    parameter -= group["lr"] * torch.tanh(parameter.grad)


OPTIMIZERS = {
    "adam": "adam",
    "sgd": "sgd",
    "sgd without momentum": lambda groups: torch.optim.SGD(groups, lr=0.01),
    "adam with weight decay": lambda groups: torch.optim.Adam(groups, lr=0.01, weight_decay=0.1),
    "AMSGrad": lambda groups: torch.optim.Adam(groups, lr=0.01, amsgrad=True),
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01),
    "one's own": Own,
}


def single():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, CLASSES))


def batches(network, odd=(), dtype=torch.float64):
    return [batch_for(network, 20 + k, LAST if k in odd else 8, dtype) for k in range(STEPS)]


def weights():
    """A KL weight that rises."""
    return [min(1.0, 0.3 * k) for k in range(STEPS)]


def take_plain(objective, optimizer, x, y, kl_weight, clip=None):
    optimizer.zero_grad(set_to_none=True)
    terms = objective.terms(x, y, kl_weight)
    (terms.loss / objective.model.data_size).backward()
    if clip is not None:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    optimizer.step()
    return parts_of(terms)


def run(make, optimizer, compiled, odd=(), clip=None, seed=0):
    """Parameters and state after some steps, and the terms of each; `compiled` None is the plain path."""
    objective = make()
    dtype = next(objective.parameters()).dtype
    optimizer = make_optimizer(optimizer, objective, 0.01)
    given = batches(objective.model.network, odd, dtype)
    fused = None
    if compiled is not None:
        fused = FusedStep(objective, optimizer, trace(objective, *given[0]), compiled, clip)
    torch.manual_seed(seed)
    rates, terms = [group["lr"] for group in optimizer.param_groups], []
    for step, ((x, y), kl_weight) in enumerate(zip(given, weights(), strict=True)):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate / (1 + step)
        if fused is not None and fused.traced.fits(x, y):
            terms.append(parts_of(fused(x, y, kl_weight)))
        else:
            if fused is not None:
                fused.release()
            terms.append(take_plain(objective, optimizer, x, y, kl_weight, clip))
            if fused is not None:
                fused.resume()
    if fused is not None:
        fused.release()
    return state_of(objective, optimizer), terms, fused


def assert_alike(found, expected, tolerance=TIGHT):
    assert apart(found[0], expected[0]) < tolerance
    for step, (one, other) in enumerate(zip(found[1], expected[1], strict=True)):
        assert apart(one, other) < tolerance, step


def assert_apart(found, expected, least=1e-4):
    assert apart(found[0], expected[0]) > least


# -- optimizers -----------------------------------------------------------------------------------------------


def small():
    return objective_of({"0.weight": Gaussian()}, "meanfield", single())


@functools.cache
def plain_small(optimizer, odd=(), clip=None, seed=0):
    return run(small, OPTIMIZERS[optimizer], None, odd, clip, seed)


@pytest.mark.parametrize("compiled", [False, True], ids=["operations", "optimizer in the graph"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_are_those_of_the_plain_path(optimizer, compiled, no_compilation):
    found = run(small, OPTIMIZERS[optimizer], compiled)
    assert (found[2]._rule is not None) == (compiled and optimizer in ("adam", "sgd", "sgd without momentum"))
    assert_alike(found, plain_small(optimizer))
    assert_apart(found, plain_small(optimizer, seed=1))  # the control: other noise


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("odd", [(0,), (3, 7), (0, 1, 4)], ids=str)
def test_batches_of_another_size_take_turns_and_keep_the_count_of_steps(optimizer, odd, no_compilation):
    if 0 in odd:  # the graph is made for the first batch's shape, so these are the other way round
        odd = tuple(step for step in range(STEPS) if step not in odd and step > 0)
    found = run(small, OPTIMIZERS[optimizer], True, odd)
    assert_alike(found, plain_small(optimizer, odd))
    counts = [value for name, value in found[0].items() if name.startswith("step of")]
    assert all(int(count) == STEPS for count in counts) and bool(counts) == (optimizer == "adam")


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("clip", [1e-2, 1e9])
def test_a_gradient_is_cut_as_on_the_plain_path(clip, compiled, no_compilation):
    found = run(small, "sgd", compiled, clip=clip)
    assert_alike(found, plain_small("sgd", clip=clip))
    if clip < 1.0:  # the control: it matters here
        assert_apart(found, plain_small("sgd"))


def test_clipping_is_torchs():
    torch.manual_seed(0)
    for largest in (0.1, 1.0, 100.0):
        ones = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((3, 2), (4,), ())]
        for one in ones[:2]:
            one.grad = torch.randn_like(one)
        found = clipped([None if one.grad is None else one.grad.clone() for one in ones], largest)
        before = ones[0].grad.clone()
        nn.utils.clip_grad_norm_(ones, largest)
        assert found[2] is None
        assert max(distance(f, one.grad) for f, one in zip(found[:2], ones, strict=False)) < 1e-14
        assert (distance(found[0], before) > 1e-3) == (largest < 100.0)


# -- objectives -----------------------------------------------------------------------------------------------


class Unused(nn.Module):
    """A network with parameters that no output depends on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.a1, self.idle = nn.Linear(4, CLASSES), nn.Linear(2, 2)

    def forward(self, x):
        return self.a1(x)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.a1, self.middle, self.a2 = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.middle.weight = self.a1.weight

    def forward(self, x):
        return self.a2(torch.tanh(self.middle(torch.tanh(self.a1(x)))))


OBJECTIVES = {
    "points": lambda: objective_of(HALO(), "map"),
    "horseshoe, normalised": lambda: objective_of({"a2.weight": Horseshoe()}, "meanfield", mlp(norm=True)),
    "dropout": lambda: objective_of(Gaussian(), "meanfield", mlp(dropout=0.3)),
    "gates": lambda: objective_of(SpikeAndSlab(), "paired"),
    "opposite gates": lambda: objective_of(SpikeAndSlab(level="output"), "paired", latent_gates=antithetic),
    "drawn gates": lambda: objective_of({"a2.weight": SpikeAndSlab()}, "paired", latent_gates=ScoreFunction(2)),
    "particles": lambda: objective_of(Gaussian(), "meanfield", particles=2),
    "tied weights": lambda: objective_of({"a*.weight": Gaussian()}, "meanfield", Tied()),
    "tied point estimates": lambda: objective_of({"a2.weight": Gaussian()}, "meanfield", Tied()),
    "an unused layer": lambda: objective_of({"a1.weight": Gaussian()}, "meanfield", Unused()),
    "one tensor outside the graph": lambda: objective_of({"a1.weight": branching(), "a2.weight": HALO()}, None),
    "gates, and a tensor outside the graph": lambda: objective_of(
        {"a1.weight": branching(), "a2.weight": SpikeAndSlab()}, None
    ),
}
OUTSIDE = [kind for kind in OBJECTIVES if "outside the graph" in kind]
TURNS = (2, 6)
WHOLE = ("dropout", "gates", "drawn gates", "particles", "one tensor outside the graph")
"""What whole fits in test_stepper hold to the plain path too: their single steps are slow."""


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [pytest.param(kind, "adam", marks=pytest.mark.slow if kind in WHOLE else ()) for kind in OBJECTIVES]
    + [(kind, "sgd") for kind in ("an unused layer", *OUTSIDE)],
)
def test_steps_are_those_of_the_plain_path_for(kind, optimizer, no_compilation):
    make = OBJECTIVES[kind]
    found, expected = (run(make, optimizer, compiled, TURNS) for compiled in (True, None))
    is_apart = "outside the graph" in kind
    assert found[2].traced.alone == (("a1.weight",) if is_apart else ())
    assert (found[2]._rule is None) == is_apart
    if kind == "an unused layer":  # the plain path makes no state for it; ours is that of no step
        idle = [name for name in found[0] if " of " in name and "idle" in name]
        assert all(not bool(found[0].pop(name).any()) for name in idle)
    assert_alike(found, expected)
    if kind != "points":
        assert_apart(found, run(make, optimizer, None, TURNS, seed=1))


def test_a_tensor_outside_the_graph_is_clipped_with_the_rest(no_compilation):
    make = OBJECTIVES["one tensor outside the graph"]
    found, expected = (run(make, "sgd", compiled, clip=1e-2) for compiled in (True, None))
    assert_alike(found, expected)
    assert_apart(found, run(make, "sgd", None))


def test_a_learned_scale_of_the_likelihood_is_trained(no_compilation):
    def make():
        torch.manual_seed(1)
        return objective_of({"0.weight": Gaussian()}, "meanfield", nn.Sequential(nn.Linear(4, 1)), Normal())

    results = []
    for compiled in (True, None):
        objective = make()
        optimizer = make_optimizer("adam", objective, 0.01)
        x, y = batch_for(objective.model.network)
        y = y.double()
        before = objective.model.likelihood.log_scale.detach().clone()
        torch.manual_seed(0)
        if compiled:
            step = FusedStep(objective, optimizer, trace(objective, x, y), compiled)
            torch.manual_seed(0)
            terms = [parts_of(step(x, y, 1.0)) for _ in range(STEPS)]
            step.release()
        else:
            terms = [take_plain(objective, optimizer, x, y, 1.0) for _ in range(STEPS)]
        results.append((state_of(objective, optimizer), terms))
        assert not torch.equal(objective.model.likelihood.log_scale, before)
    assert_alike(*results)


@pytest.mark.parametrize(
    ("more", "tolerance"), [({}, 2e-4), ({"autocast": torch.bfloat16}, 0.05)], ids=["single", "bf16"]
)
def test_single_precision_and_autocast_agree_as_far_as_they_can(more, tolerance, no_compilation):
    def make():
        return objective_of(Gaussian(), "meanfield", dtype=torch.float32, **more)

    found, expected = (run(make, "sgd", compiled) for compiled in (True, None))
    assert all(value.dtype == torch.float32 for value in found[0].values())
    assert_alike(found, expected, tolerance)
    assert_apart(found, run(make, "sgd", None, seed=1), 3 * tolerance)


# -- the step itself ------------------------------------------------------------------------------------------


def test_the_noise_can_be_given_and_what_the_plain_path_gives_for_it_is_told_without_a_change(no_compilation):
    objective = objective_of(Gaussian(), "meanfield", mlp(norm=True))
    optimizer = make_optimizer("adam", objective, 0.01)
    x, y = batch_for(objective.model.network)
    step = FusedStep(objective, optimizer, trace(objective, x, y))
    before = state_of(objective, optimizer)
    plain = parts_of(step.plain_terms(x, y, 0.7))
    assert apart(state_of(objective, optimizer), before) == 0.0
    noise = [each.clone() for each in step.noise]
    again = parts_of(step.plain_terms(x, y, 0.7))
    assert apart(plain, again) > 1e-6  # new noise
    found = parts_of(step(x, y, 0.7, noise))
    assert apart(found, plain) < TIGHT
    assert apart(state_of(objective, optimizer), before) > 1e-6


def test_parameters_changed_from_outside_are_seen_by_the_next_step(no_compilation):
    objective = small()
    optimizer = make_optimizer("sgd", objective, 0.01)
    x, y = batch_for(objective.model.network)
    step = FusedStep(objective, optimizer, trace(objective, x, y))
    step(x, y, 1.0)
    move(objective, 0.5, seed=9)
    expected = parts_of(step.plain_terms(x, y, 1.0))
    assert apart(parts_of(step(x, y, 1.0, step.noise)), expected) < TIGHT


def test_an_optimizer_that_holds_a_part_of_the_parameters_leaves_the_others_alone(no_compilation):
    only = lambda groups: torch.optim.SGD(groups[:1], lr=0.01)  # noqa: E731
    found, expected = (run(small, only, compiled, clip=1e-2) for compiled in (True, None))
    assert found[2]._rule is not None and found[2]._others
    assert_alike(found, expected)
    start = small()
    assert torch.equal(found[0]["parameter model.network.0.bias"], trained(start)["model.network.0.bias"])


def test_many_fits_in_one_process_are_compiled_each(monkeypatch):
    """PyTorch gives up on a function after eight compilations (here two); a later fit must not meet that."""
    torch._dynamo.reset()

    def eager(function, fullgraph, dynamic, options):
        return COMPILE(function, fullgraph=fullgraph, backend="eager")

    monkeypatch.setattr(torch, "compile", eager)
    kept = []
    with torch._dynamo.config.patch(recompile_limit=2):
        for _ in range(4):
            objective = objective_of({"0.weight": Gaussian()}, "map", single())
            x, y = batch_for(objective.model.network)
            step = FusedStep(objective, make_optimizer("sgd", objective, 0.01), trace(objective, x, y))
            expected = parts_of(step.plain_terms(x, y, 1.0))
            assert apart(parts_of(step(x, y, 1.0, step.noise)), expected) < TIGHT
            kept.append(step)


# -- compiled -------------------------------------------------------------------------------------------------


def test_compiled_steps_are_those_of_the_plain_path():
    found = run(small, "adam", True, TURNS, clip=0.5)
    assert_alike(found, plain_small("adam", TURNS, 0.5))
    assert_apart(found, plain_small("adam", TURNS))  # the control: without the limit


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_compiled_steps_are_those_of_the_plain_path_by_every_optimizer(optimizer):
    make = lambda: objective_of(Gaussian(), "meanfield", mlp(norm=True))  # noqa: E731
    found, expected = (run(make, OPTIMIZERS[optimizer], compiled, TURNS) for compiled in (True, None))
    assert_alike(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_compiled_steps_are_those_of_the_plain_path_for(kind, optimizer):
    make = OBJECTIVES[kind]
    found, expected = (run(make, optimizer, compiled, TURNS) for compiled in (True, None))
    for name in [name for name in found[0] if " of " in name and "idle" in name]:
        assert not bool(found[0].pop(name).any())
    assert_alike(found, expected)
