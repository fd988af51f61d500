"""Low rank plus diagonal: densities, draws, and the best approximation of posteriors that are Normal and correlated."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.families import NormalFamily
from bayesprune.inference.guides.guide import Guide, normals
from bayesprune.inference.guides.low_rank_normal import LowRankNormalFactor, LowRankNormalFamily
from bayesprune.inference.guides.registry import choosable_families, family
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.terms.registry import site_term
from bayesprune.models.language.iid import Iid
from bayesprune.models.language.tensor_prior import Site
from tests.oracles.conjugate_regression import regression
from tests.oracles.correlated_normals import divergence, expected_log_joint, least_divergence

PROBLEM = regression(size=80, features=5, correlation=0.9, seed=3)
POSTERIOR = np.linalg.inv(PROBLEM.precision)


def family_of_rank(rank):
    """A family of another rank, as a user declares it; registered once."""
    name = f"lowrank{rank}"
    if name in choosable_families():
        return name
    family(name, supports=("real",))(type(f"Rank{rank}", (LowRankNormalFamily,), {"rank": rank}))
    return name


def site(name, shape):
    return Site(name, name, name, shape, "real", "weight", None)


def model(problem=PROBLEM):
    line = nn.Linear(problem.x.shape[1], 1, bias=False).double()
    return bp.BayesianNetwork(
        line, {"weight": bp.Gaussian(problem.prior_sd)}, bp.Normal(problem.noise_sd), len(problem.y)
    )


def data(problem=PROBLEM):
    return torch.tensor(problem.x), torch.tensor(problem.y)


def covariance_of(guide):
    (one,) = guide.families
    loading = one.loading.detach().view(-1, one.rank).numpy()
    return loading @ loading.T + np.diag(np.exp(2.0 * one.log_scale.detach().numpy()))


# -- the factor ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_the_density_is_that_of_a_normal_with_the_dense_covariance(shape):
    torch.manual_seed(0)
    location, log_scale, value = (torch.randn(shape).double() for _ in range(3))
    q = LowRankNormalFactor(value, location, log_scale, torch.randn(*shape, 2).double())
    columns = q.loading.reshape(-1, 2)
    dense = columns @ columns.T + torch.diag((2.0 * log_scale).exp().reshape(-1))
    expected = torch.distributions.MultivariateNormal(location.reshape(-1), dense).log_prob(value.reshape(-1))
    torch.testing.assert_close(q.log_prob(value), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(q.distribution().log_prob(value), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(q.variance.reshape(-1), dense.diagonal(), rtol=1e-12, atol=1e-12)
    if len(columns) > 1:  # control: the marginals alone are another density
        assert not torch.allclose(q.marginals().log_prob(value), expected, rtol=1e-3)


def test_draws_have_the_covariance_inside_a_site_and_none_between_sites():
    sites = [site("a", (2, 2)), site("b", (3,))]
    one = LowRankNormalFamily(sites, {s.name: torch.full(s.shape, 0.4).double() for s in sites})
    with torch.no_grad():
        one.loading.copy_(1.0 + 0.5 * torch.randn(one.loading.shape, generator=torch.Generator().manual_seed(1)))
    torch.manual_seed(0)
    drawn = [one.draw() for _ in range(3000)]
    rows = torch.stack([torch.cat([f.value.detach().reshape(-1) for f in each.values()]) for each in drawn])
    expected = torch.zeros(7, 7).double()
    for begin, end, q in zip((0, 4), (4, 7), drawn[0].values(), strict=True):
        columns = q.loading.detach().reshape(-1, one.rank)
        expected[begin:end, begin:end] = columns @ columns.T + torch.diag(
            (2.0 * q.log_scale.detach()).exp().reshape(-1)
        )
    found = torch.cov(rows.T)
    errors = ((expected.diagonal()[:, None] * expected.diagonal() + expected.square()) / len(rows)).sqrt()
    assert float(((found - expected).abs() / errors).max()) < 4.5
    assert float((expected[:4, :4].abs() / errors[:4, :4]).min()) > 6  # control: zeros inside a site would be seen


def test_slices_hold_rank_numbers_an_entry_and_join_to_the_whole_vector():
    sites = [site("a", (2, 3)), site("b", ()), site("c", (4,))]
    one = LowRankNormalFamily(sites, {s.name: torch.ones(s.shape) for s in sites})
    pieces = [piece for piece in one.slices() if piece.parameter == "loading"]
    assert [piece.shape for piece in pieces] == [(2, 3, 8), (8,), (4, 8)]
    joined = torch.cat([piece.of(one.loading.detach()).reshape(-1) for piece in pieces])
    assert torch.equal(joined, one.loading.detach())
    assert [tuple(part.shape) for part in one.pieces("loading")] == [piece.shape for piece in pieces]


def test_building_a_guide_takes_no_random_numbers_and_starts_near_independent_normals():
    torch.manual_seed(4)
    before = torch.random.get_rng_state()
    one = LowRankNormalFamily([site("a", (50,))], {"a": torch.ones(50)})
    assert torch.equal(torch.random.get_rng_state(), before)
    own = one.log_scale.detach().exp()
    assert torch.equal(own, NormalFamily([site("a", (50,))], {"a": torch.ones(50)}).log_scale.detach().exp())
    wider = float((one.marginal_sds()["a"] / own).mean())
    assert 1.01 < wider < 1.15


# -- the objective -------------------------------------------------------------------------------------------------


def test_the_objective_is_pyro_s_on_average():
    bnn = model()
    guide, (x, y) = Guide(bnn, {"weight": "lowrank"}), data()
    ours = Objective(bnn, guide)
    torch.manual_seed(0)
    with torch.no_grad():
        found = np.array([float(ours(x, y)) for _ in range(200)])
        expected = np.array([Trace_ELBO().loss(bnn, guide, x, y) for _ in range(200)])
    error = math.sqrt((found.var(ddof=1) + expected.var(ddof=1)) / 200)
    assert abs(found.mean() - expected.mean()) < 4.0 * error
    assert found.mean() > 20.0 * error  # control: what is compared is far from nothing beside its error


def test_a_term_from_the_draw_is_log_q_less_log_p_of_the_whole_site():
    guide = Guide(model(), {"weight": "lowrank"})
    q, prior = guide.draw()["weight"], Iid(pyro.distributions.Normal(torch.zeros(()).double(), 1.0), (1, 5))
    dense = torch.distributions.MultivariateNormal(q.location.reshape(-1), torch.tensor(covariance_of(guide)))
    expected = dense.log_prob(q.value.reshape(-1)) - torch.distributions.Normal(0.0, 1.0).log_prob(q.value).sum()
    found = site_term(prior, q, q.value, analytic=False)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    held = q.landing_term(prior, q.value)
    torch.testing.assert_close(held, expected, rtol=1e-10, atol=1e-10)
    assert torch.autograd.grad(found, guide.families[0].loading, retain_graph=True)[0].abs().max() > 0
    assert not q.held().loading.requires_grad


@cache
def best(rank):
    """Where the closed-form ELBO of a family of that rank is largest, by quasi-Newton steps on the registered term."""
    guide = Guide(model(), {"weight": family_of_rank(rank)})
    (one,) = guide.families
    prior = Iid(pyro.distributions.Normal(torch.zeros(()).double(), torch.full((), PROBLEM.prior_sd).double()), (1, 5))
    x, y = data()
    optimizer = torch.optim.LBFGS(
        one.parameters(), max_iter=400, tolerance_grad=1e-9, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def loss():
        q = one.draw()["weight"]
        root = torch.cat([q.loading.reshape(5, -1), torch.diag(q.log_scale.exp().reshape(-1))], 1)
        residual = (y - x @ q.location.reshape(-1)).square().sum() + (x @ root).square().sum()
        return 0.5 * residual / PROBLEM.noise_sd**2 + site_term(prior, q, q.value)

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    return one.location.detach().numpy(), covariance_of(guide), -float(loss().detach())


def test_with_as_many_columns_as_weights_the_optimum_is_the_posterior():
    mean, covariance, _ = best(5)
    np.testing.assert_allclose(mean, PROBLEM.mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(covariance, POSTERIOR, rtol=1e-3, atol=1e-3 * POSTERIOR.max())
    # Control: independent Normals have the right means, and sds that are too small by the known factor.
    factor = np.sqrt(np.diag(POSTERIOR) * np.diag(PROBLEM.precision))
    np.testing.assert_allclose(PROBLEM.meanfield_sd * factor, np.sqrt(np.diag(POSTERIOR)), rtol=1e-12)
    assert factor.min() > 1.5


def test_every_column_brings_the_optimum_nearer_and_it_is_the_least_divergence_of_its_rank():
    independent = divergence(PROBLEM.mean, np.diag(PROBLEM.meanfield_sd**2), PROBLEM.mean, POSTERIOR)
    known = [least_divergence(PROBLEM.precision, rank) for rank in (1, 2)]
    found = [divergence(*best(rank)[:2], PROBLEM.mean, POSTERIOR) for rank in (1, 2)]
    assert found == pytest.approx(known, rel=1e-3)
    assert least_divergence(PROBLEM.precision, 0) == pytest.approx(independent, rel=1e-6)
    assert independent > 1.5 * known[0] > 2.0 * known[1] > 0.0


def test_the_bound_is_that_of_the_dense_covariance():
    mean, covariance, elbo = best(2)
    entropy = 0.5 * (np.linalg.slogdet(covariance)[1] + 5 * math.log(2.0 * math.pi * math.e))
    constants = -len(PROBLEM.y) * math.log(PROBLEM.noise_sd * math.sqrt(2.0 * math.pi))
    assert elbo + constants == pytest.approx(expected_log_joint(PROBLEM, mean, covariance) + entropy, rel=1e-9)


# -- fits ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    """Fits of the whole rank and of independent Normals; at the posterior this gradient has no noise left."""
    more = {"steps": 2000, "batch_size": 80, "kl_warmup": 0.0, "learning_rate": 0.01, "schedule": "cosine"}
    more |= {"precision": "float64", "sticking_the_landing": True, "execution": "fused", "compiled": False}
    return {name: bp.fit(model(), data(), {"weight": name}, **more) for name in (family_of_rank(5), "normal")}


def test_a_fit_of_the_whole_rank_comes_to_the_posterior(fitted):
    fit = fitted["lowrank5"]
    guide = fit.restarts[0].guide
    np.testing.assert_allclose(guide.means()["weight"].reshape(-1), PROBLEM.mean, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(covariance_of(guide), POSTERIOR, rtol=0.01, atol=0.01 * POSTERIOR.max())
    _, sds = normals(guide)["weight"]
    np.testing.assert_allclose(sds.reshape(-1), np.sqrt(np.diag(POSTERIOR)), rtol=0.01)
    _, independent = normals(fitted["normal"].restarts[0].guide)["weight"]
    assert (independent.reshape(-1).numpy() < 0.8 * np.sqrt(np.diag(POSTERIOR))).all()


def test_draws_of_the_fit_are_those_of_the_posterior(fitted):
    guide = fitted["lowrank5"].restarts[0].guide
    torch.manual_seed(1)
    rows = torch.stack([guide.sample()["weight"].reshape(-1) for _ in range(2000)]).numpy()
    scale = np.sqrt(np.outer(np.diag(POSTERIOR), np.diag(POSTERIOR)))
    assert np.abs((np.cov(rows.T) - POSTERIOR) / scale).max() < 0.1


def test_a_fit_is_saved_and_loaded_with_its_loadings(fitted, tmp_path):
    bnn = model()
    fit = bp.fit(bnn, data(), {"weight": "lowrank"}, steps=20, batch_size=80, precision="float64")
    fit.save(tmp_path / "fit")
    loaded = bp.Fit.load(tmp_path / "fit", model())
    for name, value in fit.restarts[0].guide.state_dict().items():
        assert torch.equal(loaded.restarts[0].guide.state_dict()[name], value)


def test_both_executions_come_to_the_same_numbers():
    found = []
    for execution in ("plain", "fused"):
        torch.manual_seed(0)
        more = {"steps": 30, "batch_size": 80, "precision": "float64", "execution": execution, "compiled": False}
        fit = bp.fit(model(), data(), {"weight": "lowrank"}, **more)
        found.append(torch.cat([p.detach().reshape(-1) for p in fit.restarts[0].guide.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_what_needs_one_number_a_weight_refuses_loadings_in_a_sentence():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))
    bnn = bp.BayesianNetwork(network, {"*.weight": bp.Gaussian(1.0)}, bp.Normal(1.0), 80)
    x, y = (part.float() for part in data())
    with pytest.raises(ValueError, match="one number a weight of every parameter of the guide"):
        bp.fit(bnn, (x, y), {"weight": "lowrank"}, steps=5, rules=[bp.DynamicMasks(density=0.5)])
