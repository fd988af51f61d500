"""Optimizers: one factory for fits and fine-tuning, which differ in who learns faster alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.training.optimizers import make_optimizer, optimizer_for


def groups():
    return [{"name": name, "params": [nn.Parameter(torch.zeros(2))]} for name in ("location", "spread", "likelihood")]


def rates(optimizer):
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def test_in_a_fit_scales_and_the_likelihood_learn_ten_times_as_fast_by_adam_alone():
    bnn = bp.BayesianNetwork(nn.Linear(3, 1), {"weight": bp.Gaussian()}, bp.Normal(), data_size=5)
    objective = Objective(bnn, Guide(bnn))
    found = rates(make_optimizer("adam", objective, 1e-3))
    assert {"spread", "likelihood", "point estimates"} <= set(found)
    assert all(rate == (1e-2 if name in ("spread", "likelihood") else 1e-3) for name, rate in found.items())
    assert set(rates(make_optimizer("sgd", objective, 1e-3)).values()) == {1e-3}


def test_elsewhere_all_learn_alike_unless_said_otherwise():
    assert set(rates(optimizer_for(groups(), "adam", 1e-3)).values()) == {1e-3}
    assert rates(optimizer_for(groups(), "adam", 1e-3, {"spread": 3.0}))["spread"] == 3e-3  # control


def test_a_callable_gets_the_groups_as_they_are_and_no_rate():
    seen = []

    def made(given):
        seen.extend(sorted(group) for group in given)
        return torch.optim.SGD(given, lr=0.5)

    assert set(rates(optimizer_for(groups(), made, -1.0)).values()) == {0.5}
    assert seen == 3 * [["name", "params"]]


@pytest.mark.parametrize(
    ("choice", "rate", "said"),
    [
        ("adam", 0.0, "learning_rate must be positive, not 0.0"),
        ("lbfgs", 1.0, "optimizer 'lbfgs' is unknown: expected 'adam', 'sgd' or a callable of parameter groups"),
    ],
)
def test_a_wrong_choice_is_told(choice, rate, said):
    with pytest.raises(ValueError, match=said):
        optimizer_for(groups(), choice, rate)
