"""A Gamma with a random sign, against SciPy's Gamma."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bayesprune.models.distributions.signed_gamma import SignedGamma


def test_a_signed_gamma_is_a_gamma_with_a_random_sign():
    one = SignedGamma(3.0, torch.tensor(0.7, dtype=torch.float64))
    value = torch.linspace(-9.0, 9.0, 40, dtype=torch.float64)
    expected = stats.gamma(3.0, scale=1 / 0.7).logpdf(value.abs()) - math.log(2.0)
    np.testing.assert_allclose(one.log_prob(value), expected, rtol=1e-12)
    other = SignedGamma(3.0, torch.tensor(0.7 + 1e-9, dtype=torch.float64))  # the control: another rate
    assert np.abs(other.log_prob(value).numpy() / expected - 1.0).max() > 1e-10
    torch.manual_seed(0)
    drawn = one.sample((20_000,))
    assert abs(float((drawn > 0).double().mean()) - 0.5) < 0.015
    assert stats.kstest(drawn.abs().numpy(), stats.gamma(3.0, scale=1 / 0.7).cdf).pvalue > 1e-3
    assert float(one.variance) == pytest.approx(float((drawn**2).mean()), rel=0.05)
    assert one.expand((2, 3)).sample().shape == (2, 3)
