"""Guide families: densities against Pyro's distributions, cutting, starting points."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from bayesprune.inference.guides.factors import LogitNormalFactor, LogNormalFactor, NormalFactor
from bayesprune.inference.guides.families import (
    RELATIVE_SPREAD,
    BernoulliFamily,
    DeltaFamily,
    LogitNormalFamily,
    LogNormalFamily,
    NormalFamily,
    to_support,
    to_unconstrained,
)
from bayesprune.inference.guides.paired import GatedSlab, Pair, PairedFamily
from bayesprune.models.language.tensor_prior import Site

NORMALS = {"real": NormalFamily, "positive": LogNormalFamily, "unit": LogitNormalFamily}


def site(name, shape, support="real", per="weight"):
    return Site(name, name, name, shape, support, per, None)


def starts(sites, value=0.3):
    torch.manual_seed(2)
    return {s.name: (value + 0.1 * torch.rand(s.shape)).double() for s in sites}


@pytest.mark.parametrize("support", ["real", "positive", "unit"])
def test_the_density_of_a_factor_is_that_of_its_pyro_distribution(support):
    sites = [site("a", (3, 4), support), site("b", (), support)]
    family = NORMALS[support](sites, starts(sites))
    factors = family.draw()
    kinds = {"real": NormalFactor, "positive": LogNormalFactor, "unit": LogitNormalFactor}
    for one in sites:
        factor = factors[one.name]
        assert type(factor) is kinds[support] and factor.value.shape == one.shape
        expected = factor.distribution().log_prob(factor.value).sum()
        torch.testing.assert_close(factor.log_prob(factor.value), expected, rtol=1e-12, atol=1e-12)
        elsewhere = factor.value * 0.9
        torch.testing.assert_close(
            factor.log_prob(elsewhere), factor.distribution().log_prob(elsewhere).sum(), rtol=1e-12, atol=1e-12
        )
        assert not torch.allclose(factor.log_prob(elsewhere), expected)


@pytest.mark.parametrize("support", ["real", "positive", "unit"])
def test_draws_follow_the_factor(support):
    one = site("a", (20_000,), support)
    family = NORMALS[support]([one], {"a": torch.full((20_000,), 0.4, dtype=torch.float64)})
    torch.manual_seed(0)
    unconstrained = to_unconstrained(family.draw()["a"].value.detach(), support)
    centre = to_unconstrained(torch.tensor(0.4, dtype=torch.float64), support)
    scale = family.log_scale.detach().exp()[0]
    assert abs(float((unconstrained.mean() - centre) / scale)) < 4 / 141
    assert float(unconstrained.std() / scale) == pytest.approx(1.0, abs=0.02)


def test_noise_is_drawn_anew_for_every_entry_and_every_draw():
    sites = [site("a", (5,)), site("b", (5,))]
    family = NormalFamily(sites, {s.name: torch.zeros(5) for s in sites})
    values = torch.cat([f.value.detach() for _ in range(2) for f in family.draw().values()])
    assert len(values.unique()) == 20


@pytest.mark.parametrize("support", ["real", "positive", "unit"])
def test_starting_values_come_back_in_the_sites_own_space(support):
    sites = [site("a", (3, 4), support), site("b", (2,), support), site("c", (), support)]
    given = starts(sites)
    for family in (NORMALS[support](sites, given), DeltaFamily(sites, given)):
        for one, part in zip(sites, family.cut(family.location), strict=True):
            torch.testing.assert_close(to_support(part.detach(), support), given[one.name], rtol=1e-12, atol=1e-12)


def test_a_delta_has_no_density_and_no_spread():
    sites = [site("a", (3,), "positive")]
    family = DeltaFamily(sites, {"a": torch.ones(3)})
    factor = family.draw()["a"]
    assert not factor.has_density and float(factor.log_prob(factor.value)) == 0.0
    assert torch.equal(factor.distribution().sample(), factor.value)
    assert isinstance(factor.distribution(), dist.Delta)


def test_spreads_start_at_a_share_of_each_sites_own_size():
    sites = [site("a", (4,)), site("b", (4,))]
    family = NormalFamily(sites, {"a": torch.full((4,), 2.0), "b": torch.full((4,), -0.5)})
    scales = family.log_scale.detach().exp()
    torch.testing.assert_close(scales[:4], torch.full((4,), 2.0 * RELATIVE_SPREAD))
    torch.testing.assert_close(scales[4:], torch.full((4,), 0.5 * RELATIVE_SPREAD))
    still = NormalFamily([sites[0]], {"a": torch.zeros(4)})
    assert bool((still.log_scale.exp() > 0).all()) and bool(torch.isfinite(still.log_scale).all())


def test_gates_hold_their_probability_until_they_are_drawn():
    sites = [site("z", (3,), "boolean")]
    family = BernoulliFamily(sites, {"z": torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)})
    factor = family.draw()["z"]
    torch.testing.assert_close(factor.probability, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    value = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    expected = dist.Bernoulli(factor.probability).log_prob(value).sum()
    torch.testing.assert_close(factor.log_prob(value), expected)


def test_every_parameter_of_a_family_is_in_one_group():
    sites = {"real": site("a", (3,)), "positive": site("b", (3,), "positive"), "boolean": site("z", (3,), "boolean")}
    half = torch.full((3,), 0.5)
    families = [
        NormalFamily([sites["real"]], {"a": half}),
        LogNormalFamily([sites["positive"]], {"b": half}),
        DeltaFamily([sites["real"]], {"a": half}),
        DeltaFamily([sites["positive"]], {"b": half}),
        BernoulliFamily([sites["boolean"]], {"z": half}),
        PairedFamily([Pair(sites["boolean"], sites["real"], (1, 1))], {"a": half, "z": half}),
    ]
    for family in families:
        grouped = [p for parameters in family.groups().values() for p in parameters]
        assert {id(p) for p in grouped} == {id(p) for p in family.parameters()}
        assert set(family.groups()) <= {"location", "spread"} and len(grouped) == len(set(map(id, grouped)))


def test_a_slab_is_its_normal_where_included_and_its_prior_elsewhere():
    on = torch.tensor([True, False, True])
    included = dist.Normal(torch.full((3,), 5.0), torch.full((3,), 0.1))
    one = GatedSlab(included, dist.Normal(-5.0, 0.1), on)
    torch.manual_seed(0)
    drawn = one.sample((500,))
    assert torch.allclose(drawn.mean(0), torch.tensor([5.0, -5.0, 5.0]), atol=0.05)
    expected = torch.where(on, included.log_prob(drawn), dist.Normal(-5.0, 0.1).log_prob(drawn))
    assert torch.equal(one.log_prob(drawn), expected)


def test_pairs_of_several_tensors_keep_their_own_gates():
    pairs = [
        Pair(site("z1", (2, 1), "boolean", "output"), site("s1", (2, 3)), (1, 1)),
        Pair(site("z2", (1, 2), "boolean", "block"), site("s2", (2, 3)), (2, 2)),
    ]
    given = {
        "z1": torch.tensor([[0.1], [0.2]]),
        "z2": torch.tensor([[0.3, 0.4]]),
        "s1": torch.full((2, 3), 1.0),
        "s2": torch.full((2, 3), 2.0),
    }
    factors = PairedFamily(pairs, given).draw()
    assert set(factors) == set(given)
    torch.testing.assert_close(factors["z2"].probability, given["z2"])
    torch.testing.assert_close(factors["s1"].inclusion, given["z1"])
    torch.testing.assert_close(factors["s2"].inclusion, torch.tensor([[0.3, 0.3, 0.4]] * 2))
    assert torch.equal(factors["s2"].location, given["s2"])


@pytest.mark.parametrize("support", ["real", "positive", "unit"])
def test_gradients_through_a_draw_are_those_of_the_plain_formula(support):
    sites = [site("a", (3, 4), support), site("b", (), support), site("c", (2,), support)]
    family = NORMALS[support](sites, starts(sites))
    with torch.no_grad():
        family.log_scale.add_(0.3 * torch.randn_like(family.log_scale))
    coefficients = torch.randn(15, dtype=torch.float64)

    def loss(values, sums):
        total = (coefficients * torch.cat([v.reshape(-1) for v in values])).square().sum()
        return total + sum((i + 1.0) * s[0].sqrt() - (i + 2.0) * s[1] for i, s in enumerate(sums))

    torch.manual_seed(4)
    factors = family.draw().values()
    found = loss([f.value for f in factors], [f.sums for f in factors])
    torch.manual_seed(4)
    noise = torch.randn_like(family.location)
    value = to_support(family.location + family.log_scale.exp() * noise, support)
    squares = family.location.square() + (2.0 * family.log_scale).exp()
    sums = [
        torch.stack([s.sum(), t.sum()]) for s, t in zip(family.cut(squares), family.cut(family.log_scale), strict=True)
    ]
    expected = loss(family.cut(value), sums)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    leaves = (family.location, family.log_scale)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), rtol=1e-10, atol=1e-10
    )
