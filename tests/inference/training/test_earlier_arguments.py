"""Arguments of `fit` that are rules now are taken for one release: with a warning, and with the same numbers."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.training.fit import fit
from bayesprune.inference.tuning.trials import TRIALS_FILE
from bayesprune.models.files.json_file import read_json, write_json

pytestmark = pytest.mark.filterwarnings(
    "ignore:all units of:UserWarning", "ignore:the noise of theta's gradient:UserWarning"
)

torch.manual_seed(0)
X, Y = torch.randn(40, 6), torch.arange(40) % 3
GATING = bp.Gating(travel=0.5, remove=None)


def gated(kappa=0.002):
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return bp.BayesianNetwork(layers, {}, data_size=40, gates=bp.UnitGates(kappa=kappa), example_input=X[:1])


def fitted(call=bp.fit, **more):
    return call(gated(), (X, Y), steps=12, batch_size=20, device="cpu", precision="float64", **more)


def learned(result):
    return torch.cat([p.detach().flatten() for p in (*result.guide.parameters(), *result.model.parameters())])


@pytest.mark.parametrize("call", [bp.fit, fit], ids=["face", "function"])
@pytest.mark.parametrize(
    ("old", "rule", "said"),
    [
        ({"gating": GATING}, GATING, r"^gating= of fit has a new name, .*: write rules=\[Gating\(travel=0.5, "),
        (
            {"unit_gate_estimator": "disarm"},
            bp.Gating(estimator="disarm"),
            r"^unit_gate_estimator= of fit has a new name.*: write rules=\[Gating\(travel=0.25, .*, estimator=DisARM\(",
        ),
        (
            {"gating": GATING, "unit_gate_estimator": bp.DisARM(2)},
            bp.Gating(travel=0.5, remove=None, estimator=bp.DisARM(2)),
            r"^gating= and unit_gate_estimator= of fit has a new name.*write rules=\[Gating\(travel=0.5, .*DisARM\(",
        ),
    ],
    ids=["gating", "estimator", "both"],
)
def test_the_old_spelling_warns_at_the_caller_and_does_the_same(old, rule, said, call):
    with pytest.warns(FutureWarning, match=said) as warned:
        before = fitted(call, **old)
    assert [one.filename for one in warned if one.category is FutureWarning] == [__file__]
    after = fitted(call, rules=[rule])
    assert torch.equal(learned(before), learned(after))
    assert before.trace.drop_vars("seconds").identical(after.trace.drop_vars("seconds"))
    assert before.settings["gating"] == after.settings["gating"]
    assert not torch.equal(learned(before), learned(fitted(call, rules=[bp.Gating(travel=0.1)])))  # control


def test_none_was_no_gating_and_is_none_still():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        plain, none = fitted(), fitted(gating=None, unit_gate_estimator=None)
    assert torch.equal(learned(plain), learned(none))


@pytest.mark.parametrize("call", [bp.fit, fit], ids=["face", "function"])
def test_an_average_among_the_callbacks_warns_at_the_caller_and_does_the_same(call):
    with pytest.warns(
        FutureWarning, match=r"^callbacks=\[IterateAverage\(...\)\] has a new name, .*: write rules=\[It"
    ):
        before = fitted(call, callbacks=[bp.IterateAverage(0.5), bp.Callback()])
    with pytest.warns(FutureWarning) as warned:
        fitted(call, callbacks=[bp.IterateAverage(0.5)])
    assert [one.filename for one in warned if one.category is FutureWarning] == [__file__]
    after = fitted(call, rules=[bp.IterateAverage(0.5)])
    assert torch.equal(learned(before), learned(after)) and before.settings["average"] == after.settings["average"]
    assert not torch.equal(learned(before), learned(fitted(call)))  # control


def test_both_spellings_of_one_rule_are_one_too_many():
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match="two rules called 'gating': give one of them"):
        fitted(rules=[GATING], gating=GATING)
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match="two rules called 'average': give one of them"):
        fitted(rules=[bp.IterateAverage()], callbacks=[bp.IterateAverage()])
    with pytest.raises(ValueError, match="gating= takes Gating"):
        fitted(gating="fast")


def test_a_search_that_an_earlier_version_began_with_gating_goes_on(tmp_path):
    how = {"first_steps": 6, "device": "cpu", "batch_size": 20, "folder": tmp_path, "rules": [GATING]}
    knobs = {"kappa": (0.001, 0.1)}
    tuned = bp.tune(gated, (X, Y), (X, Y), knobs, **how)
    kept = read_json(tmp_path / TRIALS_FILE, "", {})
    assert kept["asked"]["how"]["rules"][0]["Gating"]["travel"] == 0.5
    with pytest.raises(ValueError, match=r"keeps trials with how .*'travel': 0.5.*, but now it is .*'travel': 0.3"):
        bp.tune(gated, (X, Y), (X, Y), knobs, **{**how, "rules": [bp.Gating(travel=0.3)]})
    del kept["asked"]["how"]["rules"]
    kept["asked"]["how"]["gating"] = "bayesprune.inference.rules.gate_training.Gating"
    write_json(tmp_path / TRIALS_FILE, kept)
    again = bp.tune(gated, (X, Y), (X, Y), knobs, **how)
    assert [one.seconds for one in again.trials] == [one.seconds for one in tuned.trials]  # none was run again
