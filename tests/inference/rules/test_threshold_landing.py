"""The landing of soft thresholds: their common shift says who stays, and who stays keeps its value."""

from __future__ import annotations

import pytest
import torch

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.left_in import included_weights
from bayesprune.inference.rules import budget_landing
from bayesprune.inference.rules.budget_count import weights_left
from bayesprune.inference.rules.budget_landing import landed

SIZES = {"fc1.weight": 600, "fc2.weight": 60, "fc3.weight": 60}


def guide_of(seed=0, per="layer", family="map", dtype=torch.float32):
    """A guide whose raw entries and thresholds are drawn, about half of them above."""
    torch.manual_seed(seed)
    network = bp.lenet_300_100(60, hidden=(10, 6)).to(dtype)
    guide = Guide(bp.BayesianNetwork(network, {"*.weight": bp.SoftThreshold(per=per)}, data_size=100), family)
    with torch.no_grad():
        for one in guide.families:
            for piece in one.slices():
                if piece.parameter == "location":
                    place = piece.of(one.get_parameter("location").data)
                    is_raw = piece.site.latent == "raw"
                    place.copy_(0.3 * torch.randn(piece.shape) if is_raw else torch.randn(piece.shape) - 1.5)
    return guide


def in_all(guide):
    return sum(int(left.sum()) for left in weights_left(guide).values())


@pytest.mark.parametrize("per", ["layer", "output", "network"])
@pytest.mark.parametrize("family", ["map", "meanfield"])
@pytest.mark.parametrize("share", [0.3, 0.9, 1.2])
def test_what_stays_keeps_its_value_and_the_count_is_exact(per, family, share):
    guide = guide_of(per=per, family=family)
    before, target = included_weights(guide), round(share * in_all(guide))
    thresholds = {name: value.clone() for name, value in guide.means().items() if name.endswith(".s")}
    said = landed(guide, lambda: float(in_all(guide)), target)
    after = included_weights(guide)
    assert in_all(guide) == target and sum(int((one != 0).sum()) for one in after.values()) == target
    moved = [guide.means()[name] - was for name, was in thresholds.items()]
    assert all(torch.allclose(one, -torch.full_like(one, said["shift"]), atol=1e-6) for one in moved)
    stays = {name: (before[name] != 0) & (after[name] != 0) for name in before}
    for name in before:
        assert torch.allclose(after[name][stays[name]], before[name][stays[name]], rtol=0, atol=1e-6)
        new = after[name][(before[name] == 0) & (after[name] != 0)]
        assert bool((new.abs() <= said["threshold_moved"] + 1e-6).all())
    assert said["kept"] == sum(int(one.sum()) for one in stays.values())
    assert said["kept"] + said["came_back"] == target and (said["left"] == 0) == (share > 1.0)


def test_without_it_the_shift_alone_changes_every_weight_that_stays(monkeypatch):
    guide, other = guide_of(), guide_of()
    target = round(0.5 * in_all(guide))
    before = included_weights(guide)["fc1.weight"]
    said = landed(guide, lambda: float(in_all(guide)), target)
    monkeypatch.setattr(budget_landing.KeptValues, "restored", lambda self: {})
    assert landed(other, lambda: float(in_all(other)), target)["shift"] == said["shift"]  # the same leave
    gentle, bare = included_weights(guide)["fc1.weight"], included_weights(other)["fc1.weight"]
    assert torch.equal(gentle != 0, bare != 0)
    stays = gentle != 0
    assert float((gentle - before)[stays].abs().max()) < 1e-6
    assert float((bare - before)[stays].abs().min()) > 0.01


def test_an_entry_just_above_its_threshold_does_not_fall_below_by_rounding():
    guide = guide_of()
    prior = guide.model.priors["fc1.weight"]
    place = next(p for f in guide.families for p in f.slices() if p.site is prior.sites["raw"])
    family = next(f for f in guide.families if any(p.site is prior.sites["raw"] for p in f.slices()))
    threshold = torch.sigmoid(guide.means()["fc1.weight.s"])
    with torch.no_grad():
        raw = place.of(family.get_parameter("location").data)
        raw.view(-1)[:300] = torch.nextafter(threshold, torch.tensor(2.0))  # the smallest weights there are
        raw.view(-1)[300:] = 0.0
    target = in_all(guide) - 20
    landed(guide, lambda: float(in_all(guide)), target)
    left = in_all(guide)
    # All 300 leave together or not at all, and none is lost to rounding where they stay.
    assert left == target or int(weights_left(guide)["fc1.weight"].sum()) in (0, 300)


def test_gates_and_sizes_land_as_before():
    torch.manual_seed(0)
    model = bp.BayesianNetwork(bp.lenet_300_100(60, hidden=(10, 6)), {"*.weight": bp.SpikeAndSlab()}, data_size=100)
    guide = Guide(model)
    said = landed(guide, lambda: float(in_all(guide)), 50)
    assert set(said) == {"by", "before", "shift", "undecided"}
