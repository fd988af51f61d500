"""The front of many points."""

from __future__ import annotations

import numpy as np
import pytest

from bayesprune.inference.non_dominated import non_dominated


@pytest.mark.parametrize("measures", [1, 2, 3])
def test_the_front_is_what_a_comparison_of_all_pairs_leaves(measures):
    generator = np.random.default_rng(measures)
    for _ in range(50):
        goods = generator.integers(0, 6, (12, measures)).astype(float)  # small whole numbers: many are equal
        goods[generator.random(12) < 0.1, 0] = np.nan
        points = [tuple(row) for row in goods if np.isfinite(row).all()]
        undominated = {
            one for one in points if not any(all(map(float.__ge__, rival, one)) and rival != one for rival in points)
        }
        kept = non_dominated(goods)
        assert [tuple(goods[i]) for i in kept] == sorted(undominated, reverse=True)
        assert all(i == [tuple(row) for row in goods].index(tuple(goods[i])) for i in kept)  # of equal ones the first
    assert non_dominated([[1.0, 1.0], [2.0, 1.0]]) == [1]  # control: one of the two is beaten
    assert non_dominated([[1.0, 2.0], [2.0, 1.0]]) == [1, 0]


def test_nothing_is_the_front_of_nothing():
    assert non_dominated(np.zeros((0, 2))) == [] and non_dominated([[np.nan, 1.0], [np.inf, 0.0]]) == []
