"""One restart: when rules are called, what a replaced model means, and what they leave in history and trace."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import bayesprune as bp
from bayesprune.inference.rules.rule import ActiveRule, Change, Rule
from bayesprune.inference.training import checkpoint as checkpoints

SIZE = 24
X, Y = torch.linspace(-1.0, 1.0, SIZE * 4).reshape(SIZE, 4).sin(), torch.arange(SIZE) % 2


def network():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    return bp.BayesianNetwork(layers, {"*.weight": bp.Gaussian()}, data_size=SIZE)


def fitted(*rules, **more):
    how = {"epochs": 3, "batch_size": 8, "device": "cpu", "execution": "plain", "learning_rate": 0.01}
    return bp.fit(more.pop("model", None) or network(), (X, Y), "meanfield", rules=rules, **{**how, **more})


def learned(fit):
    return torch.cat([p.detach().flatten() for p in (*fit.guide.parameters(), *fit.model.parameters())])


@dataclass(frozen=True)
class Told(Rule):
    """Writes down when it is called; at some steps it replaces the model by a copy, at some epoch as well."""

    log: list = field(default_factory=list)
    replaces_at: tuple[int, ...] = ()
    replaces_after: tuple[int, ...] = ()
    name: ClassVar[str] = "told"

    def begin(self, run):
        self.log.append((self.name, "begin", run.step))
        return Tells(self, run)


class Other(Told):
    name = "other"


class Tells(ActiveRule):
    def __init__(self, rule, run):
        self.rule, self.run = rule, run

    def say(self, what, *more):
        self.rule.log.append((self.rule.name, what, *more))

    def swap(self):
        """The same numbers in other tensors."""
        before, optimizer = self.run.objective, self.run.optimizer
        model = copy.deepcopy(before.model)
        objective, fresh = self.run.replace(model)
        assert self.run.objective is objective is not before and self.run.optimizer is fresh is not optimizer
        objective.load_state_dict(before.state_dict())
        fresh.load_state_dict(optimizer.state_dict())

    def before_step(self, step):
        self.say("before_step", step)
        assert self.run.step == step - 1

    def after_step(self, taken):
        self.say("after_step", taken.step)
        assert self.run.step == taken.step and len(taken.x) == len(taken.y) == 8
        assert not taken.terms.loss.requires_grad and taken.weight_gradient is None
        if taken.step in self.rule.replaces_at:
            self.swap()
            return Change.MODEL
        return Change.NOTHING

    def after_epoch(self):
        self.say("after_epoch", self.run.epoch)
        if self.run.epoch in self.rule.replaces_after:
            self.swap()
            return Change.MODEL
        return Change.NOTHING

    def replaced(self):
        self.say("replaced", self.run.step)

    def row(self):
        self.say("row", self.run.epoch)
        return {}

    def end(self):
        self.say("end", self.run.step)

    def report(self):
        return {}


class Watch(bp.Callback):
    is_resumable = True

    def __init__(self, log):
        self.log = log

    def on_fit_start(self, state):
        self.log.append(("watch", "start", state.step))

    def on_step(self, state):
        self.log.append(("watch", "on_step", state.step))

    def on_epoch(self, state):
        self.log.append(("watch", "on_epoch", state.epoch))

    def on_fit_end(self, state):
        self.log.append(("watch", "end", state.step))


def expected_calls(steps=9, an_epoch=3):
    """What the documentation of `ActiveRule` says, with two rules of one order and a callback."""
    both, found = ("told", "other"), []
    found += [(name, "begin", 0) for name in both] + [("watch", "start", 0)]
    for step in range(1, steps + 1):
        found += [(name, "before_step", step) for name in both]
        found += [(name, "after_step", step) for name in both] + [("watch", "on_step", step)]
        if step % an_epoch == 0:
            epoch = step // an_epoch
            found += [(name, "after_epoch", epoch) for name in both]
            found += [(name, "row", epoch) for name in both] + [("watch", "on_epoch", epoch)]
    return found + [(name, "end", steps) for name in reversed(both)] + [("watch", "end", steps)]


def test_rules_are_called_in_the_order_that_is_documented():
    log = []
    fit = fitted(Told(log), Other(log), callbacks=[Watch(log)])
    assert log == expected_calls()
    assert "told" not in fit.settings  # an empty report is none


def test_a_rule_that_says_nothing_changes_no_number():
    plain, beside = fitted(restarts=2), fitted(Told(), Other(), restarts=2)
    assert torch.equal(learned(plain), learned(beside))
    assert plain.trace.drop_vars("seconds").identical(beside.trace.drop_vars("seconds"))
    assert plain.settings.keys() == beside.settings.keys()
    assert not torch.equal(learned(plain), learned(fitted(Told(), restarts=2, seed=1)))  # control


def test_the_other_rules_hear_of_a_replaced_model_and_the_fit_goes_on_with_it():
    log = []
    swapping = fitted(Told(log, replaces_at=(2, 5), replaces_after=(2,)), Other(log))
    assert [one for one in log if one[1] == "replaced"] == [("other", "replaced", step) for step in (2, 5, 6)]
    at = log.index(("other", "replaced", 2))
    assert log[at - 1] == ("told", "after_step", 2) and log[at + 1] == ("other", "after_step", 2)
    log.clear()
    fitted(Told(log), Other(log, replaces_at=(4,)))
    assert [one for one in log if one[1] == "replaced"] == [("told", "replaced", 4)]
    # The same numbers in other tensors: as if nothing had happened, learning rates and optimizer state included, but
    # that a fresh guide draws from torch's generator.
    assert torch.isfinite(learned(swapping)).all()
    quiet, swapped = fitted(schedule="cosine", particles=1), swapping
    assert quiet.trace["learning_rate"].shape == swapped.trace["learning_rate"].shape
    points = {"guide": "map", "epochs": 3, "batch_size": 8, "device": "cpu", "execution": "plain"}
    one = bp.fit(network(), (X, Y), schedule="cosine", **points)
    two = bp.fit(network(), (X, Y), schedule="cosine", rules=[Told(replaces_at=(2, 5), replaces_after=(2,))], **points)
    assert torch.equal(learned(one), learned(two))
    assert one.trace.drop_vars("seconds").identical(two.trace.drop_vars("seconds"))


class Halve(Rule):
    """Leaves half of what was learned at the end, and counts its ends."""

    name = "halve"

    def __init__(self):
        self.ends = []

    def begin(self, run):
        return Halves(self, run)


class Halves(ActiveRule):
    def __init__(self, rule, run):
        self.rule, self.run = rule, run

    @torch.no_grad()
    def end(self):
        self.rule.ends.append(self.run.restart)
        for parameter in self.run.objective.guide.parameters():
            parameter.mul_(0.5)

    def report(self):
        return {"ends": len(self.rule.ends)}


@pytest.fixture
def every_epoch(monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARE", 1.0)
    monkeypatch.setattr(checkpoints, "LEAST", 0.0)


def test_the_end_is_told_once_and_not_again_where_a_checkpoint_was_finished(tmp_path, every_epoch):
    rule = Halve()
    fit = fitted(rule, restarts=2, checkpoint=tmp_path / "fit")
    assert rule.ends == [0, 1] and fit.settings["halve"] == [{"ends": 2}, {"ends": 2}]
    again = fitted(rule, restarts=2, checkpoint=tmp_path / "fit")
    assert rule.ends == [0, 1] and torch.equal(learned(again), learned(fit))
    whole = fitted(restarts=2)
    halves = [p.detach() * 0.5 for p in whole.guide.parameters()]
    assert all(torch.equal(a, b.detach()) for a, b in zip(halves, fit.guide.parameters(), strict=True))


def test_the_end_is_told_where_a_fit_is_stopped_and_not_where_it_breaks_off(tmp_path, every_epoch):

    class Break(bp.Callback):
        is_resumable = True

        def on_step(self, state):
            if state.step == 5:
                raise KeyboardInterrupt

    rule = Halve()
    fitted(rule, stop=lambda state: state.epoch == 2)
    assert rule.ends == [0]
    with pytest.raises(KeyboardInterrupt):
        fitted(rule, callbacks=[Break()], checkpoint=tmp_path / "fit")
    assert rule.ends == [0]
    resumed = fitted(rule, checkpoint=tmp_path / "fit")
    assert rule.ends == [0, 0] and resumed.settings["resumed_at_epoch"] == 2
    assert torch.equal(learned(resumed), learned(fitted(Halve())))


@dataclass(frozen=True)
class Scores(Rule):
    """Has something to say of each epoch, of the fit, and of the trace."""

    name: ClassVar[str] = "scores"

    def begin(self, run):
        return Scoring(run)


class Scoring(ActiveRule):
    def __init__(self, run):
        self.run, self.seen = run, []

    def after_step(self, taken):
        self.seen.append(float(taken.terms.loss))
        return Change.NOTHING

    def row(self):
        return {"last_loss": self.seen[-1], "parts": {"a": float(self.run.epoch), "b": -float(self.run.step)}}

    def report(self):
        return {"steps": len(self.seen)}

    @classmethod
    def trace(cls, trace, rules):
        return trace.assign(every_loss=(("restart", "step"), np.array([one.seen for one in rules])))


def test_rows_join_history_trace_and_tensorboard_and_reports_the_settings(tmp_path):
    class Histories(bp.Callback):
        found = ()

        def on_fit_end(self, state):
            self.found = (*self.found, copy.deepcopy(state.history))

    histories = Histories()
    fit = fitted(Scores(), restarts=2, callbacks=[histories, bp.TensorBoard(tmp_path)])
    assert fit.settings["scores"] == [{"steps": 9}, {"steps": 9}]
    trace = fit.trace
    assert trace["every_loss"].shape == (2, 9)
    losses = trace["every_loss"].values.reshape(2, 3, 3)
    np.testing.assert_array_equal(trace["last_loss"], losses[:, :, -1])
    np.testing.assert_allclose(trace["loss"], losses.mean(2), rtol=1e-5)
    np.testing.assert_array_equal(trace["parts"].sel(parts_name="a"), [[1.0, 2.0, 3.0]] * 2)
    np.testing.assert_array_equal(trace["parts"].sel(parts_name="b"), [[-3.0, -6.0, -9.0]] * 2)
    assert [[row["last_loss"] for row in one] for one in histories.found] == trace["last_loss"].values.tolist()
    assert (
        fitted(restarts=2)
        .trace.drop_vars("seconds")
        .equals(trace.drop_vars(["seconds", "every_loss", "last_loss", "parts", "parts_name"], errors="ignore"))
    )
    for restart in (0, 1):
        board = EventAccumulator(str(tmp_path / f"restart-{restart}"))
        board.Reload()
        written = {tag: [e.value for e in board.Scalars(tag)] for tag in ("last_loss", "parts/a", "parts/b")}
        np.testing.assert_allclose(written["last_loss"], trace["last_loss"][restart], rtol=1e-6)
        assert (written["parts/a"], written["parts/b"]) == ([1.0, 2.0, 3.0], [-3.0, -6.0, -9.0])


def test_a_rule_may_stop_a_restart_and_says_why():
    class Stops(ActiveRule):
        def __init__(self, run):
            self.run = run

        def after_step(self, taken):
            if taken.step == 4:
                self.run.stop, self.run.stop_reason = True, "that will do"
            return Change.NOTHING

    class Stop(Rule):
        name = "stop"

        def begin(self, run):
            return Stops(run)

    fit = fitted(Stop())
    assert fit.settings["stopped_early"] == [{"restart": 0, "step": 4, "steps": 9, "reason": "that will do"}]


def test_a_rule_moves_values_and_the_fused_execution_follows():
    """Clipping after each step, seen by the next one, in both executions alike."""

    class Clips(ActiveRule):
        def __init__(self, run):
            self.run = run

        @torch.no_grad()
        def after_step(self, taken):
            for parameter in self.run.objective.guide.parameters():
                parameter.clamp_(-3.0, 0.2)
            return Change.VALUES

    class Clip(Rule):
        name = "clip"

        def begin(self, run):
            return Clips(run)

    how = {"precision": "float64", "learning_rate": 0.1}
    plain = fitted(Clip(), **how)
    fused = fitted(Clip(), **{**how, "execution": "fused", "compiled": False})
    assert fused.settings["execution"]["fused_steps"] == 9
    torch.testing.assert_close(learned(plain), learned(fused), rtol=0.0, atol=1e-10)
    assert max(float(p.detach().max()) for p in plain.guide.parameters()) == 0.2
    assert not torch.allclose(learned(plain), learned(fitted(**how)), atol=1e-3)  # control
