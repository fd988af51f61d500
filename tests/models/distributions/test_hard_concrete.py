"""Hard concrete gates: the formulas of the paper, and where a trained gate closes."""

from __future__ import annotations

import math

import pytest
import torch

from bayesprune.models.distributions.hard_concrete import hard_concrete, trained_gate
from tests.oracles.known_terms import number
from tests.oracles.noise_reference import open_probability


def test_a_gate_is_the_papers_formula_at_the_uniform_number_of_the_noise():
    noise = torch.linspace(-5.0, 5.0, 21, dtype=torch.float64)
    u = 0.5 * torch.erfc(-noise / math.sqrt(2.0))
    for log_alpha in (-3.0, 0.4, 5.0):
        share = torch.sigmoid((u.log() - (1.0 - u).log() + log_alpha) / (2.0 / 3.0))
        expected = (1.2 * share - 0.1).clamp(0.0, 1.0)
        torch.testing.assert_close(hard_concrete(number(log_alpha), noise), expected, rtol=1e-9, atol=1e-9)
        trained = min(1.0, max(0.0, 1.2 / (1.0 + math.exp(-log_alpha)) - 0.1))
        assert float(trained_gate(number(log_alpha))) == pytest.approx(trained, rel=1e-12)
    assert not torch.allclose(hard_concrete(number(0.4), noise), hard_concrete(number(0.4001), noise), atol=1e-9)


def test_the_authors_rule_is_an_inclusion_probability_of_31_percent():
    """A trained gate is zero below log alpha = -log 11, where P(z != 0) is what the page on the prior says."""
    border = -math.log(11.0)
    assert float(trained_gate(number(border - 1e-9))) == 0.0 and float(trained_gate(number(border + 1e-6))) > 0.0
    assert open_probability(border) == pytest.approx(0.310, abs=5e-4)
