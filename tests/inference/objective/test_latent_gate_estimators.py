"""Gate estimators against enumeration: what is unbiased, what is exact for regression only."""

from __future__ import annotations

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from bayesprune.inference.guides.factors import BernoulliFactor
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.latent_gate_estimators import (
    ScoreFunction,
    antithetic,
    default_estimator,
    moment_matched,
)
from bayesprune.inference.objective.objective import Objective
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import exact_zero
from bayesprune.models.language.latent import Latent
from bayesprune.models.likelihoods.labels import Bernoulli
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab

GATES = 4
LOGIT = torch.tensor([0.3, -1.0, 1.5, 0.0], dtype=torch.float64)


def quadratic(z):
    a = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    return (z @ a - 1.0) ** 2 + 0.3 * z.sum()


def cubic(z):
    a = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    return (z @ a - 1.0) ** 4


def enumerated(function):
    logit = LOGIT.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for values in itertools.product((0.0, 1.0), repeat=GATES):
        z = torch.tensor(values, dtype=torch.float64)
        probability = torch.where(z > 0, logit.sigmoid(), 1 - logit.sigmoid()).prod()
        total = total + probability * function(z)
    return float(total.detach()), torch.autograd.grad(total, logit)[0]


def estimated_at_once(function, draws):
    """Moment matching of many copies of the gates in one evaluation: the copies do not meet."""
    torch.manual_seed(0)
    logit = LOGIT.expand(draws, GATES).clone().requires_grad_()
    values = []

    def loss(gates):
        values.append(torch.vmap(function)(gates["z"]))
        return values[-1].sum()

    surrogate = moment_matched(loss, {"z": BernoulliFactor(logit.sigmoid(), logit)})
    return values[0].detach(), torch.autograd.grad(surrogate, logit)[0]


def estimated(estimator, function, draws):
    torch.manual_seed(0)
    values, gradients = [], []
    for _ in range(draws):
        logit = LOGIT.clone().requires_grad_()
        gates = {"z": BernoulliFactor(logit.sigmoid(), logit)}
        surrogate = estimator(lambda v: function(v["z"]), gates)
        values.append(surrogate.detach())
        gradients.append(torch.autograd.grad(surrogate, logit)[0])
    return torch.stack(values), torch.stack(gradients)


def off(samples, expected):
    """How many standard errors the mean is away, the largest of all entries."""
    error = samples.std(0) / math.sqrt(len(samples))
    return float(((samples.mean(0) - expected).abs() / error).max())


@pytest.mark.parametrize("function", [quadratic, cubic])
@pytest.mark.parametrize("particles", [2, 4])
def test_the_score_function_is_unbiased_for_any_loss(function, particles):
    value, gradient = enumerated(function)
    values, gradients = estimated(ScoreFunction(particles), function, 1500)
    assert off(values, value) < 3.5 and off(gradients, gradient) < 3.5
    assert off(gradients, 1.5 * gradient) > 3.5  # the control: what is a fifth off is seen


def test_the_baseline_leaves_the_score_function_unbiased_only_as_leave_one_out():
    """The control: the plain mean as a baseline shrinks the gradient by (particles - 1) / particles."""

    def plain_mean(loss, gates):
        losses, scores = [], []
        for _ in range(2):
            values = {n: torch.bernoulli(g.probability.detach()) for n, g in gates.items()}
            losses.append(loss(values))
            scores.append(sum(gates[n].log_prob(v) for n, v in values.items()))
        stacked = torch.stack(losses)
        return ((stacked - stacked.mean()) * torch.stack(scores)).mean()

    _, gradient = enumerated(quadratic)
    _, gradients = estimated(plain_mean, quadratic, 2000)
    assert off(gradients, gradient) > 5 and off(gradients, gradient / 2) < 3.5


def test_moment_matching_is_exact_for_a_quadratic_loss():
    value, gradient = enumerated(quadratic)
    values, gradients = estimated_at_once(quadratic, 200_000)
    assert off(values, value) < 3.5 and off(gradients, gradient) < 3.5
    assert off(gradients, 1.5 * gradient) > 3.5


def test_moment_matching_is_biased_for_a_loss_that_is_not_quadratic():
    value, gradient = enumerated(cubic)
    values, gradients = estimated_at_once(cubic, 200_000)
    assert off(values, value) > 6 or off(gradients, gradient) > 6


