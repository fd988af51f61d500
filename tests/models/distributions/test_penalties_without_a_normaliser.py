"""A price on what is not zero, and a Normal whose scale is fitted: their log densities, and that none is drawn."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from bayesprune.models.distributions.fitted_normal import FittedNormal
from bayesprune.models.distributions.nonzero_penalty import NonzeroPenalty
from tests.oracles.known_terms import number

VALUES = torch.tensor([-2.0, -0.3, 1e-3, 0.5, 1.0], dtype=torch.float64)


def test_a_fitted_normal_has_the_largest_density_of_all_scales_times_its_strength():
    found = FittedNormal(number(0.7)).log_prob(VALUES)
    assert found.tolist() == pytest.approx([0.7 * stats.norm.logpdf(x, 0.0, abs(x)) for x in VALUES], rel=1e-12)
    for other in (0.99, 1.01):  # no other scale has as much
        worse = torch.tensor([0.7 * stats.norm.logpdf(x, 0.0, other * abs(x)) for x in VALUES])
        assert bool((worse < found - 1e-5).all())


def test_a_value_costs_its_price_where_it_is_not_zero():
    value = torch.tensor([0.0, 1e-300, 0.5, 1.0, 0.0], dtype=torch.float64)
    assert NonzeroPenalty(number(2.5)).log_prob(value).tolist() == [0.0, -2.5, -2.5, -2.5, 0.0]


@pytest.mark.parametrize("kind", [FittedNormal, NonzeroPenalty])
def test_neither_is_drawn_and_both_keep_their_number_format(kind):
    one = kind(number(0.5)).expand((2, 3))
    assert one.batch_shape == (2, 3) and one.log_prob(torch.full((2, 3), 0.3)).dtype == torch.float64
    assert kind(0.5).log_prob(torch.tensor(0.3)).dtype == torch.float32  # the control: Python's numbers are the default
    with pytest.raises(ValueError, match="it cannot be sampled: fit it with a guide"):
        one.sample()
