"""Where further restarts start: gates elsewhere, and every second one of a regression without fading in."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.defaults.kl_weight import FADE_IN, default_kl_warmup
from bayesprune.inference.guides.guide import GATE_START_SD, HIDDEN_GATE_START_SD, Guide


def regression(width=1, hidden=False, prior=None):
    layers = [nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, width)] if hidden else [nn.Linear(6, width)]
    return bp.BayesianNetwork(nn.Sequential(*layers), {"*.weight": prior or bp.SpikeAndSlab()}, bp.Normal(1.0), 20)


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 6, generator=generator), torch.randn(20, generator=generator)


class Starts(bp.Callback):
    """Keeps log odds at the start, and the KL weight of the first step."""

    def __init__(self):
        self.odds, self.first = [], []

    def on_fit_start(self, state):
        self.odds.append(torch.cat([o.flatten() for o in state.objective.guide.log_odds().values()]).clone())

    def on_step(self, state):
        if state.step == 1:
            self.first.append(state.kl_weight)


def starts_of(model, **options):
    watcher = Starts()
    bp.fit(model, data(), steps=4, callbacks=[watcher], device="cpu", **options)
    return watcher


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("guide", ["paired", "meanfield"])
def test_gates_of_further_restarts_start_elsewhere_and_the_first_where_declared(hidden, guide):
    odds = starts_of(regression(hidden=hidden), restarts=3, guide=guide).odds
    declared = torch.tensor(0.9).logit()
    assert torch.allclose(odds[0], declared.expand_as(odds[0]))
    for one in odds[1:]:
        assert (one - declared).abs().min() > 0
    assert not torch.equal(odds[1], odds[2])


@pytest.mark.parametrize(("hidden", "sd"), [(False, GATE_START_SD), (True, HIDDEN_GATE_START_SD)])
def test_they_move_by_a_normal_of_the_stated_sd(hidden, sd):
    guide = Guide(regression(width=4000, hidden=hidden))
    torch.manual_seed(0)
    before = copy.deepcopy(guide.log_odds())
    guide.vary_gates()
    moved = torch.cat([(guide.log_odds()[name] - value).flatten() for name, value in before.items()])
    assert float(moved.std()) == pytest.approx(sd, rel=0.03)
    assert abs(float(moved.mean())) < 0.05


def test_a_guide_without_gates_takes_no_random_numbers():
    guide = Guide(regression(prior=bp.Gaussian()))
    torch.manual_seed(1)
    guide.vary_gates()
    first = torch.randn(3)
    torch.manual_seed(1)
    assert torch.equal(first, torch.randn(3))


def test_every_second_restart_of_a_regression_with_gates_has_no_fade_in():
    assert starts_of(regression(), restarts=4, kl_weight=1.0).first == [0.0, 1.0, 0.0, 1.0]
    assert starts_of(regression(), restarts=2, kl_weight=1.0, kl_warmup=0.5).first == [0.0, 0.0]  # as was asked for
    assert starts_of(regression(hidden=True), restarts=2, kl_weight=1.0).first == [0.0, 0.0]
    model = regression(prior=bp.Gaussian())
    assert [default_kl_warmup(model, Guide(model), number) for number in range(2)] == [FADE_IN, FADE_IN]


def test_a_warm_start_is_not_moved():
    first = bp.fit(regression(), data(), steps=4, restarts=2, device="cpu")
    odds = starts_of(regression(), restarts=2, start=first).odds
    for restart, one in zip(first.restarts, odds, strict=True):
        assert torch.equal(torch.cat([o.flatten() for o in restart.guide.log_odds().values()]), one)
