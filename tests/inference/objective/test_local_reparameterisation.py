"""Local reparameterisation: the same distribution of every example's outputs, used where it is exact."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import bayesprune as bp
from bayesprune.inference.guides.factors import NormalFactor
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.local_reparameterisation import LocalReparameterisation, reparameterisable
from bayesprune.inference.objective.objective import Objective

N = 5_000


def drawn(shape=(3, 4)):
    torch.manual_seed(0)
    location, log_scale = torch.randn(shape).double(), torch.randn(shape).double() * 0.3 - 1.0
    value = location + log_scale.exp() * torch.randn(shape).double()
    return value, NormalFactor(value, location, log_scale, torch.zeros(2))


def test_outputs_have_the_mean_and_variance_of_drawn_weights_and_are_independent_between_examples():
    weight, factor = drawn()
    x = torch.tensor([[1.0, -2.0, 0.5, 0.0], [1.0, -2.0, 0.5, 0.3]]).double()
    bias = torch.tensor([0.1, 0.2, 0.3]).double()
    with LocalReparameterisation([(weight, "w", factor)]) as mode:
        outputs = torch.stack([functional.linear(x, weight, bias) for _ in range(N)])
    assert mode.used[:1] == ["w"]
    variance = x.square() @ factor.scale.square().T
    error = (outputs.mean(0) - (x @ factor.location.T + bias)).abs() / (variance / N).sqrt()
    assert float(error.max()) < 4.5
    assert float((outputs.var(0) / variance - 1.0).abs().max()) < 4.5 * (2.0 / N) ** 0.5
    centred = (outputs - outputs.mean(0)) / variance.sqrt()
    assert float((centred[:, 0] * centred[:, 1]).mean(0).abs().max()) < 4.5 * N**-0.5
    weights = factor.location + factor.scale * torch.randn(N, 3, 4).double()
    shared = weights @ x.T - (factor.location @ x.T)
    shared = shared / variance.sqrt().T
    assert float((shared[..., 0] * shared[..., 1]).mean(0).min()) > 0.9  # draws of weights tie the examples together


@pytest.mark.parametrize(
    "call",
    [
        lambda w: functional.linear(torch.ones(2, 5, 4).double(), w),
        lambda w: torch.ones(2, 4).double() @ w.T,
        lambda w: functional.linear(torch.ones(2, 4).double(), w.clone()),
        lambda w: functional.conv1d(torch.ones(2, 4, 6).double(), w.unsqueeze(-1)),
    ],
)
def test_elsewhere_the_drawn_weights_are_used(call):
    weight, factor = drawn()
    with LocalReparameterisation([(weight, "w", factor)]) as mode:
        inside = call(weight)
    assert mode.used == [] and torch.equal(inside, call(weight))


def test_an_example_of_zeros_has_a_gradient():
    weight, factor = drawn()
    factor.log_scale.requires_grad_()
    with LocalReparameterisation([(weight, "w", factor)]):
        outputs = functional.linear(torch.zeros(2, 4).double(), weight)
    outputs.sum().backward()
    assert torch.equal(factor.log_scale.grad, torch.zeros(3, 4).double())


def small(**how):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    priors = {"0.weight": bp.Gaussian(0.5), "2.weight": bp.HALO()}
    model = bp.BayesianNetwork(network, priors, data_size=40)
    objective = Objective(model, Guide(model, "meanfield"), Gradient(**how)).double()
    with torch.no_grad():
        for family in objective.guide.families:
            family.log_scale.add_(1.5)
    return objective, torch.randn(20, 3).double(), torch.randint(2, (20,))


def gradients(objective, x, y, draws):
    torch.manual_seed(0)
    parameters = list(objective.guide.parameters())
    return torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(objective(x, y), parameters)]) for _ in range(draws)]
    )


def test_the_gradient_has_the_same_mean_and_less_variance():
    plain, local = (gradients(*small(local_reparameterisation=on), draws=500) for on in (False, True))
    error = (plain.var(0) / len(plain) + local.var(0) / len(local)).sqrt()
    z = (plain.mean(0) - local.mean(0)).abs() / error
    assert float(z.max()) < 4.5
    assert float(((plain.mean(0) + plain.std(0) - local.mean(0)).abs() / error).min()) > 4.5  # the comparison can fail
    assert float(local[:, :12].var(0).sum() / plain[:, :12].var(0).sum()) < 0.7


def test_only_latent_weights_with_a_normal_guide_are_taken():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    priors = {
        "0.weight": bp.Gaussian(), "1.weight": bp.Horseshoe(), "2.weight": bp.SpikeAndSlab(), "3.weight": bp.HALO(),
    }  # fmt: skip
    model = bp.BayesianNetwork(network, priors, data_size=10)
    factors = Guide(model).draw()
    weights = {name: torch.zeros(1) for name in priors}
    assert [name for _, name, _ in reparameterisable(model, factors, weights)] == ["0.weight"]
    factors = Guide(model, {"3.weight": "normal"}).draw()
    assert [name for _, name, _ in reparameterisable(model, factors, weights)] == ["0.weight", "3.weight"]


def test_a_fit_with_it_learns():
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    network = nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    model = bp.BayesianNetwork(network, {"*.weight": bp.Gaussian()}, data_size=len(x))
    fit = bp.fit(model, (x, y), epochs=15, learning_rate=1e-2, local_reparameterisation=True)
    assert float(fit.trace["expected_log_likelihood"][0, -1]) / len(x) > -0.5
