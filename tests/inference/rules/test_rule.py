"""The contract of rules: what is refused, and what the base classes do by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import xarray as xr
from torch import nn

import bayesprune as bp
from bayesprune.inference.rules.registry import brought_rules
from bayesprune.inference.rules.rule import ActiveRule, Change, Needs, Rule, Taken
from bayesprune.inference.watching.callbacks import FitState

X, Y = torch.linspace(-1.0, 1.0, 80).reshape(20, 4), torch.arange(20) % 2


def plain():
    torch.manual_seed(0)
    return bp.BayesianNetwork(nn.Linear(4, 2), {"*": bp.Gaussian()}, data_size=20)


def fitted(*rules, **more):
    how = {"steps": 6, "batch_size": 10, "device": "cpu"}
    return bp.fit(plain(), (X, Y), "meanfield", rules=rules, **{**how, **more})


@dataclass(frozen=True)
class Named(Rule):
    """Does nothing."""

    size: float = 1.0
    name: ClassVar[str] = "named"

    def begin(self, run):
        return ActiveRule()


class Nameless(Rule):
    def begin(self, run):
        return ActiveRule()


class Unfinished(Rule):
    name = "unfinished"


class Never(bp.Callback):
    def on_step(self, state):
        raise AssertionError("a step was taken")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([Named], r"rules= takes Rules with a name, not .*: derive its class from Rule, and call it"),
        ([Nameless()], r"rules= takes Rules with a name, not an object of type Nameless: derive"),
        ([bp.Callback()], "rules= takes Rules with a name, not an object of type Callback"),
        ([ActiveRule()], "rules= takes Rules with a name, not an object of type ActiveRule"),
        (["gating"], "rules= takes Rules with a name, not 'gating'"),
        ([None], "rules= takes Rules with a name, not an object of type NoneType"),
        ([Named(), Named(2.0)], "rules= has two rules called 'named': give one of them"),
    ],
)
def test_what_is_no_rule_is_refused_in_a_sentence_before_the_first_step(rules, said):
    for call in (
        lambda: fitted(*rules, callbacks=[Never()]),
        lambda: bp.Record(bp.objective(plain()), rules=rules),
    ):
        with pytest.raises(ValueError, match=said) as told:
            call()
        assert "\n" not in str(told.value)


def test_one_rule_that_is_not_in_a_list_is_told_how_to_write_it():
    with pytest.raises(ValueError, match=r"rules= takes a sequence of Rules, not .*: write \[rule\]$"):
        bp.fit(plain(), (X, Y), rules=Named())


def test_a_rule_that_needs_its_steps_is_not_for_a_loop_of_one_s_own():
    loss = bp.objective(plain())
    with pytest.raises(ValueError, match="Named is for fit alone, which knows its steps: leave it out here"):
        bp.Record(loss, rules=[Named()])
    state = bp.Record(loss, rules=[bp.IterateAverage(lambda state: True)]).state
    assert list(state.rules) == ["average"]
    with pytest.raises(ValueError, match="a loop of one's own keeps its model: use fit"):
        state.replace(loss.model)
    pieces = state.slices("weight")
    assert {piece.site.name for _, piece in pieces} == {"weight"}
    assert all(piece.of(parameter).shape == (2, 4) for parameter, piece in pieces)
    with pytest.raises(ValueError, match=r"there is no site 'wait' in the guide: its sites are weight, bias"):
        state.slices("wait")


def test_a_rule_that_does_not_begin_says_so():
    with pytest.raises(NotImplementedError, match="Unfinished does not say what is at work in a restart: override"):
        fitted(Unfinished())


def test_a_rule_may_refuse_model_and_options():
    seen = {}

    class Picky(Named):
        def check(self, model, options):
            seen.update(options, model=model)
            raise ValueError("not with this one")

    with pytest.raises(ValueError, match="^not with this one$"):
        fitted(Picky(), callbacks=[Never()], learning_rate=0.3)
    assert seen["learning_rate"] == 0.3 and seen["start"] is None and isinstance(seen["model"], bp.BayesianNetwork)


def test_the_base_of_active_rules_does_nothing():
    base, nothing = ActiveRule(), torch.empty(0)
    taken = Taken(1, nothing, nothing, FitState(None, None, 0, 1, 1, 1).terms)
    assert base.before_step(1) is base.replaced() is base.end() is None
    assert base.after_step(taken) is base.after_epoch() is Change.NOTHING
    assert base.row() == base.report() == base.state_dict() == {}
    base.load_state_dict({})
    assert base.needs == Needs("", False, None)
    trace = xr.Dataset({"loss": ("epoch", [1.0])})
    assert ActiveRule.trace(trace, [base]) is trace
    Rule().check(None, {})


def test_a_rule_is_marked_by_class_and_fields():
    assert repr(Named(0.5)) == "Named(size=0.5)" and Named(0.5) == Named(0.5) != Named()


def test_needs_of_plain_steps_stand_in_the_report_of_the_execution():
    class Plain(ActiveRule):
        needs = Needs(plain="masks change while it is trained")

    class Masks(Named):
        def begin(self, run):
            return Plain()

    assert fitted(Masks()).settings["execution"]["reason"] == "masks change while it is trained"
    found = fitted(Named(), execution="fused", compiled=False).settings["execution"]
    assert found["name"] == "fused" and found["fused_steps"] == 6  # control


def test_what_a_model_brings_is_not_brought_twice():
    gates = bp.BayesianNetwork(
        nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), {}, None, 20, bp.UnitGates(kappa=0.01), X[:1]
    ).gates
    assert brought_rules([gates], []) == [bp.Gating()]
    assert brought_rules([gates], [bp.Gating(travel=0.5)]) == [] == brought_rules([nn.Linear(2, 2)], [])
    assert brought_rules([gates], [Named()]) == [bp.Gating()]


def test_a_rule_knows_the_learning_rate_of_a_parameter_at_any_share_of_the_steps():
    """By Adam what is spread moves ten times as fast; a rule hears it before the first step, and steps follow it."""
    told, taken = {}, []

    @dataclass(frozen=True)
    class Asks(Rule):
        name: ClassVar[str] = "asks"

        def begin(self, run):
            for group in run.optimizer.param_groups:
                told[group["name"]] = run.learning_rate(group["params"][0])
            with pytest.raises(ValueError, match="in no group of the optimizer"):
                run.learning_rate(nn.Parameter(torch.zeros(1)))
            return ActiveRule()

    class Rates(bp.Callback):
        def on_step(self, state):
            taken.append({group["name"]: group["lr"] for group in state.optimizer.param_groups})

    fitted(Asks(), learning_rate=0.02, schedule="cosine", callbacks=[Rates()])
    assert told["spread"](0.0) == pytest.approx(0.2) and told["location"](0.0) == pytest.approx(0.02)
    for step, rates in enumerate(taken):
        assert rates == pytest.approx({name: rate(step / 6) for name, rate in told.items()})
    assert told["location"](0.5) == pytest.approx(0.01)  # control: it is not the same all along
    state = FitState(None, torch.optim.SGD([held := nn.Parameter(torch.zeros(1))], lr=0.3), 0, 1, 0, 0)
    assert state.learning_rate(held)(0.7) == 0.3
