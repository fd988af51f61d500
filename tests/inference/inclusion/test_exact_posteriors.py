"""Spike-and-slab regression beside the exact posterior by enumeration.

Many copies of one regression are fitted at once, as outputs of one linear layer that share no parameter. The mean
over copies tells what the guide and the objective aim at; one copy carries the Monte Carlo error of a short fit.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.exact_posteriors import fitted_pips
from tests.oracles import spike_and_slab_reference as spike


def test_the_paired_guide_finds_the_exact_inclusion_probabilities_of_an_orthogonal_design():
    problem = spike.orthogonal_problem()
    exact = spike.enumerate_posterior(problem).pips
    assert ((exact > 0.1) & (exact < 0.9)).sum() >= 4
    found = fitted_pips(problem, "paired", 1800, 64)  # whose means have errors of up to 0.003
    np.testing.assert_allclose(found.mean(0), exact, atol=0.01)
    assert np.abs(found - exact).max() < 0.12  # a single copy, with its Monte Carlo error


def test_a_factorised_guide_does_not():
    problem = spike.orthogonal_problem()
    exact = spike.enumerate_posterior(problem).pips
    found = fitted_pips(problem, "meanfield", 600, 16, 0.02)
    assert np.abs(found.mean(0) - exact).max() > 0.2
    unsure = (exact > 0.25) & (exact < 0.75)
    assert (np.abs(found.mean(0) - exact)[unsure] > 0.1).all()


@pytest.mark.parametrize(("guide", "right"), [("paired", True), ("meanfield", False)])
def test_the_three_features_on_which_the_factorised_guide_is_known_to_fail(guide, right):
    problem = spike.factorised_failure_problem()
    exact = spike.enumerate_posterior(problem).pips
    found = fitted_pips(problem, guide, 600, 32, 0.01).mean(0)
    assert (np.abs(found - exact).max() < 0.03) == right
    assert (abs(found[0] - exact[0]) < 0.03) == right


def test_on_a_correlated_design_only_the_features_outside_the_correlated_group_are_close():
    """Diabetes: s1 to s4 (columns 4 to 7) are correlated up to 0.9; there each fit picks some of them."""
    problem = spike.diabetes_problem()
    exact = spike.enumerate_posterior(problem).pips
    found = fitted_pips(problem, "paired", 700, 16, 0.01)
    group = np.arange(4, 8)
    correlation = np.abs(np.corrcoef(problem.x.T) - np.eye(10))
    assert correlation[np.ix_(group, group)].max() > 0.85
    rest = np.setdiff1d(np.arange(10), group)
    assert np.abs(found.mean(0) - exact)[rest].max() < 0.1
    assert np.abs(found - exact)[:, group].max() > 0.2  # said in the docs: no exactness is claimed here
    assert np.corrcoef(found.mean(0), exact)[0, 1] > 0.8
