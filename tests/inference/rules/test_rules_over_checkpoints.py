"""Gates of units and the average of iterates together: killed in the middle, and resumed bit for bit."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.rules.iterate_average import ActiveAverage
from bayesprune.inference.training import checkpoint as checkpoints
from bayesprune.inference.watching.callbacks import Callback

pytestmark = pytest.mark.filterwarnings(
    "ignore:all units of:UserWarning", "ignore:the noise of theta's gradient:UserWarning"
)

SIZE = 60
GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(SIZE, 6, generator=GENERATOR)
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long()
STEPS = 56


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """States are written after every epoch, whatever it costs."""
    monkeypatch.setattr(checkpoints, "SHARE", 1.0)
    monkeypatch.setattr(checkpoints, "LEAST", 0.0)


class Iterates(Callback):
    """What is averaged, in float64, after each step; and at the end."""

    is_resumable = True

    def __init__(self, interrupt_at=None):
        self.seen, self.end, self.interrupt_at = {}, None, interrupt_at

    def on_step(self, state):
        self.seen[state.step] = self.averaged(state)
        if state.step == self.interrupt_at:
            raise KeyboardInterrupt

    def on_fit_end(self, state):
        self.end = self.averaged(state)

    def averaged(self, state):
        learned = [p for p in state.objective.parameters() if p.requires_grad]
        statistics = [b for name, b in state.objective.model.network.named_buffers() if name.endswith(("mean", "var"))]
        return [tensor.detach().double().clone() for tensor in (*learned, *statistics)]


def rules(start=0.2, **gating):
    return [bp.Gating(**{"travel": 0.5, "delay": 0.0, **gating}), bp.IterateAverage(start)]


def fitted(*given, **more):
    torch.manual_seed(3)
    layers = nn.Sequential(
        nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 2)
    )
    bnn = bp.BayesianNetwork(layers, {}, None, SIZE, bp.UnitGates(kappa=0.003, weight_scale=0.3), X[:1])
    how = {"steps": STEPS, "batch_size": 16, "learning_rate": 2e-2, "device": "cpu", "precision": "float64"}
    return bp.fit(bnn, (X, Y), rules=list(given) or rules(), **{**how, **more})


def tensors(fit):
    parts = (fit.model, fit.guide)
    return {(number, name): t for number, part in enumerate(parts) for name, t in part.state_dict().items()}


def is_same(one, other):
    mine, theirs = tensors(one), tensors(other)
    timed = dict.fromkeys(("seconds", "execution", "resumed_at_epoch"))
    return (
        mine.keys() == theirs.keys()
        and all(torch.equal(value, theirs[key]) for key, value in mine.items())
        and one.model.plan == other.model.plan
        and one.guide.notes == other.guide.notes
        and one.trace.drop_vars("seconds").identical(other.trace.drop_vars("seconds"))
        and {**one.settings, **timed} == {**other.settings, **timed}
    )


def removals(fit):
    return [one["step"] for one in fit.settings["gating"][0]["removals"]]


def distance(a, b):
    return max(float((p - q).abs().max()) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("at", [19, 34, 50])
def test_a_fit_with_both_that_was_killed_ends_as_one_that_was_not(at, tmp_path):
    """Four steps an epoch; averaging has begun, units leave before and after, and begin it anew."""
    whole = fitted()
    assert 12 < STEPS * 0.2 + 4 < at and min(removals(whole)) < at
    with pytest.raises(KeyboardInterrupt):
        fitted(callbacks=[Iterates(at)], checkpoint=tmp_path / "fit")
    resumed = fitted(checkpoint=tmp_path / "fit")
    assert resumed.settings["resumed_at_epoch"] == at // 4 + 1
    assert is_same(resumed, whole)
    assert is_same(fitted(checkpoint=tmp_path / "fit"), whole)  # a finished one is not averaged again
    assert not is_same(fitted(seed=1), whole)  # control


@pytest.mark.parametrize("at", [19, 34, 50])
def test_so_does_one_with_a_budget_too(at, tmp_path):
    given = [*rules(), bp.Budget(parameters=0.4, every=2, ramp=(0.1, 0.9))]
    whole = fitted(*given)
    with pytest.raises(KeyboardInterrupt):
        fitted(*given, callbacks=[Iterates(at)], checkpoint=tmp_path / "fit")
    resumed = fitted(*given, checkpoint=tmp_path / "fit")
    assert resumed.settings["resumed_at_epoch"] == at // 4 + 1
    assert is_same(resumed, whole)
    assert is_same(fitted(*given, checkpoint=tmp_path / "fit"), whole)
    knobs = whole.settings["budget"][0]["knobs"]
    assert all(one["end"] != one["start"] for one in knobs.values())
    assert not is_same(fitted(), whole)  # control: without the budget it is another fit


def test_what_is_kept_of_the_average_is_needed(tmp_path, monkeypatch):
    whole = fitted()
    with pytest.raises(KeyboardInterrupt):
        fitted(callbacks=[Iterates(50)], checkpoint=tmp_path / "fit")
    monkeypatch.setattr(ActiveAverage, "load_state_dict", lambda self, kept: self.replaced())
    assert not is_same(fitted(checkpoint=tmp_path / "fit"), whole)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (rules(0.5), r"holds a fit with rule average .*'start': 0.2.*, but now it is .*'start': 0.5"),
        (rules()[:1], r"holds a fit with rule average .*, but now it is None: call it with the arguments of then"),
        (rules(travel=0.4), r"holds a fit with rule gating .*'travel': 0.5,.*, but now it is .*'travel': 0.4"),
    ],
)
def test_other_rules_are_another_fit(other, said, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fitted(callbacks=[Iterates(19)], checkpoint=tmp_path / "fit")
    with pytest.raises(ValueError, match=said) as told:
        fitted(*other, checkpoint=tmp_path / "fit")
    assert "\n" not in str(told.value) and len(str(told.value)) < 800
    kept = json.loads((tmp_path / "fit" / "checkpoint.json").read_text())["asked"]["training"]
    assert list(kept) == ["gating", "average"] and kept["average"] == {"IterateAverage": {"start": 0.2, "steps": None}}


def test_the_average_begins_anew_when_units_leave():
    watch = Iterates()
    fit = fitted(callbacks=[watch])
    last = removals(fit)[-1]
    assert 0.2 * STEPS < last < STEPS  # it had begun, and goes on
    count = STEPS - last
    assert fit.settings["average"] == [{"count": count}]
    assert f"what was learned is the average of the last {count} steps" in fit.guide.notes
    after = [watch.seen[step] for step in range(last + 1, STEPS + 1)]
    mean = [torch.stack(parts).mean(0) for parts in zip(*after, strict=True)]
    assert distance(watch.end, mean) < 1e-12
    assert distance(watch.end, after[-1]) > 1e-4  # control: not the last iterate
    widths = {len(watch.seen[step][0]) for step in (1, STEPS)}
    assert len(widths) > 1 and math.isfinite(fit.trace["loss"].values[0, -1])  # what was there before is of no size
