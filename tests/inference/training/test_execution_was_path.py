"""`execution=` was called `path=`: the old name is taken with a warning, and what was written under it goes on."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.execution.stepper import Stepper
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.training import checkpoint as checkpoints
from bayesprune.inference.training.packed_state import state_digest

torch.manual_seed(0)
X, Y = torch.randn(30, 4), torch.arange(30) % 2
HOW = {"epochs": 4, "batch_size": 10, "device": "cpu", "seed": 2}
OLD_NAME = pytest.warns(FutureWarning, match=r"path= of \w+(\.\w+)? has a new name, .*: write execution='plain'")


def model(sd=1.0):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    return bp.BayesianNetwork(network, {"*.weight": bp.Gaussian(sd)}, data_size=30)


def fitted(**more):
    return bp.fit(model(), (X, Y), **{**HOW, **more})


def is_same(one, other):
    (mine, theirs) = (fit.guide.state_dict() for fit in (one, other))
    return all(torch.equal(value, theirs[name]) for name, value in mine.items())


def under_the_old_name(file, *keys):
    """Rewrites JSON as an earlier version would have written it: `path` in place of `execution`, below some keys."""
    found = json.loads(file.read_text())
    inner = found
    for key in keys:
        inner = inner[key]
    inner["path"] = inner.pop("execution")
    if "digest" in found:
        stored = (file.parent / found["tensors"]).read_bytes()
        found["digest"] = state_digest(stored, found["kept"])
    file.write_text(json.dumps(found))


class Stop(bp.Callback):
    """Ends a fit in its third epoch."""

    is_resumable = True

    def on_step(self, state):
        if state.epoch == 2:
            raise KeyboardInterrupt


def test_a_fit_by_the_old_name_is_that_by_the_new_one():
    with OLD_NAME:
        old = fitted(path="plain")
    new = fitted(execution="plain")
    assert is_same(old, new) and old.settings["execution"]["reason"] == "it was asked for"
    assert not is_same(new, fitted(execution="plain", seed=3))  # control


def test_both_names_at_once_are_refused():
    with pytest.raises(ValueError, match="fit takes execution=, which was called path=, once"):
        fitted(execution="plain", path="plain")


def test_whatever_hands_the_argument_on_takes_the_old_name_once():
    how = {"knob": "sd", "validation": (X, Y), "epochs": 1, "restarts": 1, "device": "cpu", "prunings": [{}]}
    with OLD_NAME as told:
        bp.sparsity_path(model, (X, Y), [1.0, 2.0], path="plain", **how)
    assert len(told) == 1  # and not once a fit
    with OLD_NAME as told:
        tuned = bp.tune(model(), (X, Y), (X, Y), {"kl_weight": [1.0, 0.5]}, first_steps=2, steps=2, path="plain")
    assert len(told) == 1
    with OLD_NAME:
        assert tuned.fit(steps=2, path="plain").settings["execution"]["name"] == "plain"
    objective = Objective(declared := model(), Guide(declared))
    with OLD_NAME:
        stepper = Stepper(objective, torch.optim.SGD(objective.parameters(), lr=0.1), 3, path="plain")
    assert stepper.report.reason == "it was asked for"


def test_a_checkpoint_of_an_earlier_version_goes_on_with_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARE", 1.0)
    monkeypatch.setattr(checkpoints, "LEAST", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fitted(execution="plain", checkpoint=tmp_path, callbacks=[Stop()])
    under_the_old_name(tmp_path / "checkpoint.json", "asked")
    under_the_old_name(tmp_path / "restart-0.json", "kept")
    with pytest.raises(ValueError, match="holds a fit with execution plain, but now it is auto"):  # control
        fitted(checkpoint=tmp_path)
    resumed = fitted(execution="plain", checkpoint=tmp_path)
    assert resumed.settings["resumed_at_epoch"] == 3
    assert is_same(resumed, fitted(execution="plain"))


def test_a_fit_saved_by_an_earlier_version_has_its_settings_under_the_new_name(tmp_path):
    fit = fitted(execution="plain")
    fit.save(tmp_path / "fit")
    under_the_old_name(tmp_path / "fit" / "fit.json", "settings")
    back = bp.Fit.load(tmp_path / "fit", model())
    assert back.settings["execution"] == fit.settings["execution"] and "path" not in back.settings
    assert back.summary()["execution"]["reason"] == "it was asked for"


def test_a_sparsity_path_of_an_earlier_version_goes_on(tmp_path):
    how = {"knob": "sd", "validation": (X, Y), "epochs": 1, "restarts": 1, "device": "cpu", "prunings": [{}]}
    bp.sparsity_path(model, (X, Y), [1.0], folder=tmp_path, execution="plain", **how)
    under_the_old_name(tmp_path / "path.json", "arguments", "fit")
    with pytest.raises(ValueError, match=r"holds a path with fit .*'execution': 'plain'.*, but now it is"):  # control
        bp.sparsity_path(model, (X, Y), [1.0, 2.0], folder=tmp_path, execution="auto", **how)
    longer = bp.sparsity_path(model, (X, Y), [1.0, 2.0], folder=tmp_path, execution="plain", **how)
    assert list(longer.table["value"].values) == [1.0, 2.0]


def test_trials_of_an_earlier_version_are_taken_up(tmp_path):
    def tuned(execution):
        knobs = {"kl_weight": [1.0, 0.5]}
        how = {"first_steps": 2, "steps": 2, "folder": tmp_path, "device": "cpu", "execution": execution}
        return bp.tune(model(), (X, Y), (X, Y), knobs, **how)

    before = tuned("plain")
    under_the_old_name(tmp_path / "trials.json", "asked", "how")
    with pytest.raises(ValueError, match=r"keeps trials with how .*'execution': 'plain'.*, but now it is"):  # control
        tuned("auto")
    assert tuned("plain").rows() == before.rows()
