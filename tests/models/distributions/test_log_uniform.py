"""Log-uniform densities: on the whole line by what defines the constant, between two ends against SciPy's."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, stats

from bayesprune.models.distributions.log_uniform import LogUniform, TruncatedLogUniform
from tests.oracles.known_terms import number


def test_a_log_uniform_density_falls_as_one_over_its_argument():
    value = torch.tensor([-4.0, 0.5, 2.0], dtype=torch.float64)
    found = LogUniform().log_prob(value)
    assert (found - found[1]).tolist() == pytest.approx([math.log(0.125), 0.0, math.log(0.25)], rel=1e-12)
    # Its constant, by the integral that defines it: KL(Normal(0, s) || it) = 0 for any s.
    mean, _ = integrate.quad(lambda e: 2.0 * stats.norm.pdf(e) * math.log(e), 0.0, 38.0, epsabs=1e-13)
    assert float(found[2] + math.log(2.0)) == pytest.approx(mean - 0.5 * math.log(2.0 * math.pi * math.e), rel=1e-9)


def test_the_truncated_log_uniform_is_scipys():
    q, known = TruncatedLogUniform(number(-3.0), number(0.7)), stats.loguniform(math.exp(-3.0), math.exp(0.7))
    value = torch.linspace(0.06, 2.0, 9, dtype=torch.float64)
    assert q.log_prob(value).tolist() == pytest.approx(known.logpdf(value.numpy()).tolist(), rel=1e-12)
    assert q.log_prob(torch.tensor([0.01, 2.1])).tolist() == [-math.inf, -math.inf]
    drawn = q.sample((20_000,))
    assert stats.kstest(drawn.numpy(), known.cdf).pvalue > 1e-3
    assert stats.kstest(1.05 * drawn.numpy(), known.cdf).pvalue < 1e-3
    assert q.expand((2, 3)).sample().shape == (2, 3)
