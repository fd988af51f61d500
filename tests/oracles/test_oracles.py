"""The oracles check one another: closed forms against enumeration, quadrature, scipy and differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from tests.oracles import halo_reference as halo
from tests.oracles import horseshoe_reference as horseshoe
from tests.oracles import spike_and_slab_reference as spike
from tests.oracles import str_reference as soft


@pytest.mark.parametrize(("xi", "psi"), [(1.0, 1.0), (0.3, 2.0), (1e-3, 1e-3)])
def test_halo_log_joint_plus_penalty_is_constant_and_a_wrong_sign_is_not(xi: float, psi: float) -> None:
    rng = np.random.default_rng(0)
    w, lam = rng.standard_normal(50), rng.uniform(0.2, 3.0, 50)
    penalty = xi * np.abs(w) / lam**2 + psi * np.abs(lam)
    joint = halo.halo_log_joint(w, lam, xi, psi)
    scipys = stats.laplace(scale=lam**2 / xi).logpdf(w) + stats.gamma(3.0, scale=1.0 / psi).logpdf(lam)
    np.testing.assert_allclose(joint, scipys, atol=1e-10)
    np.testing.assert_allclose(joint + penalty, halo.halo_log_joint_constant(xi, psi), atol=1e-10)
    assert np.ptp(joint - penalty) > 1e-3
    tensor = halo.halo_penalty([torch.tensor(w)], [torch.tensor(lam)], xi, psi)
    assert float(tensor) == pytest.approx(float(penalty.sum()), rel=1e-12)


def test_an_exponential_hyper_prior_is_not_equivalent_to_the_halo_penalty() -> None:
    lam = np.linspace(0.2, 3.0, 20)
    penalty = 1.0 / lam**2 + lam
    exponential = stats.laplace(scale=lam**2).logpdf(1.0) + stats.expon().logpdf(lam)
    assert np.ptp(exponential + penalty) > 1.0


@pytest.mark.parametrize(("xi", "psi"), [(1.0, 1.0), (2.0, 3.0)])
def test_halo_marginal_moments_agree_with_quadrature(xi: float, psi: float) -> None:
    kappa = xi * psi**2

    def moment(power: int) -> float:
        # Log-spaced in w: a cusp at 0 and a stretched-exponential tail of scale 1 / kappa.
        def integrand(log_w: float) -> float:
            w = math.exp(log_w)
            return 2.0 * w ** (power + 1) * halo.halo_marginal_density(w, xi, psi)

        low, high = math.log(1e-9 / kappa), math.log(1e6 / kappa)
        return float(integrate.quad(integrand, low, high, limit=200, epsrel=1e-9)[0])

    first, second = halo.halo_prior_moments(kappa)
    assert moment(0) == pytest.approx(1.0, abs=1e-7)
    assert moment(1) == pytest.approx(first, rel=1e-6)
    assert moment(2) == pytest.approx(second, rel=1e-6)
    assert halo.halo_marginal_density(0.0, xi, psi) == pytest.approx(xi * psi**2 / 4.0, rel=1e-8)


def test_halo_penalty_gradients_agree_with_central_differences() -> None:
    rng = np.random.default_rng(1)
    w = rng.standard_normal(6)
    lam = rng.uniform(0.5, 2.0, 6) * np.array([1, 1, -1, 1, -1, 1])
    xi, psi, step = 0.7, 0.4, 1e-6

    def penalty(w_: np.ndarray, lam_: np.ndarray) -> float:
        return float(halo.halo_penalty([torch.tensor(w_)], [torch.tensor(lam_)], xi, psi))

    in_w, in_lam = halo.halo_penalty_gradients(w, lam, xi, psi)
    for j, e in enumerate(np.eye(6) * step):
        assert in_w[j] == pytest.approx((penalty(w + e, lam) - penalty(w - e, lam)) / (2 * step), abs=1e-7)
        assert in_lam[j] == pytest.approx((penalty(w, lam + e) - penalty(w, lam - e)) / (2 * step), abs=1e-7)


@pytest.mark.parametrize("same", [True, False])
def test_halo_loop_is_two_torch_sgd_optimisers_on_loss_plus_penalty(same: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(5, 3, generator=generator, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]
    xs = torch.randn(40, 8, 5, generator=generator, dtype=torch.float64)
    ys = torch.randint(3, (40, 8), generator=generator)

    def loss_fn(parameters: list[torch.Tensor], step: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(xs[step] @ parameters[0] + parameters[1], ys[step])

    xi, psi, decay, rate = 1e-3, 1e-2, 1e-2, 0.1
    found = halo.halo_training_loop(start, loss_fn, xi, psi, decay, rate, 0.9, 40)
    ws = [p.clone().requires_grad_() for p in start]
    lams = [torch.ones_like(p).requires_grad_() for p in start]
    optimisers = [
        torch.optim.SGD(ws, rate, momentum=0.9, weight_decay=decay),
        # The control forgets the weight decay on lambda.
        torch.optim.SGD(lams, rate, momentum=0.9, weight_decay=decay if same else 0.0),
    ]
    for step in range(40):
        objective = loss_fn(ws, step) + halo.halo_penalty(ws, lams, xi, psi)
        assert not same or found.steps[step].objective == pytest.approx(objective.item(), abs=1e-12)
        for optimiser in optimisers:
            optimiser.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        for optimiser in optimisers:
            optimiser.step()
    pairs = zip(found.weights + found.lambdas, ws + lams, strict=True)
    difference = max(float((a - b.detach()).abs().max()) for a, b in pairs)
    assert (difference < 1e-12) if same else (difference > 1e-4)
    assert torch.equal(found.weight_path[-1][0], found.weights[0]) and len(found.steps) == 40


def test_halo_loop_leaves_unregularised_parameters_without_lambdas() -> None:
    start = [torch.ones(2, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]

    def no_loss(parameters: list[torch.Tensor], step: int) -> torch.Tensor:
        return 0.0 * (parameters[0].sum() + parameters[1].sum())

    found = halo.halo_training_loop(start, no_loss, 0.1, 0.1, 0.0, 0.1, 0.9, 5, regularised=[True, False])
    assert torch.equal(found.weights[1], start[1]) and not torch.equal(found.weights[0], start[0])
    assert [tuple(lam.shape) for lam in found.lambdas] == [(2,)]


@pytest.mark.parametrize("seed", range(5))
def test_enumeration_agrees_with_the_closed_form_on_orthogonal_designs(seed: int) -> None:
    problem = spike.orthogonal_problem(seed)
    exact, closed = spike.enumerate_posterior(problem), spike.orthogonal_posterior(problem)
    for name in ("pips", "mean", "included_mean", "included_variance", "log_evidence"):
        found, wanted = getattr(exact, name), getattr(closed, name)
        np.testing.assert_allclose(found, wanted, atol=1e-10, rtol=1e-10, err_msg=name)


def test_enumeration_agrees_with_the_marginal_density_of_y_on_a_correlated_design() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 3)) @ np.array([[1.0, 0.8, 0.1], [0.0, 0.6, 0.5], [0.0, 0.0, 0.9]])
    problem = spike.RegressionProblem(x, rng.standard_normal(7) + x[:, 0], 0.6, 1.3, 0.3)
    logs, bits = [], []
    for subset in range(8):
        z = np.array([subset >> j & 1 for j in range(3)])
        cov = 0.36 * np.eye(7) + 1.69 * (x * z) @ x.T
        log_prior = z.sum() * math.log(0.3) + (3 - z.sum()) * math.log(0.7)
        logs.append(stats.multivariate_normal(cov=cov).logpdf(problem.y) + log_prior)
        bits.append(z)
    evidence = float(np.logaddexp.reduce(logs))
    exact = spike.enumerate_posterior(problem)
    assert exact.log_evidence == pytest.approx(evidence, abs=1e-10)
    np.testing.assert_allclose(exact.pips, np.exp(np.array(logs) - evidence) @ np.array(bits), atol=1e-12)
    with pytest.raises(ValueError, match="not orthogonal"):
        spike.orthogonal_posterior(problem)


def test_paired_elbo_reaches_the_evidence_on_an_orthogonal_design_and_nowhere_else() -> None:
    problem = spike.orthogonal_problem(0)
    exact = spike.orthogonal_posterior(problem)
    a, m, v = exact.pips, exact.included_mean, exact.included_variance
    assert spike.paired_elbo(problem, a, m, v) == pytest.approx(exact.log_evidence, abs=1e-9)
    assert spike.paired_elbo(problem, 0.9 * a, m, v) < exact.log_evidence - 1e-2
    assert spike.paired_elbo(problem, a, m, 1.5 * v) < exact.log_evidence - 1e-2
    for found, wanted in zip(spike.paired_fixed_point(problem), (a, m, v), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-10)


def test_paired_kl_agrees_with_monte_carlo() -> None:
    rng = np.random.default_rng(2)
    a, m, v, inclusion, slab_sd = 0.6, 0.8, 0.2, 0.1, 1.5
    z = rng.random(400_000) < a
    w = np.where(z, m + math.sqrt(v) * rng.standard_normal(z.size), slab_sd * rng.standard_normal(z.size))
    slab = stats.norm(0.0, slab_sd).logpdf(w)
    inside = math.log(a / inclusion) + stats.norm(m, math.sqrt(v)).logpdf(w) - slab
    ratio = np.where(z, inside, math.log((1 - a) / (1 - inclusion)))
    kl = float(spike.paired_kl(np.array(a), np.array(m), np.array(v), inclusion, slab_sd))
    assert kl == pytest.approx(ratio.mean(), abs=5.0 * ratio.std() / math.sqrt(z.size))
    b = z * w
    mean, variance = spike.paired_moments(np.array(a), np.array(m), np.array(v))
    assert float(mean) == pytest.approx(b.mean(), abs=0.01)
    assert float(variance) == pytest.approx(b.var(), abs=0.01)


def test_expected_log_likelihood_agrees_with_monte_carlo_over_independent_weights() -> None:
    rng = np.random.default_rng(3)
    problem = spike.RegressionProblem(rng.standard_normal((6, 3)), rng.standard_normal(6), 0.8, 1.0, 0.5)
    mean, variance = rng.standard_normal(3), rng.uniform(0.1, 1.0, 3)
    b = mean + np.sqrt(variance) * rng.standard_normal((100_000, 3))
    draws = stats.norm(b @ problem.x.T, problem.noise_sd).logpdf(problem.y).sum(1)
    exact = spike.expected_log_likelihood(problem, mean, variance)
    assert exact == pytest.approx(draws.mean(), abs=5.0 * draws.std() / math.sqrt(len(draws)))


def test_factorised_guide_fails_where_the_paired_guide_is_exact() -> None:
    problem = spike.factorised_failure_problem()
    exact = spike.enumerate_posterior(problem).pips
    factorised = spike.factorised_fixed_point(problem)[0]
    paired = spike.paired_fixed_point(problem)[0]
    assert np.round(exact, 3).tolist() == [0.822, 0.131, 0.137]
    assert np.round(factorised, 3).tolist() == [0.976, 0.0, 0.0]
    np.testing.assert_allclose(paired, exact, atol=1e-10)
    ambiguous = spike.orthogonal_problem(0)
    wrong = spike.factorised_fixed_point(ambiguous)[0] - spike.enumerate_posterior(ambiguous).pips
    assert np.abs(wrong).max() > 0.1


def test_factorised_fixed_point_is_a_maximum_of_its_own_elbo() -> None:
    problem = spike.factorised_failure_problem()
    x_norm, noise, slab = 200.0, problem.noise_sd**2, problem.slab_sd**2

    def elbo(a: np.ndarray, m: np.ndarray, v: np.ndarray) -> float:
        mean, variance = a * m, a * (v + m**2) - (a * m) ** 2
        gate = a * np.log(a / problem.inclusion) + (1 - a) * np.log((1 - a) / (1 - problem.inclusion))
        normal = 0.5 * (v / slab + m**2 / slab - 1.0 - np.log(v / slab))
        return spike.expected_log_likelihood(problem, mean, variance) - float((gate + normal).sum())

    a, m, v = spike.factorised_fixed_point(problem)
    best = elbo(a, m, v)
    assert x_norm / noise * a[0] + 1.0 / slab == pytest.approx(1.0 / v[0], rel=1e-9)
    for factor in (0.98, 1.02):
        assert elbo(np.clip(a * factor, 0.0, 1.0 - 1e-9), m, v) <= best + 1e-12
        assert elbo(a, m * factor, v) <= best + 1e-12
        assert elbo(a, m, v * factor) <= best + 1e-12
    assert best < spike.enumerate_posterior(problem).log_evidence - 0.1


def test_diabetes_is_standardised_correlated_and_bounded_by_its_evidence() -> None:
    problem = spike.diabetes_problem()
    np.testing.assert_allclose(problem.x.std(0), 1.0, atol=1e-12)
    np.testing.assert_allclose(problem.x.mean(0), 0.0, atol=1e-12)
    assert problem.x.shape == (442, 10) and 0.6 < problem.noise_sd < 0.8
    assert np.abs(np.corrcoef(problem.x.T) - np.eye(10)).max() > 0.8
    exact = spike.enumerate_posterior(problem)
    assert spike.paired_elbo(problem, *spike.paired_fixed_point(problem)) < exact.log_evidence


@pytest.mark.parametrize("regularised", [False, True])
def test_horseshoe_log_joints_agree_with_scipy(regularised: bool) -> None:
    rng = np.random.default_rng(4)
    problem = horseshoe.horseshoe_problem()
    z, lam, tau, c2 = rng.standard_normal(8), np.abs(rng.standard_cauchy(8)), 0.3, 2.5
    scale = lam * tau
    wanted = stats.norm.logpdf(z).sum() + stats.halfcauchy.logpdf(lam).sum()
    wanted += stats.halfcauchy(scale=problem.global_scale).logpdf(tau)
    data = (problem.x, problem.y, z, lam, tau)
    if regularised:
        scale = np.sqrt(c2) * lam * tau / np.sqrt(c2 + (tau * lam) ** 2)
        wanted += stats.invgamma(2.0, scale=2.0 * 1.5**2).logpdf(c2)
        found = horseshoe.regularised_horseshoe_log_joint(
            *data, c2, problem.noise_sd, problem.global_scale, slab_scale=1.5, slab_df=4.0
        )
    else:
        found = horseshoe.horseshoe_log_joint(*data, problem.noise_sd, problem.global_scale)
    wanted += stats.norm(problem.x @ (z * scale), problem.noise_sd).logpdf(problem.y).sum()
    assert found == pytest.approx(float(wanted), abs=1e-9)


def test_regularised_scale_is_the_local_scale_when_small_and_the_slab_when_large() -> None:
    lam, tau, c2 = np.array([1e-4, 1e6]), 0.1, 4.0
    scale = tau * horseshoe.regularised_local_scale(lam, tau, c2)
    np.testing.assert_allclose(scale, [1e-5, 2.0], rtol=1e-6)


@pytest.mark.parametrize("form", ["sigmoid", "exp"])
@pytest.mark.parametrize("shape", [(), (3, 1), (1, 4)], ids=["one threshold", "one a row", "one a column"])
def test_gradients_of_soft_thresholds_are_those_of_autograd_and_of_differences(
    form: str, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    w, s, in_soft = rng.standard_normal((3, 4)), rng.normal(-0.5, 0.3, shape), rng.standard_normal((3, 4))
    in_w, in_s = soft.str_gradients(w, s, in_soft, form)
    leaves = [torch.tensor(value, requires_grad=True) for value in (w, s)]
    g = leaves[1].exp() if form == "exp" else leaves[1].sigmoid()
    loss = (torch.tensor(in_soft) * leaves[0].sign() * torch.relu(leaves[0].abs() - g)).sum()
    for found, expected in zip((in_w, in_s), torch.autograd.grad(loss, leaves), strict=True):
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-13, atol=1e-15)

    def total(step: float) -> float:
        return float((in_soft * soft.soft(w, np.asarray(s) + step, form)).sum())

    assert (total(1e-6) - total(-1e-6)) / 2e-6 == pytest.approx(float(in_s.sum()), rel=1e-7)
    assert 0 < (soft.soft(w, s, form) == 0).sum() < w.size
    for mistake in ("sign of ds", "straight through"):
        wrong = soft.str_gradients(w, s, in_soft, form, mistake)
        assert max(np.abs(wrong[0] - in_w).max(), np.abs(wrong[1] - in_s).max()) > 0.05


def test_a_threshold_that_sleeps_is_exactly_zero_and_has_no_slope() -> None:
    assert [float(x) for x in soft.threshold(np.asarray(-3200.0), "sigmoid")] == [0.0, 0.0]
    assert [float(x) for x in soft.threshold(np.asarray(-3200.0), "exp")] == [0.0, 0.0]
    assert float(soft.threshold(np.asarray(-8.0), "sigmoid")[0]) == pytest.approx(3.3535e-4, rel=1e-4)


def test_the_published_rates_rise_for_five_epochs_and_fall_to_almost_nothing() -> None:
    rates = [soft.published_rate(epoch, 100, 0.256) for epoch in range(100)]
    assert rates[:6] == pytest.approx([0.0512, 0.1024, 0.1536, 0.2048, 0.256, 0.256])
    assert rates[-1] == pytest.approx(0.256 * 0.5 * (1 - math.cos(math.pi / 95)))
    assert sum(rates) == pytest.approx(0.256 * 51)
