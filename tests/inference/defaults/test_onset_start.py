"""When sleeping thresholds wake up, and from where they have to start, beside a simulation and the closed form."""

from __future__ import annotations

import math
from itertools import accumulate
from pathlib import Path

import pytest
import torch

import bayesprune as bp
from bayesprune.inference.rules.threshold_forecast import WAKES, decayed, start_that_wakes, wakes_at
from tests.oracles.str_reference import published_rate

IMAGENET, CIFAR = 5005, 196
"""Steps an epoch, in batches of 256."""
A_THOUSANDTH = math.log(1e-3 / (1.0 - 1e-3))


def rates(per_epoch, epochs=100):
    return [published_rate(epoch, epochs, 0.256) for epoch in range(epochs) for _ in range(per_epoch)]


@pytest.mark.parametrize(
    ("start", "decay", "epoch"),
    [(-3200.0, 2.25e-5, 30), (-12800.0, 3.75e-5, 22), (-100.0, 3.05e-5, 11), (-3200.0, 3.05e-5, 23)],
)
def test_thresholds_reach_a_thousandth_in_the_epoch_of_the_known_simulation(start, decay, epoch):
    step = wakes_at(start, decay, rates(IMAGENET), 0.875, A_THOUSANDTH)
    assert math.ceil(step / IMAGENET) == epoch
    # By the closed form, in which momentum acts at once.
    left = math.log(start / A_THOUSANDTH) * 0.125 / decay
    closed = next(number for number, summed in enumerate(accumulate(rates(IMAGENET)), 1) if summed >= left)
    assert abs(closed - step) < 0.02 * IMAGENET
    # Control: without momentum they sleep eight times as long, here to the end and beyond.
    later = wakes_at(start, decay, rates(IMAGENET), 0.0, A_THOUSANDTH)
    assert later is None or later > 2 * step


def test_the_authors_imagenet_constants_never_wake_up_on_cifar():
    path = decayed(-3200.0, 2.251757813e-5, rates(CIFAR), 0.875)
    assert path[-1] == pytest.approx(-2018.0, abs=0.5)
    assert wakes_at(-3200.0, 2.251757813e-5, rates(CIFAR), 0.875) is None
    assert len(path) == 100 * CIFAR
    with pytest.raises(ValueError, match="is too weak for 19,600 steps.*for which it takes") as refused:
        bp.onset_start(2.251757813e-5, steps=100 * CIFAR)
    enough = float(str(refused.value).split("takes ")[1].split(",")[0])
    start = bp.onset_start(enough, steps=100 * CIFAR)
    assert -8.0 > start > -16.0 and decayed(start, enough, rates(CIFAR), 0.875)[-1] > math.log(0.01 / 0.99)


def test_decay_is_what_torch_s_sgd_does_to_a_number():
    s = torch.nn.Parameter(torch.tensor(-50.0, dtype=torch.float64))
    optimizer = torch.optim.SGD([s], lr=1.0, momentum=0.8, weight_decay=0.02)
    varied = [0.1 + 0.05 * math.sin(step) for step in range(40)]
    expected = []
    for rate in varied:
        optimizer.param_groups[0]["lr"] = rate
        s.grad = torch.zeros_like(s)
        optimizer.step()
        expected.append(float(s.detach()))
    assert decayed(-50.0, 0.02, varied, 0.8) == pytest.approx(expected, rel=1e-13)
    assert decayed(-50.0, 0.02, varied, 0.7) != pytest.approx(expected, rel=1e-3)
    assert wakes_at(-50.0, 0.02, varied, 0.8, expected[17]) == 18
    assert wakes_at(-3.0, 0.02, varied, 0.8) == 0


