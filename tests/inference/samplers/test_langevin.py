"""Langevin dynamics and HMC by gradients with noise: against the exact posterior of a linear regression."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.samplers.langevin import SGHMC, SGLD, is_sampler
from bayesprune.inference.training.optimizers import make_optimizer, optimizer_for
from bayesprune.inference.watching.callbacks import Callback
from tests.oracles.conjugate_regression import regression

PROBLEM = regression(size=60, features=3, correlation=0.8)
SIZE = len(PROBLEM.y)
CURVATURE = PROBLEM.precision / SIZE  # of the loss divided by the number of data
RATE = 0.2 / np.linalg.eigvalsh(CURVATURE).max()
KINDS = {
    "sgld": (SGLD, 1.0),
    "sghmc": (SGHMC, 0.1),
    "sghmc of much friction": (functools.partial(SGHMC, friction=0.6), 0.6),
}


def inflated(friction, temperature=1.0, data_size=SIZE):
    """The covariance that the step size leaves, in closed form: more than that of the posterior by a factor a mode."""
    sizes, vectors = np.linalg.eigh(CURVATURE)
    variances = temperature / (data_size * sizes) / (1.0 - RATE * sizes / (2.0 * (2.0 - friction)))
    return vectors @ np.diag(variances) @ vectors.T


def gap(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def chain(kind, chains=6000, steps=1500, kept=600, **how):
    """Mean and covariance of many chains at once, by exact gradients, in float64."""
    torch.manual_seed(0)
    weights = nn.Parameter(torch.zeros(chains, 3, dtype=torch.float64))
    optimizer = KINDS[kind][0]([weights], lr=RATE, **{"data_size": SIZE, **how})
    curvature, mean = torch.tensor(CURVATURE), torch.tensor(PROBLEM.mean)
    seen = []
    for step in range(steps):
        weights.grad = (weights.detach() - mean) @ curvature
        optimizer.step()
        if step >= steps - kept and step % 5 == 0:
            seen.append(weights.detach().clone())
    every = torch.cat(seen).numpy()
    return every.mean(axis=0), np.cov(every.T)


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_run_has_the_posteriors_mean_and_covariance_up_to_the_step_size(kind):
    mean, covariance = chain(kind)
    posterior, friction = np.linalg.inv(PROBLEM.precision), KINDS[kind][1]
    assert gap(mean, PROBLEM.mean) < 0.01
    assert gap(covariance, inflated(friction)) < 0.03
    # What the step size costs: at most lr h / (2 (2 - a)) of a variance over one less it, here of the stiffest mode.
    bound = 0.2 / (2.0 * (2.0 - friction))
    assert gap(covariance, posterior) < bound / (1.0 - bound) + 0.03


@pytest.mark.parametrize("kind", ["sgld", "sghmc"])
@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"data_size": 2 * SIZE}, {"temperature": 0.5}, {"data_size": 1}]
)
def test_without_the_noise_or_of_another_number_of_data_it_is_not_the_posterior(kind, wrong):  # the control
    _, covariance = chain(kind, chains=300, steps=900, kept=300, **wrong)
    assert gap(covariance, np.linalg.inv(PROBLEM.precision)) > 0.4


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_as_it_is_has_that_stationary_covariance_exactly(kind):
    """One step as a linear map of (w, v), by steps without noise; the noise by the equation; Lyapunov's equation."""
    make, friction = KINDS[kind]
    has_momentum = kind != "sgld"
    dimensions = 6 if has_momentum else 3
    columns = []
    for unit in torch.eye(dimensions, dtype=torch.float64):
        weight = nn.Parameter(unit[:3].clone())
        optimizer = make([weight], lr=RATE, data_size=SIZE, temperature=0.0)
        if has_momentum:
            optimizer.state[weight]["momentum_buffer"] = unit[3:].clone()
        weight.grad = torch.tensor(CURVATURE) @ weight.detach()
        optimizer.step()
        after = [weight.detach(), *([optimizer.state[weight]["momentum_buffer"]] if has_momentum else [])]
        columns.append(torch.cat(after).numpy())
    step = np.stack(columns, axis=1)
    noise = np.tile(np.eye(3), (dimensions // 3, dimensions // 3)) * 2.0 * RATE * friction / SIZE
    stationary = solve_discrete_lyapunov(step, noise)[:3, :3]
    assert gap(stationary, inflated(friction)) < 1e-10
    assert gap(stationary, np.linalg.inv(PROBLEM.precision)) > 1e-3  # control: the step size is seen


@pytest.mark.parametrize("kind", ["sgld", "sghmc"])
def test_the_noise_of_one_step_has_the_variance_of_the_equation(kind):
    make, friction = KINDS[kind]
    torch.manual_seed(1)
    weight = nn.Parameter(torch.zeros(200_000, dtype=torch.float64))
    weight.grad = torch.zeros_like(weight)
    make([weight], lr=0.3, data_size=50, temperature=0.7).step()
    assert float(weight.detach().var()) == pytest.approx(2 * 0.3 * friction * 0.7 / 50, rel=0.02)


def test_with_full_friction_hmc_is_langevin_dynamics():
    found = []
    for make in (SGLD, functools.partial(SGHMC, friction=1.0)):
        torch.manual_seed(2)
        weight = nn.Parameter(torch.ones(5, dtype=torch.float64))
        optimizer = make([weight], lr=0.1, data_size=10)
        for _ in range(3):
            weight.grad = 2.0 * weight.detach()
            optimizer.step()
        found.append(weight.detach())
    assert torch.allclose(*found, rtol=1e-14, atol=0.0)


class Iterates(Callback):
    """The weights after each step."""

    def __init__(self):
        self.seen = []

    def on_step(self, state):
        self.seen.append(torch.cat([p.detach().flatten() for p in state.objective.guide.parameters()]).clone())


def fitted_variances(optimizer, steps=3000):
    """Mean ratio of the variances of the iterates of a fit to those of the posterior, of an orthogonal regression."""
    problem = regression(size=60, features=4)
    network = nn.Linear(4, 1, bias=False)
    bnn = bp.BayesianNetwork(network, {"weight": bp.Gaussian(problem.prior_sd)}, bp.Normal(problem.noise_sd), 60)
    iterates = Iterates()
    data = torch.tensor(problem.x), torch.tensor(problem.y)
    bp.fit(
        bnn, data, "map", optimizer=optimizer, learning_rate=0.2, schedule="constant", steps=steps, batch_size=60,
        precision="float64", kl_weight=1.0, kl_warmup=0.0, device="cpu", callbacks=[iterates], execution="plain",
    )  # fmt: skip
    seen = torch.stack(iterates.seen[200:]).numpy()
    assert np.abs(seen.mean(axis=0) - problem.mean).max() < 0.02
    return float((seen.var(axis=0) / np.diag(np.linalg.inv(problem.precision))).mean())


def test_a_fit_by_name_samples_the_posterior_of_its_own_data_size():
    """lr h = 0.2 * 61 / 60, so that the step size costs 11 % of the variance; 0.12 is three Monte Carlo errors."""
    expected = 1.0 / (1.0 - 0.2 * 61.0 / 60.0 / 2.0)
    assert fitted_variances("sgld") == pytest.approx(expected, rel=0.12)
    wrong = fitted_variances(functools.partial(SGLD, lr=0.2, data_size=120))  # control: half of the noise
    assert wrong == pytest.approx(expected / 2.0, rel=0.12)


def test_by_name_it_is_told_the_number_of_data_and_where_there_is_none_it_is_refused():
    bnn = bp.BayesianNetwork(nn.Linear(3, 1), {"weight": bp.Gaussian()}, bp.Normal(1.0), data_size=17)
    objective = Objective(bnn, Guide(bnn, "map"))
    for name, kind in (("sgld", SGLD), ("sghmc", SGHMC)):
        made = make_optimizer(name, objective, 0.1)
        assert type(made) is kind
        assert is_sampler(made)
        assert {group["data_size"] for group in made.param_groups} == {17}
    assert not is_sampler(make_optimizer("sgd", objective, 0.1))
    groups = [{"name": "all", "params": list(bnn.network.parameters())}]
    with pytest.raises(ValueError, match="expected 'adam', 'sgd' or a callable"):
        optimizer_for(groups, "sgld", 0.1)
    with pytest.raises(ValueError, match="expected 'adam', 'sgd', 'sgld', 'sghmc' or a callable"):
        make_optimizer("nuts", objective, 0.1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lr": 0.0}, "a step size, a positive number, not 0.0"),
        ({"data_size": 0}, "the number of data, at least 1, not 0"),
        ({"temperature": -1.0}, "1 for the posterior, 0 for no noise, not -1.0"),
        ({"friction": 0.0}, r"in \(0, 1\], not 0.0: 1 is SGLD"),
    ],
)
def test_wrong_settings_are_told_in_a_sentence(wrong, said):
    with pytest.raises(ValueError, match=said):
        SGHMC([nn.Parameter(torch.zeros(2))], **{"lr": 0.1, "data_size": 5, **wrong})
