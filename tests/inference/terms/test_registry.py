"""Registered terms are E_q[log q - log p]: value and gradient against quadrature and enumeration, at special values.

Every pair is held to scipy's quadrature in test_term_values.py and to draws in test_term_check.py.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from bayesprune.inference.guides.factors import BernoulliFactor, DeltaFactor, LogNormalFactor, NormalFactor
from bayesprune.inference.guides.paired import Pair, SlabFactor
from bayesprune.inference.terms import registry
from bayesprune.inference.terms.registry import register_term, site_term
from bayesprune.inference.terms.table import TERMS
from bayesprune.models.distributions.signed_gamma import SignedGamma
from bayesprune.models.language.iid import Iid
from bayesprune.models.language.tensor_prior import Site

SHAPE = (3, 4)
NODES, WEIGHTS = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(101))
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def double(*shape, low=None):
    torch.manual_seed(sum(shape) + 1)
    value = torch.randn(*shape, dtype=torch.float64)
    return value if low is None else value.abs() + low


def site(support="real", per="weight", shape=SHAPE, name="w"):
    return Site(name, name, name, shape, support, per, None)


def normal_like(kind, location, log_scale, noise=None):
    """A factor at given parameters; its value is the draw with the given noise (default none: the centre)."""
    value = location + log_scale.exp() * (torch.zeros_like(location) if noise is None else noise)
    return factor(kind, value.exp() if kind is LogNormalFactor else value, location, log_scale)


def factor(kind, value, location, log_scale, **more):
    """A factor of given parameters, with the sums over the site that a family would hand it."""
    sums = torch.stack([(location.square() + (2.0 * log_scale).exp()).sum(), log_scale.sum()])
    return kind(value=value, location=location, log_scale=log_scale, sums=sums, **more)


PRIORS = {
    "Normal, centred": (NormalFactor, lambda: dist.Normal(torch.tensor(0.0).double(), torch.tensor(0.7).double())),
    "Normal, one scale": (NormalFactor, lambda: dist.Normal(torch.tensor(0.3).double(), torch.tensor(0.7).double())),
    "Normal, scale a weight": (NormalFactor, lambda: dist.Normal(double(3, 4), double(3, 4, low=0.2))),
    "Normal, scale an output": (NormalFactor, lambda: dist.Normal(torch.zeros(()).double(), double(3, 1, low=0.2))),
    "Laplace, one scale": (NormalFactor, lambda: dist.Laplace(torch.tensor(0.3).double(), torch.tensor(0.7).double())),
    "Laplace, scale a weight": (NormalFactor, lambda: dist.Laplace(double(1, 4), double(3, 4, low=0.2))),
    "Gamma": (LogNormalFactor, lambda: dist.Gamma(torch.tensor(3.0).double(), torch.tensor(0.7).double())),
    "Gamma, rate an input": (LogNormalFactor, lambda: dist.Gamma(double(1, 4, low=0.2), double(1, 4, low=0.2))),
    "InverseGamma": (LogNormalFactor, lambda: dist.InverseGamma(double(3, 1, low=0.5), torch.tensor(0.7).double())),
}


def quadrature(prior, kind, location, log_scale):
    """E_q[log q - log p] by Gauss-Hermite with common nodes; kinks (Laplace) are left to the other tests."""
    total = torch.zeros((), dtype=torch.float64)
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        q = normal_like(kind, location, log_scale, node * torch.ones(SHAPE, dtype=torch.float64))
        total = total + weight * (
            q.distribution().log_prob(q.value).sum() - prior.expand(SHAPE).log_prob(q.value).sum()
        )
    return total


@pytest.mark.parametrize("name", [name for name in PRIORS if "Laplace" not in name])
def test_a_term_and_its_gradient_agree_with_quadrature(name):
    kind, make = PRIORS[name]
    prior = make()
    location = (0.5 * double(3, 4)).requires_grad_()
    log_scale = (0.3 * double(4, 3).T - 1.0).contiguous().requires_grad_()
    q = normal_like(kind, location, log_scale)
    found = site_term(Iid(prior, SHAPE), q, q.value)
    gradient = torch.autograd.grad(found, (location, log_scale), retain_graph=True)
    expected = quadrature(prior, kind, location, log_scale)
    expected_gradient = torch.autograd.grad(expected, (location, log_scale))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-7)
    wrong = found + 1e-4 * location.square().sum()  # the control
    assert abs(float(wrong.detach() - expected.detach())) > 1e-6


@pytest.mark.parametrize("name", ["Laplace, one scale", "Laplace, scale a weight"])
def test_the_laplace_term_agrees_with_quadrature_on_a_fine_grid(name):
    """The kink spoils Gauss-Hermite: a midpoint rule of 400,000 points, whose error is below 1e-8."""
    prior = PRIORS[name][1]()
    location = (0.5 * double(3, 4)).requires_grad_()
    log_scale = (0.3 * double(4, 3).T - 0.5).contiguous().requires_grad_()
    q = normal_like(NormalFactor, location, log_scale)
    found = site_term(Iid(prior, SHAPE), q, q.value)
    gradient = torch.autograd.grad(found, (location, log_scale))
    edges = torch.linspace(-9.0, 9.0, 400_001, dtype=torch.float64)
    nodes = 0.5 * (edges[1:] + edges[:-1])
    density = dist.Normal(0.0, 1.0).log_prob(nodes).exp() * (edges[1] - edges[0])
    loc, scale = (part.expand(SHAPE).flatten() for part in (prior.loc, prior.scale))
    total, by_location, by_scale = 0.0, [], []
    for j in range(12):
        mean, log_sd = location.detach().flatten()[j], log_scale.detach().flatten()[j]
        away = mean + log_sd.exp() * nodes - loc[j]
        total += float((density * away.abs()).sum() / scale[j] + (2 * scale[j]).log() - log_sd)
        total -= 0.5 * math.log(2 * math.pi * math.e)
        by_location.append(float((density * away.sign()).sum() / scale[j]))
        by_scale.append(float((density * away.sign() * nodes).sum() * log_sd.exp() / scale[j]) - 1.0)
    assert float(found.detach()) == pytest.approx(total, abs=1e-7)
    assert gradient[0].flatten().tolist() == pytest.approx(by_location, abs=1e-4)
    assert gradient[1].flatten().tolist() == pytest.approx(by_scale, abs=1e-4)


@pytest.mark.parametrize("name", PRIORS)
def test_a_term_is_the_mean_of_the_sampled_term(name):
    kind, make = PRIORS[name]
    prior = Iid(make(), SHAPE)
    location, log_scale = 0.5 * double(3, 4), 0.1 * double(3, 4) - 1.0
    torch.manual_seed(5)
    sampled = []
    for _ in range(1500):
        q = normal_like(kind, location, log_scale, torch.randn(SHAPE, dtype=torch.float64))
        sampled.append(float(site_term(prior, q, q.value, analytic=False)))
    error = np.std(sampled) / math.sqrt(len(sampled))
    q = normal_like(kind, location, log_scale)
    analytic = float(site_term(prior, q, q.value))
    assert abs(np.mean(sampled) - analytic) < 4.0 * error
    assert abs(np.mean(sampled) - analytic - 10.0 * error) > 4.0 * error


@pytest.mark.parametrize("probability", [0.2, torch.tensor([[0.1], [0.5], [0.9]], dtype=torch.float64)])
def test_the_bernoulli_term_is_the_sum_over_both_values(probability):
    prior = dist.Bernoulli(torch.as_tensor(probability, dtype=torch.float64))
    logit = (2.0 * double(3, 4)).requires_grad_()
    q = BernoulliFactor(logit.sigmoid(), logit)
    found = site_term(Iid(prior, SHAPE), q, q.value)
    expected = torch.zeros((), dtype=torch.float64)
    for value in (0.0, 1.0):
        point = torch.full(SHAPE, value, dtype=torch.float64)
        log_q = dist.Bernoulli(logits=logit).log_prob(point)
        expected = expected + (log_q.exp() * (log_q - prior.expand(SHAPE).log_prob(point))).sum()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    one, other = (torch.autograd.grad(v, logit, retain_graph=True)[0] for v in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_bernoulli_term_is_right_at_certain_gates():
    prior = Iid(dist.Bernoulli(torch.tensor(0.1, dtype=torch.float64)), (2,))
    logit = torch.tensor([800.0, -800.0], dtype=torch.float64, requires_grad=True)
    found = site_term(prior, BernoulliFactor(logit.sigmoid(), logit), logit.sigmoid())
    assert float(found.detach()) == pytest.approx(-math.log(0.1) - math.log(0.9), rel=1e-12)
    assert bool(torch.isfinite(torch.autograd.grad(found, logit)[0]).all())


@pytest.mark.parametrize(
    ("per", "gates", "block"), [("weight", (3, 4), (1, 1)), ("output", (3, 1), (1, 1)), ("block", (2, 2), (2, 3))]
)
@pytest.mark.parametrize("scale", [0.7, "rows"])
def test_the_slab_term_is_inclusion_times_the_normals(per, gates, block, scale):
    sd = double(3, 1, low=0.2) if scale == "rows" else torch.tensor(scale, dtype=torch.float64)
    prior = dist.Normal(torch.zeros((), dtype=torch.float64), sd)
    location = double(3, 4).requires_grad_()
    log_scale = (0.2 * double(3, 4) - 0.7).requires_grad_()
    logit = double(*gates).requires_grad_()
    pair = Pair(site("boolean", per, gates, "z"), site(), block)
    q = factor(SlabFactor, location, location, log_scale, inclusion=pair.spread(logit.sigmoid()), pair=pair)
    found = site_term(Iid(prior, SHAPE), q, q.value)
    entries = torch.distributions.kl_divergence(
        torch.distributions.Normal(location, log_scale.exp()),
        torch.distributions.Normal(torch.zeros(SHAPE, dtype=torch.float64), sd.expand(SHAPE)),
    )
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(3):
        for j in range(4):
            gate = logit[i // block[0], j // block[1]] if per == "block" else logit.expand(SHAPE)[i, j]
            expected = expected + gate.sigmoid() * entries[i, j]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    leaves = (location, log_scale, logit)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, retain_graph=True),
        torch.autograd.grad(expected, leaves),
        rtol=1e-9,
        atol=1e-9,
    )


def test_a_slab_that_is_estimated_from_its_draw_is_inclusion_times_the_average():
    prior = Iid(dist.Laplace(torch.zeros(()).double(), torch.tensor(0.7).double()), SHAPE)
    pair = Pair(site("boolean", name="z"), site(), (1, 1))
    location, log_scale, inclusion = double(3, 4), 0.2 * double(3, 4) - 1.0, double(3, 4).sigmoid()
    # The exact answer: inclusion times the registered term, entry by entry.
    expected = 0.0
    for i in range(3):
        for j in range(4):
            entry = normal_like(NormalFactor, location[i, j], log_scale[i, j])
            expected += float(inclusion[i, j] * site_term(Iid(prior.base_dist, ()), entry, entry.value))
    torch.manual_seed(0)
    sampled = []
    for _ in range(2000):
        value = location + log_scale.exp() * torch.randn_like(location)
        q = factor(SlabFactor, value, location, log_scale, inclusion=inclusion, pair=pair)
        sampled.append(float(site_term(prior, q, value, analytic=False)))
    assert abs(np.mean(sampled) - expected) < 4.0 * np.std(sampled) / math.sqrt(2000)


POINTS = {
    "Laplace, scale a weight": lambda s: dist.Laplace(torch.zeros(()).double(), s.exp()),
    "Laplace, scale an output": lambda s: dist.Laplace(torch.zeros(()).double(), s[:, :1].exp()),
    "Laplace, one scale": lambda s: dist.Laplace(torch.zeros(()).double(), s[0, 0].exp()),
    "Laplace, off centre": lambda s: dist.Laplace(torch.tensor(0.3).double(), s.exp()),
    "Laplace, located by a latent": lambda s: dist.Laplace(s, s.exp()),
    "SignedGamma, one rate": lambda s: SignedGamma(torch.tensor(3.0).double(), s[0, 0].exp()),
    "SignedGamma, rate a weight": lambda s: SignedGamma(torch.tensor(3.0).double(), s.exp()),
    "SignedGamma, fixed": lambda s: SignedGamma(torch.tensor(3.0).double(), torch.tensor(0.7).double()),
}


@pytest.mark.parametrize("name", POINTS)
def test_the_term_of_a_point_and_its_gradient_are_minus_the_log_prior(name):
    value = double(3, 4).requires_grad_()
    parent = (0.5 * double(4, 3).T + 0.1).contiguous().requires_grad_()
    found = site_term(Iid(POINTS[name](parent), SHAPE), DeltaFactor(value), value)
    expected = -POINTS[name](parent).expand(SHAPE).log_prob(value).sum()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    # A factor in front, as the objective has it, has to reach both gradients.
    gradients = [torch.autograd.grad(0.37 * term, (value, parent), allow_unused=True) for term in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(found, expected + 1e-6, rtol=1e-12, atol=1e-12)


def test_a_registered_term_is_used_and_a_wrong_one_is_caught_by_the_sampled_term():
    class Shifted(dist.Normal):
        pass

    @dataclasses.dataclass(frozen=True)
    class Copy(NormalFactor):
        pass

    prior = Iid(Shifted(torch.zeros(()).double(), torch.ones(()).double()), SHAPE)
    location, log_scale = double(3, 4), 0.1 * double(3, 4)
    q = normal_like(Copy, location, log_scale, double(3, 4))
    sampled = float(site_term(prior, q, q.value))  # no term registered: from the draw
    assert sampled == pytest.approx(float(site_term(prior, q, q.value, analytic=False)))
    try:
        register_term(Shifted, Copy)(lambda p, factor: factor.location.sum() * 0 + 123.0)
        assert float(site_term(prior, q, q.value)) == 123.0
        assert float(site_term(prior, q, q.value, analytic=False)) == pytest.approx(sampled)
    finally:
        del TERMS[Shifted, Copy]


def test_whoever_uses_terms_has_every_file_of_the_package_s_own():
    folder = Path(registry.__file__).parent
    own = {path.stem for path in folder.glob("*.py") if "\n@ready_term(" in path.read_text()}
    assert own == {"correlated", "real", "positive", "unit_interval", "gates", "points"}
    assert own <= set(vars(registry))