@pytest.mark.parametrize("share", [0.25, 0.4])
@pytest.mark.parametrize("how", [{}, {"schedule": "cosine", "momentum": 0.9, "learning_rate": 0.1}])
def test_from_the_start_that_is_given_thresholds_wake_up_at_that_share(share, how):
    steps, decay = 100 * CIFAR, 5e-4
    start = bp.onset_start(decay, steps, share=share, **how)
    if how:
        there = [0.05 * (1.0 + math.cos(math.pi * step / steps)) for step in range(steps)]
    else:
        there = rates(CIFAR)
    assert wakes_at(start, decay, there, how.get("momentum", 0.875), WAKES * (1.0 + 1e-12)) == share * steps
    assert wakes_at(1.01 * start, decay, there, how.get("momentum", 0.875)) > share * steps  # the control


def test_the_authors_start_is_that_of_their_own_onset():
    decay, steps = 2.251757813e-5, 100 * IMAGENET
    onset = wakes_at(-3200.0, decay, rates(IMAGENET), 0.875)
    assert bp.onset_start(decay, steps, share=onset / steps) == pytest.approx(-3200.0, rel=1e-4)
    summed = sum(rates(IMAGENET)[: steps // 4])  # by the closed form
    assert bp.onset_start(decay, steps) == pytest.approx(-8.0 * math.exp(decay / 0.125 * summed), rel=0.01)


def test_a_decay_that_takes_any_start_at_once_has_no_start():
    assert start_that_wakes(0.5, [1.0] * 40, 0.9) is None  # it overshoots zero
    assert start_that_wakes(0.1, [], 0.9) == WAKES
    with pytest.raises(ValueError, match="wake up before 0.25 of 10,000 steps wherever they start"):
        bp.onset_start(0.5, steps=10_000)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weight_decay": 0.0}, "positive weight_decay and learning_rate.*not 0, "),
        ({"weight_decay": -1.0}, "positive weight_decay"),
        ({"weight_decay": math.nan}, "weight_decay must be a finite number"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": 10.5}, "steps must be a whole number"),
        ({"share": 0.0}, "a share in \\(0, 1\\)"),
        ({"share": 1.0}, "a share in \\(0, 1\\)"),
        ({"momentum": 1.0}, "a momentum in \\[0, 1\\)"),
        ({"learning_rate": "fast"}, "learning_rate must be a finite number"),
        ({"schedule": "linear"}, "schedule 'linear' is unknown"),
    ],
)
def test_bad_numbers_are_refused_in_a_sentence(wrong, message):
    with pytest.raises(ValueError, match=message):
        bp.onset_start(**{"weight_decay": 5e-4, "steps": 1000, **wrong})


def rows_of_the_page():
    text = (Path(__file__).parents[3] / "docs" / "priors" / "soft-threshold.md").read_text(encoding="utf-8")
    table = text.split("| fit | steps |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


@pytest.mark.parametrize("row", rows_of_the_page(), ids=lambda row: f"{row[0]} {row[2]} {row[3]}")
def test_the_table_of_the_page_is_what_the_formula_says(row):
    steps, decay, start = int(row[1].replace(",", "")), float(row[2]), float(row[3])
    epochs = int(row[0].split(",")[1].split()[0])
    decay = {2.25e-5: 2.251757813e-5, 3.75e-5: 3.751757813e-5}.get(decay, decay)  # as the authors' settings have them
    warm = min(5, epochs // 4)
    there = [published_rate(epoch, epochs, 0.256, warm) for epoch in range(epochs) for _ in range(steps // epochs)]
    assert len(there) == steps
    step = wakes_at(start, decay, there, 0.875)
    if step is None:
        assert row[4] == f"never: s ends at {decayed(start, decay, there, 0.875)[-1]:.0f}"
    else:
        assert row[4] == str(math.ceil(step * epochs / steps))
    if row[5].startswith("refused"):
        takes = row[5].split("takes ")[1]
        with pytest.raises(ValueError, match="for which it takes") as refused:
            bp.onset_start(decay, steps, epochs=epochs)
        assert float(str(refused.value).split("takes ")[1].split(",")[0]) == float(takes)
    else:
        assert bp.onset_start(decay, steps, epochs=epochs) == pytest.approx(float(row[5]), rel=5e-3)
