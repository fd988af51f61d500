"""Pruning step by step, with training between: the plain loop by another name, and a schedule of a fit."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.masks.update_plan import planned_updates
from bayesprune.inference.pruning.iterative import numbers_left
from bayesprune.inference.pruning.stalled import Stalled
from tests.inference.pruning.test_magnitude_classes import is_same, result_of

generator = torch.Generator().manual_seed(1)
Y = torch.arange(120) % 3
X = torch.randn(120, 6, generator=generator) + 1.2 * torch.eye(3, 6)[Y]
SGD = {"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.05), "schedule": "constant", "batch_size": 30}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))


def weights_of(result):
    return dict(result.network.state_dict())


def test_numbers_of_a_quarter_each_are_the_published_ones():
    steps = numbers_left(79_400, 1_400, 0.25)
    assert steps[:2] == (59_550, 44_662) and steps[-1] == 1_400 and len(steps) == 15
    assert [round(1.0 - left / 79_400, 2) for left in (steps[4], steps[5], steps[7])] == [0.76, 0.82, 0.90]
    assert numbers_left(10, 3, None, 4) == (6, 3) and numbers_left(5, 5, 0.5) == ()
    assert numbers_left(3, 1, 0.01) == (2, 1)  # one weight at least, or it would not end
    with pytest.raises(ValueError, match="more than 1000 steps"):
        numbers_left(5000, 1, None, 2)


@pytest.mark.parametrize("per", ["network", "layer", "distribution"])
@pytest.mark.parametrize("criterion", ["magnitude", "random", "optimal-brain-damage", "deletion"])
def test_it_is_the_loop_that_a_user_would_write(per, criterion):
    schedule = bp.IterativePruning(down_to=30, share=0.4, per=per, criterion=criterion)
    together = bp.finetune(result_of(network()), (X, Y), 2, pruning=schedule, seed=5, device="cpu", **SGD)
    result, left, number = result_of(network()), 180, 0
    while left > 30:
        goes = min(round(0.4 * left), left - 30)
        before = result
        result = bp.prune(result, count=goes, per=per, criterion=criterion, data=(X, Y), seed=5)
        assert all(not bool((mask & ~before.masks[name]).any()) for name, mask in result.masks.items())
        result = bp.finetune(result, (X, Y), 2, seed=5 + number, device="cpu", **SGD)
        left, number = left - goes, number + 1
    assert is_same(together, result) and together.report.nonzero == 30
    assert all(torch.equal(value, weights_of(result)[name]) for name, value in weights_of(together).items())
    assert together.report.finetuned == result.report.finetuned and together.report.finetuned.count("; then") == 3
    once = bp.finetune(bp.prune(result_of(network()), count=150, per=per), (X, Y), 2, device="cpu", **SGD)
    assert not is_same(once, together)  # the control: all at once


def test_tensors_that_are_not_named_are_trained_and_not_pruned():
    schedule = bp.IterativePruning(down_to=0.25, count=40, only="0.weight")
    result = bp.finetune(result_of(network()), (X, Y), 1, pruning=schedule, device="cpu", **SGD)
    assert int(result.masks["0.weight"].sum()) == 30 and bool(result.masks["2.weight"].all())
    assert not torch.equal(result.network[2].weight, network()[2].weight)


def test_training_ends_when_validation_stops_to_gain():
    """A first run is watched epoch by epoch; the second has to end where the first tells it to."""
    result = bp.prune(result_of(network()), sparsity=0.5)
    held_out = X[::2] + 1.0, Y[::2]

    def accuracy(given):
        return float((given.network(held_out[0]).argmax(1) == held_out[1]).double().mean())

    how = {"device": "cpu", "validation": held_out, "seed": 3} | SGD
    scores = [accuracy(result)] + [accuracy(bp.finetune(result, (X, Y), n, **how)) for n in range(1, 13)]
    for patience, gain in ((1, 0.0), (2, 0.0), (1, 0.05), (3, 0.1)):
        best, waited, epochs = scores[0], 0, 0
        for epochs in range(1, 13):
            better = scores[epochs] > best and scores[epochs] - best >= gain
            best, waited = (scores[epochs], 0) if better else (best, waited + 1)
            if waited == patience:
                break
        tuned = bp.finetune(result, (X, Y), 12, patience=patience, min_gain=gain, **how)
        assert tuned.report.finetuned.startswith(f"{epochs} epoch")
        assert accuracy(tuned) == scores[epochs]
    lengths = [
        int(re.match(r"\d+", bp.finetune(result, (X, Y), 12, patience=n, **how).report.finetuned)[0]) for n in (1, 5)
    ]
    assert lengths[0] < lengths[1] <= 12


def test_an_nll_that_falls_is_a_gain_where_there_is_no_accuracy():
    stalled = Stalled(2, 0.1, {"nll": 1.0, "rmse": 3.0})
    assert [stalled.is_over({"nll": nll}) for nll in (0.85, 0.80, 0.74, 0.7, 0.7)] == [False] * 4 + [True]
    exact = Stalled(1, 0.0, {"nll": 1.0, "accuracy": 0.5})
    assert not exact.is_over({"nll": 2.0, "accuracy": 0.6}) and exact.is_over({"nll": 0.1, "accuracy": 0.6})


def test_the_random_state_and_the_result_are_left_as_they_were():
    result = result_of(network())
    torch.manual_seed(7)
    before = torch.get_rng_state()
    schedule = bp.IterativePruning(0.2, criterion="random")
    bp.finetune(result, (X, Y), 1, pruning=schedule, patience=1, validation=(X, Y), device="cpu", **SGD)
    assert torch.equal(torch.get_rng_state(), before) and bool(result.masks["0.weight"].all())


def test_a_schedule_takes_the_same_share_in_each_step():
    schedule = bp.IteratedDensity(steps=8, begins=0.1, ends=0.8)
    final = 0.75**8
    densities = [schedule.at(mark, final) for mark in schedule.marks]
    assert densities == pytest.approx([0.75**step for step in range(1, 9)], rel=1e-12) and densities[-1] == final
    assert schedule.at(0.0999, final) == 1.0 and schedule.at(1.0, final) == final
    assert schedule.marks == pytest.approx([0.1 * step for step in range(1, 9)])
    number = bp.IteratedDensity(steps=4, goes="number")
    assert [number.at(mark, 0.2) for mark in number.marks] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert bp.IteratedDensity(start=0.3).at(0.0, 0.5) == 0.5
    assert list(planned_updates(schedule, 1000, 100, until=0.0)) == [round(1000 * mark) for mark in schedule.marks]
    assert len(planned_updates(schedule, 1000, 100, until=1.0)) > 8  # the control: where weights are exchanged


class Watched(bp.Callback):
    def __init__(self):
        self.counts = []

    def on_step(self, state):
        masks = next(way for way in state.objective.model.ways if isinstance(way, bp.Masks))
        found = {name: mask.clone() for name, mask in masks.masks.items()}
        self.counts.append(found)


@pytest.mark.parametrize("across", ["network", "layer", "distribution"])
def test_a_fit_prunes_step_by_step_and_ends_with_exactly_as_many(across):
    made = bp.recipe("iterative-magnitude", density=18, layout="uniform", across=across, steps=5, goes="share")
    watched = Watched()
    how = {"steps": 60, "batch_size": 30, "device": "cpu", "execution": "plain", "callbacks": [watched]}
    fit = bp.fit(made.model(network(), data_size=120), (X, Y), rules=made.rules, **how)
    counts = [sum(int(mask.sum()) for mask in masks.values()) for masks in watched.counts]
    assert len(set(counts)) == 6 and counts[0] == 180 and counts[-1] == 18 and bp.prune(fit).report.nonzero == 18
    falls = [step for step, (a, b) in enumerate(zip(counts, counts[1:], strict=False)) if b < a]
    levels = [180, *(counts[step + 1] for step in falls)]
    share = 1.0 - 0.1 ** (1 / 5)
    assert levels == [round(180 * (1.0 - share) ** step) for step in range(6)]
    for before, after in zip(watched.counts, watched.counts[1:], strict=False):
        assert all(not bool((after[name] & ~before[name]).any()) for name in after)  # nested
    by_layer = {name: int(mask.sum()) for name, mask in watched.counts[-1].items()}
    assert (by_layer == {"0.weight": 12, "2.weight": 6}) is (across == "layer")
    (told,) = fit.settings["masks"]
    assert told["updates"] == 5 and told["reached_count"] == 18


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: bp.IterativePruning(0.0), "down_to"),
        (lambda: bp.IterativePruning(1.5), "down_to"),
        (lambda: bp.IterativePruning(0.1, share=1.0), r"fraction of the weights left that goes in a step, in \(0, 1\)"),
        (lambda: bp.IterativePruning(0.1, share=0.5, count=3), "takes one of share= and count="),
        (lambda: bp.IterativePruning(0.1, count=0), "count= is the number of weights that go"),
        (lambda: bp.IterativePruning(0.1, per="unit"), "per= takes"),
        (lambda: bp.IterativePruning(0.1, share="a"), "share of IterativePruning"),
        (lambda: tuned(pruning=bp.IterativePruning(1.0)), "there is nothing to prune down to"),
        (lambda: tuned(pruning=bp.IterativePruning(500)), "leaves 500 weights, but 180 of 180 are left now"),
        (lambda: tuned(pruning=bp.IterativePruning(0.001)), "leaves 0 weights"),
        (lambda: tuned(pruning=0.5), r"pruning= takes IterativePruning\(...\)"),
        (lambda: tuned(pruning=bp.IterativePruning(0.5, only="x")), "only='x' matches no tensor"),
        (lambda: tuned(pruning=bp.IterativePruning(0.5, criterion="inclusion")), "none of a network that is pruned"),
        (lambda: tuned(patience=1), "patience= waits for validation scores"),
        (lambda: tuned(patience=0, validation=(X, Y)), "patience must be at least 1"),
        (lambda: tuned(min_gain=0.1), "min_gain= is a gain of validation scores"),
        (lambda: tuned(patience=1, validation=(X, Y), min_gain=-0.1), "min_gain= is a gain"),
        (lambda: tuned(patience=1, validation=(X, Y), min_gain=math.nan), "min_gain"),
        (lambda: bp.IteratedDensity(0), "whole number of steps, from 1 to 1000, not 0"),
        (lambda: bp.IteratedDensity(begins=0.8, ends=0.3), "0 < begins < ends <= 1"),
        (lambda: bp.IteratedDensity(goes="half"), "takes share or number, not 'half'"),
        (lambda: bp.DynamicMasks(0.1, across="class"), "takes 'layer', 'network' or 'distribution', not 'class'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(call, says):
    with pytest.raises(ValueError, match=says) as told:
        call()
    assert "\n" not in str(told.value)


def tuned(**how):
    return bp.finetune(result_of(network()), (X, Y), 1, device="cpu", **how)


@pytest.mark.slow
def test_blind_pruning_keeps_more_of_digits_than_uniform_before_retraining():
    """As published on MNIST (96.7 against 79.5 % at 80 %, 93.2 against 50.0 % at 90 %), in the same order."""
    splits = bp.load_data("digits", seed=0)
    apart = {0.8: [], 0.9: []}
    for seed in range(3):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
        model = bp.BayesianNetwork(net, {"*.weight": bp.Gaussian(10.0)}, data_size=len(splits.train[0]))
        fit = bp.fit(
            model, splits.train, "map", epochs=60, batch_size=32, seed=seed, device="cpu", schedule="constant",
            optimizer=lambda groups: torch.optim.SGD(groups, lr=0.05),
        )  # fmt: skip
        x, y = splits.test
        for sparsity, found in apart.items():
            accuracy = [
                float((bp.prune(fit, sparsity=sparsity, per=per).network(x).argmax(1) == y).double().mean())
                for per in ("network", "layer")
            ]
            found.append(accuracy[0] - accuracy[1])
    assert all(sum(found) / len(found) > 0.0 for found in apart.values()), apart
