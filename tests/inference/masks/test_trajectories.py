"""Whole runs of SET, RigL, RigL-ITOP, GraNet and gradual magnitude are those of a loop written from the papers."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from bayesprune.inference.masks.density_schedules import CubicDensity, CyclicDensity
from bayesprune.models.costs.layer_budgets import LayerBudget
from tests.inference.masks.watched_training import DECAY, RATE, STEPS, dynamic, ended, fitted, loss_of, network
from tests.oracles.sparse_training import MISTAKES, Method, train

WHOLE = 7 * 14 + 14 * 10 + 10 * 3
FINAL = round(0.3 * WHOLE)
GRADUAL = {"schedule": CubicDensity(1.0, 0.0, 0.5), "across": "network", "every": 10}
SHAPES = {"0.weight": (14, 7), "2.weight": (10, 14), "4.weight": (3, 10)}


def in_cycles():
    """Counts of two cosine cycles of forty steps, from a tenth to three tenths and back, every five steps."""
    found, whole = {}, sum(a * b for a, b in SHAPES.values())
    for step in range(5, 81, 5):
        up = 0.5 * (1.0 - math.cos(2.0 * math.pi * (step % 40) / 40))
        total = round(round(0.1 * whole) / whole * (1.0 + 2.0 * up) * whole)
        budget = LayerBudget.erk(SHAPES, total)
        found[step] = {layer.tensor: layer.left for layer in budget.layers}
    return found


METHODS = {
    "cycles": (dynamic(0.1, every=10, schedule=CyclicDensity()), Method(10, share=0.3, until=0.75, wanted=in_cycles())),
    "rigl": (dynamic(every=10), Method(10, share=0.3, until=0.75)),
    "itop": (
        dynamic(every=25, share=0.5, last_share=0.005, until=1.0),
        Method(25, share=0.5, last_share=0.005, until=1.0),
    ),
    "set": (dynamic(every=10, grow="random"), Method(10, "random", share=0.3, until=0.75)),
    "gradual magnitude": (dynamic(grow=None, share=0.0, **GRADUAL), Method(10, "", start=1.0, final=FINAL)),
    "granet": (dynamic(share=0.4, **GRADUAL), Method(10, share=0.4, until=0.75, start=1.0, final=FINAL)),
}


@functools.cache
def run_of(name, execution):
    seen = {}
    return fitted(METHODS[name][0], seen, execution=execution), seen


def repeated(name, execution, mistake=""):
    method = METHODS[name][1]
    method.mistake = mistake
    seen = run_of(name, execution)[1]
    values = {key: value.detach() for key, value in network().named_parameters()}
    found = train(loss_of(seen["batches"]), values, seen["start"], method, STEPS, RATE, DECAY, seen["random"])
    method.mistake = ""
    return found


def distance(fit, found):
    return max(float((value - found.values[key]).abs().max()) for key, value in ended(fit).items())


@pytest.mark.parametrize("execution", ["plain", "fused"])
@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_that_of_the_loop(name, execution):
    fit, seen = run_of(name, execution)
    found = repeated(name, execution)
    assert {step: seen["masks"][step] for step in found.history if step < STEPS} == {
        step: places for step, places in found.history.items() if step < STEPS
    }
    assert distance(fit, found) < 1e-11
    assert len(found.history) == fit.settings["masks"][0]["updates"] >= 6
    assert (
        sum(map(len, found.places.values()))
        == (27 if name == "cycles" else FINAL)
        == fit.settings["masks"][0]["reached_count"]
    )
    report = fit.settings["execution"]
    assert report["name"] == execution and (report["fused_steps"] > 150) == (execution == "fused")


@pytest.mark.parametrize("mistake", MISTAKES[1:])
def test_a_loop_that_is_nearly_right_ends_elsewhere(mistake):
    fit, seen = run_of("rigl", "plain")
    found = repeated("rigl", "plain", mistake)
    assert distance(fit, found) > 1e-3
    assert distance(fit, repeated("rigl", "plain")) < 1e-11


@pytest.mark.parametrize("name", METHODS)
def test_what_is_out_is_zero_after_every_step_with_its_momentum(name):
    _, seen = run_of(name, "plain")
    moved = [step for step in range(1, STEPS) if seen["masks"][step] != seen["masks"][step - 1]]
    assert len(moved) >= 5
    assert all(found == [0.0, 0.0] for found in seen["out"].values())


@pytest.mark.parametrize("execution", ["plain", "fused"])
def test_so_it_is_under_adam(execution):
    seen = {}
    fit = fitted(dynamic(every=10), seen, execution=execution, optimizer="adam", learning_rate=1e-2, schedule="cosine")
    assert fit.settings["optimizer"] == "adam"
    if execution == "plain":
        assert all(found == [0.0, 0.0] for found in seen["out"].values())
    assert fit.settings["masks"][0]["exchanged"] > 0


def test_both_executions_of_adam_agree():
    how = {"optimizer": "adam", "learning_rate": 1e-2, "schedule": "cosine"}
    one, other = (ended(fitted(dynamic(every=10), execution=execution, **how)) for execution in ("plain", "fused"))
    assert all(torch.allclose(one[name], other[name], rtol=0.0, atol=1e-9) for name in one)


def test_a_weight_that_comes_begins_at_zero_without_momentum():
    seen = {}
    fitted(dynamic(every=10), seen)
    assert len(seen["came"]) >= 10
    assert all(found == [0.0, 0.0] for found in seen["came"].values())
