"""Iid is base.expand(shape).to_event(), without the expansion."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to, constraints

from bayesprune.models.language.iid import Iid

torch64 = torch.float64
SCALE = torch.tensor(0.3, dtype=torch64)
ROWS = torch.tensor([[0.2], [0.5], [3.0]], dtype=torch64)
BASES = {
    "normal": dist.Normal(torch.tensor(0.1, dtype=torch64), SCALE),
    "rows": dist.Normal(torch.zeros(1, dtype=torch64), ROWS),
    "laplace": dist.Laplace(torch.zeros((), dtype=torch64), ROWS),
    "gamma": dist.Gamma(torch.tensor(3.0, dtype=torch64), SCALE),
    "half-cauchy": dist.HalfCauchy(SCALE),
    "inverse-gamma": dist.InverseGamma(SCALE, SCALE),
    "bernoulli": dist.Bernoulli(SCALE),
}


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("batch", [(), (2,), (2, 1)])
def test_log_density_moments_and_draws_are_those_of_the_expanded_distribution(name, batch):
    shape = (3, 4)
    base = BASES[name]
    one = Iid(base, shape).expand(batch)
    other = base.expand(torch.Size((*batch, *shape))).to_event(2)
    assert one.batch_shape == other.batch_shape == torch.Size(batch)
    assert one.event_shape == other.event_shape == torch.Size(shape)
    torch.manual_seed(3)
    value = one.sample()
    torch.manual_seed(3)
    assert torch.equal(value, other.sample())
    assert value.dtype == torch64
    assert one.log_prob(value).shape == torch.Size(batch)
    torch.testing.assert_close(one.log_prob(value), other.log_prob(value), rtol=1e-13, atol=1e-13)
    if name not in ("half-cauchy", "inverse-gamma"):
        torch.testing.assert_close(one.mean, other.mean)
        torch.testing.assert_close(one.variance, other.variance)
    # The control: two weights swapped for others change the density.
    if name != "bernoulli":
        assert not torch.allclose(one.log_prob(value), one.log_prob(value * 1.01), rtol=1e-13)


def test_a_single_number_has_no_event_dimension():
    one = Iid(dist.Normal(0.0, 1.0), ())
    value = one.sample()
    assert value.shape == () and one.log_prob(value).shape == ()
    assert one.support.event_dim == 0
    assert biject_to(one.support)(torch.tensor(0.3)) == torch.tensor(0.3)


def test_the_support_is_the_bases_in_every_entry():
    one = Iid(dist.HalfCauchy(1.0), (2, 3))
    assert isinstance(one.support, constraints.independent) and one.support.event_dim == 2
    assert bool(one.support.check(torch.ones(2, 3))) and not bool(one.support.check(-torch.ones(2, 3)))
    assert bool((biject_to(one.support)(torch.randn(2, 3)) > 0).all())


def test_draws_of_several_samples_keep_the_gradient():
    scale = torch.tensor(2.0, requires_grad=True)
    one = Iid(dist.Normal(0.0, scale), (3, 4))
    drawn = one.rsample((5,))
    assert drawn.shape == (5, 3, 4) and one.has_rsample
    drawn.sum().backward()
    assert scale.grad is not None
    assert not Iid(dist.Bernoulli(0.5), (3,)).has_rsample
    assert len(set(one.rsample((1,)).detach().flatten().tolist())) == 12  # entries are not copies of one draw
