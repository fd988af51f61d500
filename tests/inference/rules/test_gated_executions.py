"""Fits with gates of units by the fused execution: graphs are made anew where units leave, and change no number."""

from __future__ import annotations

import pytest
import torch

from bayesprune.inference.rules.gate_training import Gating
from tests.inference.rules.test_gate_training import fitted

pytestmark = pytest.mark.filterwarnings("ignore:the noise of theta:UserWarning", "ignore:all units of:UserWarning")


def sizes(fit):
    return [tuple(parameter.shape) for parameter in fit.model.parameters()]


@pytest.mark.parametrize("remove", [8, "epoch", None])
def test_a_fused_fit_whose_units_leave_is_the_plain_one(remove):
    how = {"gating": Gating(delay=0.0, travel=0.4, remove=remove), "steps": 60}
    plain, fused = fitted(**how), fitted(**how, execution="fused", compiled=False)
    report = fused.settings["execution"]
    assert report["name"] == "fused" and report["fused_steps"] == 60
    removals = plain.settings["gating"][0]["removals"]
    assert fused.settings["gating"][0]["removals"] == removals and bool(removals) == (remove is not None)
    assert report["graphs"] > 1  # the model has changed, or its gates were rounded
    assert sizes(fused) == sizes(plain)
    for one, other in zip(plain.model.parameters(), fused.model.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=0.0, atol=1e-9)


def test_another_seed_is_another_fit():  # the control
    one, other = (fitted(gating=Gating(delay=0.0, travel=0.4), steps=60, seed=seed) for seed in (0, 1))
    moved = [
        float((a - b).detach().abs().max())
        for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True)
        if a.shape == b.shape
    ]
    assert sizes(one) != sizes(other) or max(moved) > 1e-3
