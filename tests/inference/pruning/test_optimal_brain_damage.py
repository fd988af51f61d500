"""Optimal brain damage: its curvature is the diagonal of the full Hessian, and its score what the loss rises by."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.inference.objective import hessian_diagonal as counted
from bayesprune.inference.objective.hessian_diagonal import hessian_diagonal
from bayesprune.inference.pruning.report import PruneResult, report_of
from tests.inference.kinds_of_networks import NETWORKS
from tests.oracles.magnitude_classes import hessian_diagonals

ROWS = 12


def made(name):
    torch.manual_seed(3)
    make, shape = NETWORKS[name]
    net = make().double().eval()
    x = torch.randn(ROWS, *shape, dtype=torch.float64)
    return net, x, torch.arange(ROWS) % 3


def matrices(net):
    return {name: torch.ones_like(p, dtype=torch.bool) for name, p in net.named_parameters() if p.ndim > 1}


def result_of(net):
    masks = matrices(net)
    return PruneResult(net, masks, report_of("dense", "none", None, net, masks), bp.Categorical())


@pytest.mark.parametrize("name", NETWORKS)
def test_curvatures_are_the_diagonal_of_the_full_hessian(name):
    net, x, y = made(name)
    likelihood, active = bp.Categorical(), matrices(net)
    wanted = hessian_diagonals(net, likelihood.log_prob, x, y)
    before = [p.requires_grad for p in net.parameters()]
    found = hessian_diagonal(net, likelihood, zip(x.split(5), y.split(5), strict=True), active)
    for tensor, bent in found.items():
        torch.testing.assert_close(bent, wanted[tensor], rtol=1e-9, atol=1e-12)
        assert float(wanted[tensor].abs().max()) > 1e-4
        assert not torch.allclose(bent, bent.flip(0), rtol=1e-3)  # the control: of other weights
    assert before == [p.requires_grad for p in net.parameters()] and all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_what_is_pruned_has_none(name):
    net, x, y = made(name)
    active = {key: torch.rand(mask.shape) > 0.5 for key, mask in matrices(net).items()}
    with torch.no_grad():
        for key, mask in active.items():
            net.get_parameter(key).mul_(mask)
    wanted = hessian_diagonals(net, bp.Categorical().log_prob, x, y)
    for key, bent in hessian_diagonal(net, bp.Categorical(), [(x, y)], active).items():
        torch.testing.assert_close(bent, wanted[key] * active[key], rtol=1e-9, atol=1e-12)
        assert not torch.equal(bent, wanted[key])


def test_the_score_is_what_a_quadratic_loss_rises_by():
    """Of a linear model under Normal noise, at its minimum, where the second order is all there is."""
    torch.manual_seed(0)
    x = torch.randn(40, 5, dtype=torch.float64)
    y = x @ torch.tensor([2.0, -1.0, 0.5, 0.1, 0.0], dtype=torch.float64) + 0.3 * torch.randn(40, dtype=torch.float64)
    net = nn.Linear(5, 1, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.linalg.lstsq(x, y[:, None]).solution.T)
    likelihood = bp.Normal(0.5)
    loss = -float(likelihood.log_prob(net(x), y).mean().detach())
    rises = []
    for place in range(5):
        without = net.weight.detach().clone()
        without[0, place] = 0.0
        rises.append(-float(likelihood.log_prob(x @ without.T, y).mean()) - loss)
    result = PruneResult(net, matrices(net), report_of("dense", "none", None, net, matrices(net)), likelihood)
    order = sorted(range(5), key=lambda place: -rises[place])
    for kept in range(1, 5):
        pruned = bp.prune(result, count=5 - kept, criterion="optimal-brain-damage", data=(x, y))
        assert sorted(pruned.masks["weight"][0].nonzero().flatten().tolist()) == sorted(order[:kept])
    scores = bp.prune(result, criterion="optimal-brain-damage", min_score=rises[2] * (1 - 1e-9), data=(x, y))
    assert scores.masks["weight"][0].tolist() == [rise >= rises[2] for rise in rises]


def test_it_takes_loaders_and_what_a_fit_keeps():
    net, x, y = made("linear")
    names = list(matrices(net))
    model = bp.BayesianNetwork(net, dict.fromkeys(names, bp.Gaussian()), data_size=ROWS)
    fit = bp.fit(model, (x, y), "map", steps=3, device="cpu", precision="float64")
    loader = DataLoader(TensorDataset(x, y), batch_size=5, shuffle=True)
    by = {"criterion": "optimal-brain-damage", "sparsity": 0.5}
    own, told, loaded = (bp.prune(fit, **by, data=data) for data in (None, (x, y), loader))
    assert all(torch.equal(own.masks[n], told.masks[n]) and torch.equal(own.masks[n], loaded.masks[n]) for n in names)
    other = bp.prune(fit, **by, data=(x.flip(1), y.flip(0)))
    assert any(not torch.equal(own.masks[n], other.masks[n]) for n in names)
    again = bp.prune(bp.prune(fit, sparsity=0.0), **by, data=(x, y))
    assert all(torch.equal(own.masks[n], again.masks[n]) for n in names)
    with pytest.raises(ValueError, match=r"looks at examples, .*: pass data=\(x, y\)"):
        bp.prune(again, share=0.5, criterion="optimal-brain-damage")


def test_what_would_take_days_is_refused_at_once(monkeypatch):
    net, x, y = made("convolution")
    monkeypatch.setattr(counted, "MOST", 47)  # sixteen weights of the convolution, and three batches
    likelihood, active = bp.Categorical(), matrices(net)
    with pytest.raises(ValueError, match="for each weight that is of no linear layer, 48 for these examples: give few"):
        hessian_diagonal(net, likelihood, [(x, y)], active, count=3)
    hessian_diagonal(net, likelihood, [(x, y)], active, count=2)
    net, x, y = made("linear")
    hessian_diagonal(net, likelihood, [(x, y)], matrices(net), count=1000)  # layers take a pass an output


def test_an_operation_without_a_second_derivative_is_named():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x * 2.0

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(context, slope):
            return slope * 2.0

    class Layer(nn.Module):
        def forward(self, x):
            return Once.apply(x)

    net = nn.Sequential(nn.Linear(3, 4), Layer(), nn.Tanh(), nn.Linear(4, 3)).double()
    with pytest.raises(ValueError, match="no second derivative in torch .*: rank by another criterion"):
        hessian_diagonal(net, bp.Categorical(), [(torch.ones(2, 3).double(), torch.tensor([0, 1]))], matrices(net))
    with pytest.raises(ValueError, match="at least one example"):
        hessian_diagonal(net, bp.Categorical(), [], matrices(net))