@pytest.mark.parametrize("level", ["weight", "input", "block"])
def test_moment_matching_is_exact_for_linear_regression_with_a_paired_guide(level):
    """The whole objective: value and gradient in a, m and v against enumeration of the gates."""
    torch.manual_seed(0)
    x, y = torch.randn(12, 4, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    line = nn.Linear(4, 1, bias=False).double()
    bnn = BayesianNetwork(line, {"weight": SpikeAndSlab(0.3, 0.8, level, block=(1, 2))}, Normal(0.7), 12)
    guide = Guide(bnn).double()
    (family,) = guide.families
    with torch.no_grad():
        family.logit.copy_(torch.linspace(-1.0, 1.0, family.logit.numel()))
        family.log_scale.add_(1.0)
    spread = {"weight": 1, "input": 1, "block": 2}[level]
    a = family.logit.sigmoid().repeat_interleave(spread)
    mean, var = family.location, (2 * family.log_scale).exp()
    kl = torch.distributions.kl_divergence(
        torch.distributions.Bernoulli(logits=family.logit), torch.distributions.Bernoulli(torch.tensor(0.3).double())
    ).sum()
    kl = kl + (a * 0.5 * (var / 0.64 + mean**2 / 0.64 - 1 - (var / 0.64).log())).sum()
    expected = kl
    for values in itertools.product((0.0, 1.0), repeat=family.logit.numel()):
        gates = torch.tensor(values, dtype=torch.float64)
        z = gates.repeat_interleave(spread)
        probability = torch.where(gates > 0, family.logit.sigmoid(), 1 - family.logit.sigmoid()).prod()
        residual = y - x @ (z * mean)
        square = (residual**2).sum() + ((x**2) @ (z * var)).sum()
        expected = expected + probability * (0.5 * square / 0.49 + 12 * math.log(0.7 * math.sqrt(2 * math.pi)))
    leaves = (family.location, family.log_scale, family.logit)
    gradient = torch.cat(torch.autograd.grad(expected, leaves))
    loss = Objective(bnn, guide)
    torch.manual_seed(1)
    values, gradients = [], []
    for _ in range(1000):
        value = loss(x, y)
        values.append(value.detach())
        gradients.append(torch.cat(torch.autograd.grad(value, leaves)))
    values, gradients = torch.stack(values), torch.stack(gradients)
    assert off(values, expected.detach()) < 3.5 and off(gradients, gradient) < 3.8
    assert off(values, expected.detach() * 1.1) > 6


def test_the_score_function_is_unbiased_for_a_classifier_where_moment_matching_is_not():
    torch.manual_seed(0)
    x = 3.0 * torch.randn(10, 3, dtype=torch.float64)
    y = torch.randint(2, (10,))
    line = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        line.weight.copy_(torch.tensor([[2.0, -3.0, 1.5]]))
    bnn = BayesianNetwork(line, {"weight": SpikeAndSlab(0.3, 1.0)}, Bernoulli(), 10)
    guide = Guide(bnn).double()
    (family,) = guide.families
    with torch.no_grad():
        family.logit.zero_()
        family.log_scale.fill_(-20.0)  # the slab is a point, so that enumeration is exact
    parts = []
    for values in itertools.product((0.0, 1.0), repeat=3):
        gates = torch.tensor(values, dtype=torch.float64)
        probability = torch.where(gates > 0, family.logit.sigmoid(), 1 - family.logit.sigmoid()).prod()
        loss = Objective(
            bnn, guide, Gradient(latent_gates=lambda loss, _, gates=gates: loss({"weight.z": gates.reshape(1, 3)}))
        )
        terms = loss.terms(x, y)
        parts.append(probability * -terms.log_likelihood)
    expected = sum(parts)
    gradient = torch.autograd.grad(expected, family.logit)[0]
    kl = terms.kl_of["weight.z"] + terms.kl_of["weight.slab"]
    gradient = gradient + torch.autograd.grad(kl, family.logit)[0]
    found = {}
    for name, estimator in {"score": ScoreFunction(4), "moments": moment_matched}.items():
        torch.manual_seed(1)
        loss = Objective(bnn, guide, Gradient(latent_gates=estimator))
        found[name] = torch.stack([torch.autograd.grad(loss(x, y), family.logit)[0] for _ in range(600)])
    assert off(found["score"], gradient) < 3.5
    assert off(found["moments"], gradient) > 6


def test_a_score_function_needs_two_particles():
    with pytest.raises(ValueError, match="at least 2 particles"):
        ScoreFunction(1)


def test_the_default_estimator_is_the_score_function_where_a_gate_sets_a_scale():
    spike = Hierarchy(
        z=Latent(lambda: dist.Bernoulli(0.3), init=0.5),
        weight=lambda z: dist.Normal(0.0, 0.05 + z),
        included=exact_zero(gate="z"),
    )
    network = nn.Linear(3, 1)
    as_scale = BayesianNetwork(network, {"weight": spike}, data_size=10)
    as_factor = BayesianNetwork(network, {"weight": SpikeAndSlab()}, data_size=10)
    assert isinstance(default_estimator(as_scale), ScoreFunction)
    assert default_estimator(as_factor) is moment_matched


def test_antithetic_draws_have_the_mean_of_single_ones_and_less_noise():
    gates = {"z": BernoulliFactor(torch.tensor([0.2, 0.7], dtype=torch.float64), torch.zeros(2, dtype=torch.float64))}
    slope = torch.tensor([1.0, -2.0], dtype=torch.float64)

    def loss(values):
        return (values["z"] @ slope) ** 2 + values["z"] @ slope

    pairs = torch.stack([antithetic(loss, gates) for _ in range(4000)])
    singles = torch.stack([moment_matched(loss, gates) for _ in range(4000)])
    error = (pairs.var() / len(pairs) + singles.var() / len(singles)).sqrt()
    assert abs(pairs.mean() - singles.mean()) < 4 * error
    assert pairs.var() < 0.6 * singles.var()
