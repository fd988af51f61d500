"""Terms of Normals that are correlated inside a site: scipy's quadrature of the marginals, and a dense covariance."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from bayesprune.inference.guides.factors import NormalFactor
from bayesprune.inference.guides.low_rank_normal import LowRankNormalFactor
from bayesprune.inference.terms.check import check_term
from bayesprune.inference.terms.real import normal_normal
from bayesprune.inference.terms.registry import registered_term
from tests.oracles.correlated_normals import divergence, total_correlation
from tests.oracles.known_terms import FAMILIES, entry, factor_at, number, typical

SHAPE, RANK = (2, 3), 2


def guide(seed=0, shape=SHAPE):
    torch.manual_seed(seed)
    location, log_scale = torch.randn(shape).double(), 0.3 * torch.randn(shape).double() - 0.7
    return {"location": location, "log_scale": log_scale, "loading": 0.6 * torch.randn(*shape, RANK).double()}


def covariance_of(parameters):
    columns = parameters["loading"].reshape(-1, RANK).numpy()
    return columns @ columns.T + np.diag(np.exp(2.0 * parameters["log_scale"].reshape(-1).numpy()))


@pytest.mark.parametrize("family", [dist.Normal, dist.Laplace])
def test_a_term_is_the_quadrature_of_the_marginals_and_the_total_correlation(family):
    given, parameters = guide(), {name: number(v) for name, v in FAMILIES[family].parameters.items()}
    covariance = covariance_of(given)
    term, q = registered_term(family, LowRankNormalFactor), factor_at(LowRankNormalFactor, given)
    found = float(term(family(**parameters), q))
    sds, at = np.sqrt(np.diag(covariance)), FAMILIES[family].parameters
    means = given["location"].reshape(-1).tolist()
    alone = sum(entry(NormalFactor, family, at, m, math.log(s)) for m, s in zip(means, sds, strict=True))
    assert found == pytest.approx(alone + total_correlation(covariance), rel=1e-9)
    assert total_correlation(covariance) > 0.5  # control: independent entries would be seen
    assert found != pytest.approx(alone, rel=1e-2)


def test_the_term_of_a_normal_prior_is_the_divergence_of_two_normals_by_their_whole_covariances():
    given = guide(1)
    scales = torch.rand(SHAPE).double() + 0.5
    found = registered_term(dist.Normal, LowRankNormalFactor)(
        dist.Normal(torch.full(SHAPE, 0.2).double(), scales), factor_at(LowRankNormalFactor, given)
    )
    theirs = np.diag(scales.reshape(-1).square().numpy())
    ours = given["location"].reshape(-1).numpy()
    assert float(found) == pytest.approx(divergence(ours, covariance_of(given), np.full(6, 0.2), theirs), rel=1e-10)


def test_entropy_and_total_correlation_are_those_of_the_dense_covariance():
    given = guide(2)
    q, covariance = factor_at(LowRankNormalFactor, given), covariance_of(given)
    dense = 0.5 * (np.linalg.slogdet(covariance)[1] + 6 * math.log(2.0 * math.pi * math.e))
    assert float(q.entropy()) == pytest.approx(dense, rel=1e-12)
    assert float(q.total_correlation()) == pytest.approx(total_correlation(covariance), rel=1e-12)


def test_with_loadings_of_zero_the_term_is_that_of_independent_normals():
    given = guide(3) | {"loading": torch.zeros(*SHAPE, RANK).double()}
    prior = typical(dist.Normal)
    independent = factor_at(NormalFactor, {name: given[name] for name in ("location", "log_scale")})
    found = registered_term(dist.Normal, LowRankNormalFactor)(prior, factor_at(LowRankNormalFactor, given))
    torch.testing.assert_close(found, normal_normal(prior, independent), rtol=1e-12, atol=1e-12)


def test_the_check_of_terms_sees_a_total_correlation_that_was_forgotten():
    def forgotten(prior, q):
        return normal_normal(prior, q.marginals())

    with pytest.raises(ValueError, match="is wrong in its value"):
        check_term(typical(dist.Normal), LowRankNormalFactor, forgotten)
    assert check_term(typical(dist.Normal), LowRankNormalFactor).z_score > 0.1
