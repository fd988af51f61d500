"""The functional form: asked for and left, the guide's draws in it those of the ordinary form, noise in its order."""

from __future__ import annotations

import copy

import pyro.distributions as dist
import pytest
import torch

from bayesprune.inference.guides.functional import GivenNoise, RecordNoise, functional, is_functional
from bayesprune.inference.guides.paired import PairedFamily
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.latent import Latent
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab
from tests.oracles.plain_path import distance, objective_of

TIGHT = 1e-12


def scaled():
    """Sites of every support: real, positive, in the unit interval."""
    return Hierarchy(
        s=Latent(dist.Gamma(2.0, 1.0), per="output"),
        u=Latent(dist.Beta(2.0, 3.0), per="input"),
        weight=lambda s, u: dist.Normal(0.0, s * u),
    )


def gated():
    """A gate without a slab: no pair."""
    return Hierarchy(
        g=Latent(dist.Bernoulli(0.4), per="output", init=0.7),
        z=Latent(dist.Normal(0.0, 1.0)),
        weight=lambda g, z: g * z,
    )


GUIDES = {
    "points": (scaled, "map"),
    "mean-field": (scaled, "meanfield"),
    "gates": (gated, "meanfield"),
    "spike and slab": (SpikeAndSlab, "paired"),
    "spike and slab in tiles": (lambda: SpikeAndSlab(level="block", block=(2, 3)), "paired"),
}


def guide_of(name):
    prior, choice = GUIDES[name]
    return objective_of(prior(), choice).guide


def numbers_of(factors):
    """Every tensor of every factor by site and name."""
    return {
        f"{site}.{name}": value
        for site, factor in factors.items()
        for name, value in vars(factor).items()
        if torch.is_tensor(value)
    }


def drawn(guide, seed=0):
    """Factors, and the gradient of a fixed mixture of everything in them, from this random state."""
    torch.manual_seed(seed)
    factors = guide.draw()
    numbers = numbers_of(factors)
    torch.manual_seed(99)
    mixture = sum((torch.randn_like(value.detach()) * value).sum() for value in numbers.values())
    gradients = torch.autograd.grad(mixture, list(guide.parameters()), allow_unused=True)
    return {name: value.detach() for name, value in numbers.items()}, gradients


# -- asking for it --------------------------------------------------------------------------------------------


def test_the_functional_form_is_asked_for_inside_only_also_after_an_error():
    assert not is_functional()
    with functional():
        assert is_functional()
        with functional():
            assert is_functional()
        assert is_functional()
    assert not is_functional()
    with pytest.raises(KeyError), functional():
        raise KeyError
    assert not is_functional()


# -- the guide's draws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUIDES)
def test_a_draw_in_the_functional_form_is_that_of_the_ordinary_one_with_its_gradients(name):
    guide = guide_of(name)
    plain, in_plain = drawn(guide)
    with functional():
        found, in_found = drawn(guide)
        other, in_other = drawn(guide, seed=1)
    assert found.keys() == plain.keys()
    assert max(distance(found[key], plain[key]) for key in plain) < TIGHT
    assert max(map(distance, in_found, in_plain)) < TIGHT
    if name not in ("points", "gates"):  # the control: other noise is seen, in values and in gradients
        assert max(distance(other[key], plain[key]) for key in plain) > 1e-3
        assert max(map(distance, in_other, in_plain)) > 1e-3


@pytest.mark.parametrize("name", GUIDES)
def test_pieces_that_are_given_stand_for_the_parameters(name):
    guide = guide_of(name)
    moved = copy.deepcopy(guide)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.3
    expected, _ = drawn(moved)
    before, _ = drawn(guide)
    torch.manual_seed(0)
    found = {}
    with functional():
        for family, source in zip(guide.families, moved.families, strict=True):
            pieces = {key: source.pieces(key) for key, _ in source.named_parameters(recurse=False)}
            with family.given(pieces):
                found |= numbers_of(family.draw())
    assert max(distance(found[key].detach(), expected[key]) for key in expected) < TIGHT
    assert max(distance(found[key].detach(), before[key]) for key in expected) > 1e-3
    after, _ = drawn(guide)
    assert all(torch.equal(after[key], before[key]) for key in before)  # given no longer


def test_pieces_of_a_paired_family_have_the_shapes_of_gates_and_slabs():
    guide = guide_of("spike and slab in tiles")
    (family,) = guide.families
    assert isinstance(family, PairedFamily)
    assert [tuple(piece.shape) for piece in family.pieces("logit")] == [(3, 2), (2, 2)]
    assert [tuple(piece.shape) for piece in family.pieces("location")] == [(5, 4), (3, 5)]


# -- noise ----------------------------------------------------------------------------------------------------


def evaluation():
    objective = objective_of(scaled(), "meanfield")
    return objective, torch.randn(8, 4, dtype=torch.float64), torch.randint(3, (8,))


def test_noise_is_recorded_in_the_order_in_which_it_is_drawn_and_gives_the_evaluation_again():
    objective, x, y = evaluation()
    torch.manual_seed(7)
    with RecordNoise() as record:
        first = objective(x, y).detach()
    assert [tuple(each.shape) for each in record.noise] == [(8,), (9,), (35,)]  # positive, unit, real sites
    torch.manual_seed(7)
    assert all(torch.equal(each, torch.randn_like(each)) for each in record.noise)
    with GivenNoise(record.noise):
        assert torch.equal(objective(x, y).detach(), first)
    # The control: one entry of the noise that is another one.
    changed = [each.clone() for each in record.noise]
    changed[2][0] += 1e-3
    with GivenNoise(changed):
        assert not torch.equal(objective(x, y).detach(), first)


def test_given_noise_takes_no_random_numbers_and_leaves_other_draws_alone():
    objective, x, y = evaluation()
    noise = [torch.zeros(count, dtype=torch.float64) for count in (8, 9, 35)]
    before = torch.get_rng_state()
    with GivenNoise(noise):
        objective(x, y)
        assert torch.equal(torch.get_rng_state(), before)
        torch.randn(2)
        assert not torch.equal(torch.get_rng_state(), before)
    with GivenNoise(noise):
        values = {name: factor.value for name, factor in objective.guide.draw().items()}
    means = objective.guide.means()
    assert all(distance(values[name].detach(), means[name]) < TIGHT for name in means)


def test_noise_that_is_left_over_missing_or_of_another_shape_is_refused():
    objective, x, y = evaluation()
    noise = [torch.zeros(count, dtype=torch.float64) for count in (8, 9, 35)]
    with pytest.raises(ValueError, match="1 draws of noise were given and not used"), GivenNoise([*noise, noise[0]]):
        objective(x, y)
    with pytest.raises(ValueError, match=r"a draw of shape \(35,\) was asked for.* is of shape none"):
        with GivenNoise(noise[:2]):
            objective(x, y)
    with pytest.raises(ValueError, match=r"a draw of shape \(8,\) was asked for.* is of shape \(9,\)"):
        with GivenNoise(noise[1:]):
            objective(x, y)
    with pytest.raises(KeyError), GivenNoise(noise):  # an error inside is not hidden by the noise that it left
        raise KeyError
