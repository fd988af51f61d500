"""One restart fitted alone, by a process that shares a checkpoint with others: together they are the fit of all."""

from __future__ import annotations

import json

import pytest
import torch
import xarray as xr
from torch import nn

import bayesprune as bp

torch.manual_seed(0)
X = torch.randn(90, 5)
Y = (X[:, 0] > 0).long()
HOW = {"epochs": 3, "batch_size": 30, "restarts": 3, "seed": 4, "execution": "plain"}


def model():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    return bp.BayesianNetwork(network, {"[03].weight": bp.SpikeAndSlab()}, data_size=90)


def numbers(restart):
    return torch.cat([one.detach().flatten() for part in (restart.guide, restart.model) for one in part.parameters()])


def test_restarts_that_are_fitted_alone_make_the_fit_of_all(tmp_path):
    whole = bp.fit(model(), (X, Y), **HOW)
    staged = [tmp_path / name for name in (".checkpoint.json-abc", ".restart-1.json-abc")]
    staged[0].touch()  # what another process is writing right now is left alone
    for number in (2, 0, 1):
        alone = bp.fit(model(), (X, Y), only_restart=number, checkpoint=tmp_path, **HOW)
        assert len(alone.restarts) == 1 and alone.restarts[0].seed == 4 + number
        assert torch.equal(numbers(alone.restarts[0]), numbers(whole.restarts[number]))
        assert staged[0].exists() and staged[1].exists() == (number == 0)
        staged[1].touch()
    kept = {file.name: file.read_bytes() for file in tmp_path.glob("restart-*")}
    together = bp.fit(model(), (X, Y), checkpoint=tmp_path, **HOW)
    assert {file.name: file.read_bytes() for file in tmp_path.glob("restart-*")} == kept  # nothing was fitted again
    assert [torch.equal(numbers(a), numbers(b)) for a, b in zip(together.restarts, whole.restarts, strict=True)] == [
        True
    ] * 3
    xr.testing.assert_identical(together.trace.drop_vars("seconds"), whole.trace.drop_vars("seconds"))
    assert not torch.equal(numbers(whole.restarts[0]), numbers(whole.restarts[1]))  # control
    assert json.loads((tmp_path / "checkpoint.json").read_text())["asked"]["restarts"] == 3
    with pytest.raises(ValueError, match="restarts 3, but now it is 2"):
        bp.fit(model(), (X, Y), only_restart=0, checkpoint=tmp_path, **{**HOW, "restarts": 2})


def test_a_restart_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="only_restart= is one of the 3 of restarts=, counted from 0, not 3"):
        bp.fit(model(), (X, Y), only_restart=3, **HOW)
