"""A checkpoint whose schedule is named with the file that it stood in then goes on: files have moved since."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.training import checkpoint as checkpoints

X, Y = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3


class Stop(bp.Callback):
    is_resumable = True

    def on_epoch(self, state):
        if state.epoch == 2:
            raise KeyboardInterrupt


def fitted(**more):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    model = bp.BayesianNetwork(network, priors={"*.weight": bp.Gaussian()}, likelihood=bp.Categorical(), data_size=40)
    how = {"epochs": 4, "device": "cpu", "seed": 0, "execution": "plain", "schedule": bp.steps([0.5]), **more}
    return bp.fit(model, (X, Y), **how)


def test_a_checkpoint_that_names_the_file_of_then_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARE", 1.0)
    monkeypatch.setattr(checkpoints, "LEAST", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fitted(checkpoint=tmp_path, callbacks=[Stop()])
    file = tmp_path / "checkpoint.json"
    kept = json.loads(file.read_text())
    assert kept["asked"]["schedule"] == "bayesprune:steps.<locals>.<lambda>"
    kept["asked"]["schedule"] = "bayesprune.inference.schedules.steps.<locals>.<lambda>"
    file.write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="holds a fit with schedule .*steps.*, but now it is cosine"):  # control
        fitted(checkpoint=tmp_path, schedule="cosine")
    resumed, whole = fitted(checkpoint=tmp_path), fitted()
    assert resumed.settings["resumed_at_epoch"] == 2
    states = zip(resumed.guide.state_dict().values(), whole.guide.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in states)
