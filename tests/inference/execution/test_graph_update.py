"""Optimizer steps in the graph: those of torch.optim on the same gradients, with the state in the optimizer's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from bayesprune.inference.execution.graph_update import (
    NUMBERS_PER_GROUP,
    Rule,
    fixed_of,
    numbers_of,
    prepare_state,
    rule_of,
    write_step,
)
from tests.oracles.plain_path import distance

TIGHT = 1e-13
STEPS = 7
OPTIMIZERS = {
    "adam": lambda groups: Adam(groups, lr=0.01),
    "adam, fused": lambda groups: Adam(groups, lr=0.01, fused=True),
    "adam, other constants": lambda groups: Adam(groups, lr=0.01, betas=(0.7, 0.95), eps=1e-3),
    "sgd": lambda groups: SGD(groups, lr=0.1),
    "sgd, fused, momentum": lambda groups: SGD(groups, lr=0.1, momentum=0.9, fused=True),
}
UNKNOWN = {
    "weight decay": lambda groups: Adam(groups, weight_decay=0.1),
    "weight decay in one group": lambda groups: Adam([{**groups[0], "weight_decay": 0.1}, groups[1]]),
    "AMSGrad": lambda groups: Adam(groups, amsgrad=True),
    "maximize": lambda groups: SGD(groups, maximize=True),
    "Nesterov": lambda groups: SGD(groups, momentum=0.9, nesterov=True),
    "dampening": lambda groups: SGD(groups, momentum=0.9, dampening=0.1),
    "SGD with weight decay": lambda groups: SGD(groups, weight_decay=0.1),
    "momentum in one group": lambda groups: SGD([{**groups[0], "momentum": 0.9}, {**groups[1], "momentum": 0.0}]),
    "a rate that is a tensor": lambda groups: Adam(groups, lr=torch.tensor(0.1)),
    "a step to differentiate": lambda groups: Adam(groups, differentiable=True),
    "AdamW": torch.optim.AdamW,
    "RMSprop": torch.optim.RMSprop,
    "Rprop, which has no weight decay": torch.optim.Rprop,
    "LBFGS, whose groups hold other things": lambda groups: torch.optim.LBFGS(
        [parameter for group in groups for parameter in group["params"]]
    ),
    "an optimizer of one's own": lambda groups: Own(groups),
    "a subclass of Adam": lambda groups: SubAdam(groups),
}


class Own(torch.optim.Optimizer):
    def __init__(self, groups):
        super().__init__(groups, {"lr": 0.1})


class SubAdam(Adam):
    pass


def parameters():
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((3, 2), (4,), ())]


def groups_of(ones):
    return [{"params": ones[:2]}, {"params": ones[2:], "lr": 0.3}]


def gradients(step):
    torch.manual_seed(100 + step)
    return [torch.randn(shape, dtype=torch.float64) for shape in ((3, 2), (4,), ())]


def take(optimizer, ones, step):
    """A step of the optimizer's own."""
    for parameter, gradient in zip(ones, gradients(step), strict=True):
        parameter.grad = gradient
    optimizer.step()


def take_by_rule(rule, optimizer, ones, step, count):
    """The same by the rule, as step number `count`."""
    numbers = {}
    for group in optimizer.param_groups:
        found = torch.tensor(numbers_of(rule, group, count), dtype=torch.float64)
        assert len(found) == NUMBERS_PER_GROUP
        numbers |= {id(parameter): (found, fixed_of(rule, group)) for parameter in group["params"]}
    for parameter, gradient in zip(ones, gradients(step), strict=True):
        states = [optimizer.state[parameter][name] for name in rule.states]
        rule.apply(parameter.detach(), gradient, states, *numbers[id(parameter)])


def all_numbers(optimizer, ones):
    found = {f"parameter {place}": one.detach() for place, one in enumerate(ones)}
    for place, one in enumerate(ones):
        found |= {f"{name} {place}": torch.as_tensor(value) for name, value in optimizer.state[one].items()}
    return found


