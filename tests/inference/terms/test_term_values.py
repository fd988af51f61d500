"""Closed forms against scipy's quadrature and its differences, and terms in part from the draw against it too."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from bayesprune.inference.guides.factors import (
    BernoulliFactor,
    DeltaFactor,
    LogitNormalFactor,
    LogNormalFactor,
    NormalFactor,
)
from bayesprune.inference.guides.paired import SlabFactor
from bayesprune.inference.terms.registry import registered_term, registered_terms, site_term
from bayesprune.models.distributions.tilted_beta import TiltedBeta
from bayesprune.models.language.iid import Iid
from tests.oracles.known_terms import FAMILIES, NOISE_PAIRS, entry, factor_at, number

SHAPE = (2, 3)
LOCATION = torch.tensor([[-1.1, 0.2, 0.0], [0.7, -0.3, 1.4]], dtype=torch.float64)
LOG_SCALE = torch.tensor([[-0.7, -1.2, -0.4], [-2.0, -0.9, -1.5]], dtype=torch.float64)
LOGIT = torch.tensor([[0.4], [-1.1]], dtype=torch.float64)
LEVELS = {"a number": (), "an output": (2, 1), "an input": (1, 3), "a weight": SHAPE}
DRAWN = {  # terms that use the draw
    (dist.HalfCauchy, LogNormalFactor),
    (dist.Beta, LogitNormalFactor),
    (TiltedBeta, LogitNormalFactor),
    (dist.Uniform, LogitNormalFactor),
}
PAIRS = [pair for pair in registered_terms() if pair not in NOISE_PAIRS]
CLOSED = [pair for pair in PAIRS if pair not in DRAWN and pair[1] not in (DeltaFactor, BernoulliFactor)]
POINTS = [pair for pair in PAIRS if pair[1] is DeltaFactor]
STEP = 1e-3


def parameters_at(family, shape):
    """The typical parameters of a family, different in every entry of a shape; positive ones stay so."""
    if family is dist.Uniform:
        return {"low": number(0.0).expand(shape), "high": number(1.0).expand(shape)}
    count = math.prod(shape)
    bend = (
        torch.linspace(0.0, 0.6, count, dtype=torch.float64).view(shape) if count > 1 else torch.zeros(shape).double()
    )
    real = FAMILIES[family].real
    return {
        name: value - bend if name in real else value * bend.exp()
        for name, value in FAMILIES[family].parameters.items()
    }


def by_quadrature(pair, parameters, location, log_scale, inclusion=None):
    """The sum over the site of the oracle's entries."""
    family, kind = pair
    shape = np.broadcast_shapes(tuple(location.shape), *(tuple(p.shape) for p in parameters.values()))
    total = 0.0
    for index in np.ndindex(shape):
        at = {name: float(value.expand(shape)[index]) for name, value in parameters.items()}
        weight = 1.0 if inclusion is None else float(inclusion.expand(shape)[index])
        total += weight * entry(kind, family, at, float(location.expand(shape)[index]), float(log_scale[index]))
    return total


@pytest.mark.parametrize(
    "pair", CLOSED + sorted(DRAWN, key=str), ids=lambda pair: "-".join(kind.__name__ for kind in pair)
)
def test_the_oracle_s_two_rules_agree(pair):
    arguments = pair[1], pair[0], FAMILIES[pair[0]].parameters, 0.9, -0.6
    assert entry(*arguments) == pytest.approx(entry(*arguments, adaptive=True), rel=1e-11, abs=1e-11)


def difference(function):
    """The derivative at zero by the five-point rule, whose error is of the order of STEP to the fourth."""
    outer, inner = (function(2 * STEP) - function(-2 * STEP)), (function(STEP) - function(-STEP))
    return (8.0 * inner - outer) / (12.0 * STEP)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("pair", CLOSED, ids=lambda pair: "-".join(kind.__name__ for kind in pair))
