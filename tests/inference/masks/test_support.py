"""What a guide and its optimizer hold of weights that go and come, whatever a weight is calculated from."""

from __future__ import annotations

import copy

import pytest
import torch

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.masks.dynamic_masks import DynamicMasks
from bayesprune.inference.masks.support import Support, zeroing_latent
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.watching.callbacks import FitState
from bayesprune.models.masks.mask_way import Masks
from tests.inference.masks.watched_training import SIZE, X, Y, fitted, model

PRIORS = {
    "gaussian": (bp.Gaussian, "weight", {"log_scale"}),
    "halo": (bp.HALO, "weight", {"location"}),
    "halo of the paper": (lambda: bp.HALO.from_paper(1e-5, 1e-5, 1e-4, SIZE), "weight", {"location"}),
    "spike and slab": (bp.SpikeAndSlab, "slab", {"log_scale", "logit"}),
    "horseshoe": (bp.Horseshoe, "z", {"location", "log_scale"}),
    "hard concrete": (bp.L0HardConcrete, "w", {"log_alpha"}),
}
NAME = "2.weight"
SD = (2 / 14) ** 0.5
"""Of the Gaussian prior there, by default He's."""


def moved(name):
    """A guide and an optimizer after two steps, with half of the weights masked since the first."""
    torch.manual_seed(0)
    bnn = model(PRIORS[name][0]())
    bnn.ways.append(Masks({n: torch.rand(bnn.declared_shapes[n]) < 0.5 for n in bnn.matrices}).double())
    objective = Objective(bnn, Guide(bnn).double())
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=0.05)
    run = FitState(objective, optimizer, 0, 1, 1, 2)
    support = Support(run, bnn.ways[0])
    start = {key: value.clone() for key, value in objective.guide.state_dict().items()}
    support.clear()
    for _ in range(2):
        optimizer.zero_grad()
        (objective.terms(X, Y).loss / SIZE).backward()
        optimizer.step()
    return run, support, start


def pieces(run, latent):
    found = {}
    for site in run.objective.model.priors[NAME].sites.values():
        if site.shape == (10, 14):
            for parameter, piece in run.slices(site.name):
                states = run.optimizer.state[parameter].values()
                parts = [piece.of(s).clone() for s in states if s.shape == parameter.shape]
                key = (site.latent, piece.parameter)
                found[key] = (piece.of(parameter.data).clone(), parts, piece)
    return found


@pytest.mark.parametrize("name", PRIORS)
def test_what_goes_and_comes_is_cleared_and_all_else_is_left(name):
    _, zeroed, others = PRIORS[name]
    run, support, start = moved(name)
    mask = support.masks.masks[NAME].clone()
    before, guide = pieces(run, zeroed), run.objective.guide
    assert {parameter for latent, parameter in before} >= others | {"location"} or name == "hard concrete"
    new = torch.rand(10, 14, generator=torch.Generator().manual_seed(1)) < 0.5
    goes, comes, both = mask & ~new, new & ~mask, mask & new
    assert min(int(one.sum()) for one in (goes, comes, both)) > 10
    support.change({NAME: new})
    after = pieces(run, zeroed)
    first = copy.deepcopy(guide)
    first.load_state_dict(start)
    starts = {
        (p.site.name, p.parameter): p.of(f.get_parameter(p.parameter).data) for f in first.families for p in f.slices()
    }
    for key, (value, states, piece) in after.items():
        old, old_states, _ = before[key]
        assert torch.equal(value[both], old[both])
        if key == (zeroed, "location"):
            assert not bool(value[comes | goes].any()) and bool(old[goes].all())
        else:
            expected = starts[piece.site.name, piece.parameter][comes]
            if name == "gaussian":  # a Normal factor under a Normal prior
                expected = old[both].exp().mean().log().expand_as(expected)
                torch.testing.assert_close(value[~new].exp(), torch.full_like(value[~new], SD), rtol=1e-6, atol=0.0)
                assert float((old[goes].exp() / SD - 1.0).abs().min()) > 0.1  # control: it was not
            torch.testing.assert_close(value[comes], expected, rtol=0.0, atol=1e-12 if name == "gaussian" else 0.0)
            assert not torch.equal(value[comes], old[comes])  # control: the prior had moved it meanwhile
        assert old_states and all(bool(state[both].any()) for state in old_states)
        for state, earlier in zip(states, old_states, strict=True):
            assert not bool(state[~both].any()) and torch.equal(state[both], earlier[both])
    ungated = run.objective.model.ungated_weights_at(guide.means())[NAME]
    assert not bool(ungated[goes | comes].any()) and bool(ungated[both].any())
    assert torch.equal(support.masks.masks[NAME], new)


def test_the_latent_that_makes_a_weight_zero_is_found_by_its_zero():
    for name, (_, zeroed, _) in PRIORS.items():
        run, _, _ = moved(name)
        bnn = run.objective.model
        prior, values = bnn.priors[NAME], run.objective.guide.means()
        found = zeroing_latent(prior, values, bnn.network.get_parameter(NAME))
        assert found == prior.sites[zeroed].name
    product = model(bp.LowRank(2))
    prior, guide = product.priors[NAME], Guide(product)
    assert prior.sites["v"].shape == prior.shape  # by chance: it is no latent of single weights
    assert zeroing_latent(prior, guide.means(), product.network.get_parameter(NAME)) is None


def test_a_support_that_forgets_the_optimizer_is_seen(monkeypatch):
    """Control of the tests that look at what is out."""
    seen = {}
    monkeypatch.setattr(Support, "change", lambda self, masks: self.masks.put(masks))
    fitted(DynamicMasks(0.3, every=5), seen, steps=40)
    assert any(location > 0.0 and state > 0.0 for location, state in seen["out"].values())


@pytest.mark.parametrize("name", PRIORS)
def test_every_prior_is_trained_under_masks_to_exact_counts(name):
    bnn = model(PRIORS[name][0]())
    fit = bp.fit(bnn, (X, Y), steps=40, batch_size=40, precision="float64", rules=[DynamicMasks(0.2, every=5)])
    report = fit.settings["masks"][0]
    assert report["reached_count"] == 54 and report["exchanged"] > 20
    for name, mask in fit.model.ways[0].masks.items():
        drawn = fit.model.weights_at(fit.guide.means())[name]
        assert not bool(drawn[~mask].any()) and bool(drawn[mask].any())
