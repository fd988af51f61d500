"""`prune` without a rule: the network as the fit leaves it, and nothing for fits that have no zeros of their own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesprune as bp


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(5)
    y = torch.arange(120) % 3
    return torch.randn(120, 12, generator=generator) + 2.0 * torch.eye(3, 12)[y], y


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3))


@pytest.fixture(scope="module")
def masked(data):
    made = bp.recipe("rigl-itop", density=0.25)
    return bp.fit(made.model(network(), 120), data, rules=made.rules, steps=60, execution="plain", device="cpu")


def test_a_masked_fit_is_pruned_to_its_masks(masked, data):
    result = bp.prune(masked)
    ways = next(way for way in masked.model.ways if isinstance(way, bp.Masks))
    for name, mask in result.masks.items():
        weight = result.network.get_parameter(name)
        assert not bool((mask & ~ways.masks[name]).any()) and bool(((weight != 0) == mask).all())
    assert result.report.nonzero == sum(int(mask.sum()) for mask in result.masks.values()) <= 75
    assert result.report.rule == "as the fit leaves it" and result.report.kind is None
    with torch.no_grad():  # it is the network that was trained, and not that of other weights
        expected = torch.func.functional_call(
            masked.model.network, masked.model.weights_at(masked.guide.means()), (data[0],)
        )
        torch.testing.assert_close(result.network(data[0]), expected, rtol=0, atol=1e-6)
        ranked = bp.prune(masked, sparsity=0.9).network
        assert not torch.allclose(ranked(data[0]), expected, atol=1e-3)  # control


def test_it_never_ranks_anew(masked):
    """A weight that is in stays, though a weight that is out were larger."""
    name, prior = "0.weight", masked.model.priors["0.weight"]
    ways = next(way for way in masked.model.ways if isinstance(way, bp.Masks))
    site = prior.sites["weight"]
    before = masked.guide.means()[site.name].clone()
    try:
        _write(masked, site.name, torch.where(ways.masks[name], before, torch.full_like(before, 9.0)))
        assert masked.guide.means()[site.name].max() == 9.0
        mask = bp.prune(masked).masks[name]
        assert not bool((mask & ~ways.masks[name]).any())
    finally:
        _write(masked, site.name, before)


@torch.no_grad()
def _write(fit, site, values):
    for family in fit.guide.families:
        for piece in family.slices():
            if piece.site.name == site and piece.parameter == "location":
                piece.of(family.location).copy_(values)


def test_atoms_are_zeros_of_the_fit_s_own(data):
    model = bp.BayesianNetwork(network(), {"*.weight": bp.SpikeAndSlab(expected_density=0.2)}, data_size=120)
    fit = bp.fit(model, data, steps=300, learning_rate=0.02, execution="plain", device="cpu")
    left, median = bp.prune(fit), bp.prune(fit, min_inclusion=0.5)
    assert 0 < left.report.nonzero < 300
    assert {n: m.tolist() for n, m in left.masks.items()} == {n: m.tolist() for n, m in median.masks.items()}


def test_a_fit_without_zeros_is_refused_with_what_there_is(data):
    model = bp.BayesianNetwork(network(), {"*.weight": bp.Laplace()}, data_size=120)
    fit = bp.fit(model, data, "map", steps=3, execution="plain", device="cpu")
    with pytest.raises(ValueError, match="none of its 300 weights at zero by itself") as told:
        bp.prune(fit)
    assert "give one of sparsity=, share=, count=, min_inclusion=, min_score= and budget=" in str(told.value)


@pytest.mark.parametrize("more", [{"per": "layer"}, {"criterion": "magnitude"}])
def test_options_of_a_rule_need_one(masked, more):
    with pytest.raises(ValueError, match="say how weights are ranked"):
        bp.prune(masked, **more)


def test_two_rules_are_one_too_many(masked):
    with pytest.raises(ValueError, match="give one of sparsity=, .*, or none of them"):
        bp.prune(masked, sparsity=0.9, budget=0.05)
