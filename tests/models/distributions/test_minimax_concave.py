"""The minimax concave penalty against its definition, and its slope."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bayesprune.models.distributions.minimax_concave import MinimaxConcave
from tests.oracles.weight_penalties import mcp_penalty

WEIGHTS = torch.tensor([-7.0, -2.0, -0.31, -1e-3, 0.0, 1e-6, 0.5, 1.9999, 2.0001, 1e4], dtype=torch.float64)


@pytest.mark.parametrize(("lam", "gamma"), [(1.0, 2.0), (0.1, 20.0), (40.0, 0.01), (3.0, 100.0)])
def test_minus_the_log_density_is_the_integral_of_its_slope(lam, gamma):
    found = -MinimaxConcave(lam, torch.tensor(gamma, dtype=torch.float64)).log_prob(WEIGHTS)
    expected = np.array([mcp_penalty(float(w), lam, gamma) for w in WEIGHTS])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    lasso = lam * WEIGHTS.abs().numpy()  # the control: without the concave part
    assert np.abs(found.numpy() - lasso).max() > 0.01


def test_the_gradient_is_that_of_the_lasso_at_zero_and_none_beyond_the_end():
    w = torch.tensor([1e-9, 1.0, 1.999, 2.001, -50.0], dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(-MinimaxConcave(1.0, 2.0).log_prob(w).sum(), w)
    np.testing.assert_allclose(slopes, [1.0, 0.5, 0.0005, 0.0, 0.0], atol=1e-7)
