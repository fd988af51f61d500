"""Slices of flat vectors: every entry of a guide is one site's, the one whose draw it moves."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from bayesprune.inference.guides.slices import Layout
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.tensor_prior import Site
from bayesprune.models.priors.l0_hard_concrete import L0HardConcrete
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab
from bayesprune.models.priors.structured_bayesian_pruning import StructuredBayesianPruning
from tests.oracles.plain_path import objective_of


def scaled():
    return Hierarchy(
        s=Latent(dist.Gamma(2.0, 1.0), per="output"),
        u=Latent(dist.Beta(2.0, 3.0), per="input"),
        weight=lambda s, u: dist.Normal(0.0, s * u),
    )


GUIDES = {
    "points": (scaled, "map"),
    "mean-field": (scaled, "meanfield"),
    "gates": (SpikeAndSlab, "meanfield"),
    "spike and slab": (SpikeAndSlab, "paired"),
    "spike and slab in tiles": (lambda: SpikeAndSlab(level="block", block=(2, 3)), "paired"),
    "hard concrete": (L0HardConcrete, None),
    "noise between ends": (StructuredBayesianPruning, None),
}


@pytest.fixture(params=GUIDES)
def guide(request):
    prior, choice = GUIDES[request.param]
    return objective_of(prior(), choice).guide


def test_the_slices_of_a_family_are_its_pieces_and_cover_each_vector_once(guide):
    for family in guide.families:
        taken = {name: torch.zeros(len(vector)) for name, vector in family.named_parameters()}
        for name, vector in family.named_parameters():
            own = [piece for piece in family.slices() if piece.parameter == name]
            for piece, expected in zip(own, family.pieces(name), strict=True):
                assert piece.shape == tuple(piece.site.shape) == tuple(expected.shape)
                assert torch.equal(piece.of(vector), expected)
                piece.of(taken[name]).add_(1.0)
        assert all(bool((count == 1).all()) for count in taken.values())


def test_an_entry_moves_the_draw_of_the_site_whose_slice_it_is_in_and_no_other(guide):
    def draw():
        torch.manual_seed(0)
        return {site: factor.value.detach().clone() for site, factor in guide.draw().items()}

    before = draw()
    for family in guide.families:
        for piece in family.slices():
            vector = family.get_parameter(piece.parameter)
            with torch.no_grad():
                kept = vector.clone()
                piece.of(vector).add_(0.3)
                moved = {site for site, value in draw().items() if not torch.equal(value, before[site])}
                vector.copy_(kept)
            assert moved == {piece.site.name}


def test_a_slice_is_cut_from_whatever_is_laid_out_like_the_vector():
    sites = [Site(name, name, name, shape, "real", "weight", None) for name, shape in (("a", (2, 3)), ("b", ()))]
    layout = Layout(sites)
    state = torch.arange(7.0)
    first, last = layout.slices("location")
    assert (first.start, first.size, last.start, last.size) == (0, 6, 6, 1)
    assert torch.equal(first.of(state), torch.arange(6.0).view(2, 3)) and float(last.of(state)) == 6.0
    assert [part.shape for part in layout.cut(state)] == [(2, 3), ()]
    assert list(layout.by_name(state)) == ["a", "b"]
    with pytest.raises(RuntimeError):  # control: a vector of another length is no such vector
        layout.cut(torch.arange(8.0))