def apart(ones, others):
    assert ones.keys() == others.keys()
    return max(distance(ones[name], others[name]) for name in ones)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("turns", ["rule alone", "by turns", "optimizer first"])
def test_the_rule_takes_the_optimizers_steps_with_its_state(name, turns):
    theirs, ours = parameters(), parameters()
    reference, optimizer = OPTIMIZERS[name](groups_of(theirs)), OPTIMIZERS[name](groups_of(ours))
    rule = rule_of(optimizer)
    for step in range(STEPS):
        for each in (reference, optimizer):
            each.param_groups[0]["lr"] = 0.05 / (1 + step)  # schedules change it
        take(reference, theirs, step)
        by_rule = {"rule alone": True, "by turns": step % 3 != 1, "optimizer first": step >= 3}[turns]
        if by_rule:
            count = prepare_state(rule, optimizer, ours)
            assert count == (step if rule.is_adam else 0)
            take_by_rule(rule, optimizer, ours, step, count + 1)
            write_step(rule, optimizer, ours, count + 1)
        else:
            take(optimizer, ours, step)
        assert apart(all_numbers(optimizer, ours), all_numbers(reference, theirs)) < TIGHT


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_another_gradient_rate_or_count_of_steps_is_seen(name):
    theirs, ours = parameters(), parameters()
    reference, optimizer = OPTIMIZERS[name](groups_of(theirs)), OPTIMIZERS[name](groups_of(ours))
    rule = rule_of(optimizer)
    take(reference, theirs, 0)
    saved = copy.deepcopy(ours)

    def seen(step=0, count=1, factor=1.0):
        with torch.no_grad():
            for one, before in zip(ours, saved, strict=True):
                one.copy_(before)
        optimizer.state.clear()
        prepare_state(rule, optimizer, ours)
        for group in optimizer.param_groups:
            group["lr"] *= factor
        take_by_rule(rule, optimizer, ours, step, count)
        for group in optimizer.param_groups:
            group["lr"] /= factor
        return max(distance(one.detach(), other.detach()) for one, other in zip(ours, theirs, strict=True))

    assert seen() < TIGHT
    assert seen(step=1) > 1e-4
    assert seen(factor=1.001) > 1e-7
    assert (seen(count=2) > 1e-7) == rule.is_adam  # SGD does not count


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_rules_of_adam_and_sgd_are_known(name):
    rule = rule_of(OPTIMIZERS[name](groups_of(parameters())))
    expected = ("exp_avg", "exp_avg_sq") if "adam" in name else ("momentum_buffer",) if "momentum" in name else ()
    assert rule == Rule(expected, is_adam="adam" in name)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_written_here_has_no_rule(name):
    assert rule_of(UNKNOWN[name](groups_of(parameters()))) is None


def test_parameters_that_have_taken_different_numbers_of_steps_have_no_common_count():
    ones = parameters()
    optimizer = Adam(groups_of(ones))
    rule = rule_of(optimizer)
    take(optimizer, ones, 0)
    assert prepare_state(rule, optimizer, ones) == 1
    ones[0].grad = None
    optimizer.step()
    assert prepare_state(rule, optimizer, ones) is None
    assert prepare_state(rule, optimizer, ones[1:]) == 2


def test_the_state_that_is_prepared_is_that_of_a_first_step_and_of_these_parameters_only():
    ones = parameters()
    optimizer = Adam(groups_of(ones), fused=True)
    assert prepare_state(rule_of(optimizer), optimizer, ones[:2]) == 0
    assert set(optimizer.state) == set(ones[:2])
    other = parameters()
    reference = Adam(groups_of(other), fused=True)
    take(reference, other, 0)
    for one, theirs in zip(ones[:2], other, strict=False):
        made, expected = optimizer.state[one], reference.state[theirs]
        assert made.keys() == expected.keys()
        assert all(made[name].dtype == expected[name].dtype for name in made)
        assert all(made[name].shape == expected[name].shape for name in made)