def test_a_closed_form_is_the_quadrature_s(pair, level):
    parameters = parameters_at(pair[0], LEVELS[level])
    q = factor_at(pair[1], {"location": LOCATION, "log_scale": LOG_SCALE, "logit": LOGIT})
    found = float(site_term(Iid(pair[0](**parameters), SHAPE), q, q.value))
    expected = by_quadrature(pair, parameters, LOCATION, LOG_SCALE, LOGIT.sigmoid() if pair[1] is SlabFactor else None)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    # Control: the oracle tells apart what differs by a ten-millionth in one entry.
    nudged = by_quadrature(pair, parameters, LOCATION + 1e-7, LOG_SCALE, None)
    assert found != pytest.approx(nudged, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("pair", CLOSED, ids=lambda pair: "-".join(kind.__name__ for kind in pair))
def test_the_gradient_of_a_closed_form_is_the_quadrature_s_difference(pair):
    parameters = {name: value.clone().requires_grad_() for name, value in parameters_at(pair[0], ()).items()}
    location, log_scale = (number(value).requires_grad_() for value in (0.9, -0.6))
    q = factor_at(pair[1], {"location": location, "log_scale": log_scale, "logit": number(40.0)})
    value = site_term(Iid(pair[0](**parameters), ()), q, q.value)
    found = torch.autograd.grad(value, (location, log_scale, *parameters.values()))
    plain = {name: float(value.detach()) for name, value in parameters.items()}

    def moved(name):
        def at(step):
            there = plain | ({name: plain[name] + step} if name in plain else {})
            return entry(
                pair[1], pair[0], there, 0.9 + step * (name == "location"), -0.6 + step * (name == "log_scale")
            )

        return at

    expected = [difference(moved(name)) for name in ("location", "log_scale", *parameters)]
    assert [float(g) for g in found] == pytest.approx(expected, rel=3e-7, abs=3e-7)
    assert [float(g) for g in found] != pytest.approx([1.00001 * g for g in expected], rel=3e-7, abs=3e-7)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("pair", sorted(DRAWN, key=str), ids=lambda pair: "-".join(kind.__name__ for kind in pair))
def test_the_expectation_of_a_term_from_the_draw_is_the_quadrature_s(pair, level):
    """The term's own average over the noise, by a fine trapezoid: spectrally exact for what is smooth."""
    assert pair in PAIRS
    parameters = parameters_at(pair[0], LEVELS[level])
    prior, width = pair[0](**parameters), 1.0 / 16.0
    total = 0.0
    for node in np.arange(-9.0, 9.0 + width, width):
        noise = torch.full(SHAPE, float(node), dtype=torch.float64)
        q = factor_at(pair[1], {"location": LOCATION, "log_scale": LOG_SCALE}, noise)
        density = math.exp(-0.5 * node**2) / math.sqrt(2.0 * math.pi)
        total += width * density * float(site_term(Iid(prior, SHAPE), q, q.value))
    expected = by_quadrature(pair, parameters, LOCATION, LOG_SCALE)
    assert total == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert total + 1e-7 != pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("pair", POINTS, ids=lambda pair: "-".join(kind.__name__ for kind in pair))
def test_the_term_of_a_point_is_minus_scipy_s_log_density(pair, level):
    family = pair[0]
    parameters = parameters_at(family, LEVELS[level])
    positive = family(**parameters).support is not dist.constraints.real
    value = LOCATION.exp() if positive else LOCATION + 0.05  # away from zero, where a signed Gamma has none
    found = float(site_term(Iid(family(**parameters), SHAPE), DeltaFactor(value), value))
    expected = 0.0
    for index in np.ndindex(SHAPE):
        at = {name: float(number.expand(SHAPE)[index]) for name, number in parameters.items()}
        expected -= FAMILIES[family].log_density(float(value[index]), **at)
    assert found == pytest.approx(expected, rel=1e-12)
    assert found * (1.0 + 1e-10) != pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_half_cauchy_term_is_finite_and_exact_far_from_its_scale(scale):
    """The square of 1e30 is no float32; the tail goes as 2 log x."""
    location = torch.tensor([-60.0, -3.0, 0.0, 3.0, 10.0, 11.0, 70.0]).requires_grad_()
    q = factor_at(LogNormalFactor, {"location": location, "log_scale": torch.full_like(location, -3.0)})
    found = site_term(Iid(dist.HalfCauchy(torch.tensor(scale)), (7,)), q, q.value)
    gradient = torch.autograd.grad(found, location)[0]
    u = location.detach().double()
    tail = torch.logaddexp(torch.zeros(()).double(), 2.0 * (u - math.log(scale)))
    entries = -u + 3.0 - 0.5 * math.log(2 * math.pi * math.e) - math.log(2 / math.pi) + math.log(scale) + tail
    assert float(found.detach()) == pytest.approx(float(entries.sum()), rel=1e-5)
    expected = 2.0 * (2.0 * (u - math.log(scale))).sigmoid() - 1.0
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-6)
    naive = torch.log1p((location.detach().exp() / scale) ** 2)  # the control: as it is written in the formula
    assert not bool(torch.isfinite(naive).all())


@pytest.mark.parametrize("a", [1.0, 2.5])
@pytest.mark.parametrize(("location", "log_scale"), [(1.5, -2.0), (2.0, -1.0), (-3.0, 0.0)])
def test_a_term_on_the_unit_interval_has_less_noise_in_its_gradient_than_the_draw(location, log_scale, a):
    prior = dist.Beta(number(a), number(1.5))
    parameters = [torch.full((4000,), start, dtype=torch.float64) for start in (location, log_scale)]
    torch.manual_seed(2)
    noise = torch.randn(4000, dtype=torch.float64)
    spread = []
    for analytic in (True, False):
        m, r = (value.clone().requires_grad_() for value in parameters)
        q = factor_at(LogitNormalFactor, {"location": m, "log_scale": r}, noise)
        term = site_term(Iid(prior, (4000,)), q, q.value, analytic=analytic)
        spread.append([float(g.std()) for g in torch.autograd.grad(term, (m, r))])
    (by_location, by_scale), (drawn_location, drawn_scale) = spread
    assert by_location == pytest.approx(drawn_location, rel=1e-6)  # which passes the same derivative
    assert by_scale < 0.9 * drawn_scale


@pytest.mark.parametrize(("location", "ratio"), [(-4.0, 7e-4), (-2.0, 0.04), (0.0, 5.0), (4.0, 2.0)])
def test_the_half_cauchy_term_is_quiet_below_its_scale_and_twice_as_noisy_as_the_draw_above(location, ratio):
    torch.manual_seed(2)
    noise, spread = torch.randn(4000, dtype=torch.float64), []
    for analytic in (True, False):
        m, r = (torch.full((4000,), start, dtype=torch.float64, requires_grad=True) for start in (location, -2.3))
        q = factor_at(LogNormalFactor, {"location": m, "log_scale": r}, noise)
        term = site_term(Iid(dist.HalfCauchy(number(1.0)), (4000,)), q, q.value, analytic=analytic)
        spread.append(float(torch.autograd.grad(term, r)[0].std()))
    assert spread[0] / spread[1] == pytest.approx(ratio, rel=0.5)


def test_what_is_registered_is_what_the_site_gets():
    for pair in PAIRS:
        assert registered_term(*pair) is not None
    # Control: the exact class decides, not one it is derived from.
    assert registered_term(type("Other", (dist.Normal,), {}), NormalFactor) is None
