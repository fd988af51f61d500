"""Surrogates: expected improvement by quadrature, ranks by SciPy, features by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm, spearmanr

from bayesprune.inference.search.surrogate import (
    expected_improvement,
    genome_features,
    rank_correlation,
    upper_confidence,
)
from bayesprune.models.genomes.genome import Genome
from bayesprune.models.genomes.search_space import SearchSpace


@pytest.mark.parametrize(("mean", "sd", "best"), [(0.3, 0.2, 0.5), (0.9, 0.1, 0.5), (-1.0, 2.0, 0.0), (0.5, 1e-3, 0.5)])
def test_expected_improvement_is_the_integral(mean, sd, best):
    def integrand(score):
        return (score - best) * norm.pdf(score, mean, sd)

    expected = quad(integrand, best, max(best, mean) + 12 * sd, epsabs=1e-13, limit=200)[0]
    found = expected_improvement(np.array([mean]), np.array([sd]), best)[0]
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-12)
    assert found != pytest.approx(max(mean - best, 0.0), rel=1e-8, abs=1e-12) or sd < 0.2  # control


def test_without_uncertainty_it_is_the_gain():
    found = expected_improvement(np.array([0.2, 0.7]), np.zeros(2), 0.5)
    assert found.tolist() == pytest.approx([0.0, 0.2])
    assert upper_confidence(np.array([0.2]), np.array([0.3]), 9.0).tolist() == pytest.approx([0.5])


def test_ranks_are_those_of_scipy():
    rng = np.random.default_rng(0)
    for size in (3, 10, 40):
        first, second = rng.integers(0, 6, size).astype(float), rng.normal(size=size)
        assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert rank_correlation(np.ones(5), np.arange(5.0)) is None
    assert rank_correlation(np.arange(2.0), np.arange(2.0)) is None


def test_features_of_a_genome_by_hand():
    space = SearchSpace((1, 8, 8), 10, ("conv3x3", "max-pool", "linear", "identity"))
    # 0 -> conv 1 -> pool 2 -> linear 3 -> out; 1 -> 3; vertex 4 is dead
    edges = ((0, 1), (1, 2), (2, 3), (1, 3), (3, 5), (0, 4))
    genome = Genome(("conv3x3", "max-pool", "linear", "identity"), (8, 0, 16, 0), edges)
    maps = 8 * 4 * 4  # of 8 x 8 averaged to 4 x 4, and of 4 x 4
    parameters = (9 * 8 + 8) + (2 * maps * 16 + 16) + (16 * 10 + 10)
    assert genome_features(genome, space).tolist() == pytest.approx([3, 5, 3, 2, 1, 1, np.log(parameters), 1, 1, 1, 0])
