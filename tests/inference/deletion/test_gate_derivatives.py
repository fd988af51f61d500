"""Derivatives of gates: those of a loop over examples, exact where the loss is quadratic, of third order elsewhere."""

from __future__ import annotations

import copy

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.deletion.gate_derivatives import group_derivatives, set_derivatives
from bayesprune.models.likelihoods.likelihood import Likelihood
from tests.inference.kinds_of_networks import NETWORKS
from tests.oracles import deletion_reference as oracle

ROWS = 11


def made(name, seed=3):
    torch.manual_seed(seed)
    make, shape = NETWORKS[name]
    net = make().double().eval()
    return net, torch.randn(ROWS, *shape, dtype=torch.float64), torch.arange(ROWS) % 3


def numbers_of(shape, per):
    shape = tuple(shape)
    levels = {
        "weight": shape,
        "output": (shape[0], *(1 for _ in shape[1:])),
        "input": (1, shape[1], *(1 for _ in shape[2:])),
    }
    if per == "any":  # no rows and no columns
        return torch.arange(shape[0] * shape[1]).remainder(3).view(shape[:2] + (1,) * (len(shape) - 2)).expand(shape)
    level = levels[per]
    return torch.arange(torch.Size(level).numel()).view(level).expand(shape)


def groups_of(net, per):
    return {name: numbers_of(p.shape, per) for name, p in net.named_parameters() if p.ndim > 1}


def batches(x, y):
    return zip(x.split(4), y.split(4), strict=True)


def of_batch(net, likelihood, sets, x, y):
    """The mistake that a batch invites: the squared derivative of the mean loss."""
    return oracle.slope(net, likelihood.log_prob, sets, x, y) ** 2


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("per", ["output", "input", "any", "weight"])
def test_derivatives_are_those_of_a_loop_over_examples_and_labels(name, per):
    net, x, y = made(name)
    likelihood, groups = bp.Categorical(), groups_of(net, per)
    before = copy.deepcopy(net.state_dict())
    found = group_derivatives(net, likelihood, batches(x, y), groups)
    by_labels = group_derivatives(net, likelihood, batches(x, y), groups, "empirical")
    differ = 0
    for tensor, numbers in groups.items():
        for place in range(int(numbers.max()) + 1)[:: 5 if per == "weight" else 1]:
            sets = {tensor: numbers == place}
            one, other = found[tensor], by_labels[tensor]
            slope = oracle.slope(net, likelihood.log_prob, sets, x, y)
            bent, labelled = (
                oracle.curvature_of_labels(net, sets, x),
                oracle.empirical(net, likelihood.log_prob, sets, x, y),
            )
            assert float(one.slope[place]) == pytest.approx(slope, rel=1e-9, abs=1e-13)
            assert float(other.slope[place]) == pytest.approx(slope, rel=1e-9, abs=1e-13)
            assert float(one.curvature[place]) == pytest.approx(bent, rel=1e-9, abs=1e-13)
            assert float(other.curvature[place]) == pytest.approx(labelled, rel=1e-9, abs=1e-13)
            assert float(one.change[place]) == pytest.approx(bent / 2 - slope, rel=1e-9, abs=1e-13)
            differ += abs(of_batch(net, likelihood, sets, x, y) - labelled) > 1e-3 * labelled
            differ += abs(bent - labelled) > 1e-3 * labelled
    assert differ > 0  # the controls: the square of the batch's derivative, and one curvature for the other
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("scale", [0.7, [0.5, 1.5]])
@pytest.mark.parametrize("per", ["weight", "output", "input", "any"])
def test_in_linear_regression_the_prediction_is_what_deleting_does(per, scale):
    torch.manual_seed(0)
    x, y = torch.randn(40, 5).double(), torch.randn(40, 2).double()
    net, likelihood = nn.Linear(5, 2).double(), bp.Normal(scale)
    numbers = numbers_of((2, 5), per)
    found = group_derivatives(net, likelihood, batches(x, y), {"weight": numbers})["weight"]
    for place in range(int(numbers.max()) + 1):
        happens = oracle.toggled(net, likelihood.log_prob, {"weight": numbers == place}, x, y)
        assert abs(float(found.change[place]) - happens) < 1e-12
        assert abs(0.5 * float(found.curvature[place]) - happens) > 1e-6  # the control: without the slope
        squared = of_batch(net, likelihood, {"weight": numbers == place}, x, y)
        assert abs(0.5 * squared - float(found.slope[place]) - happens) > 1e-6  # that of a batch


def test_the_empirical_curvature_is_the_exact_one_up_to_the_noise():
    """Residuals of variance sigma^2 r make it r times the exact one: with the right noise it is right on average."""
    torch.manual_seed(0)
    x = torch.randn(40_000, 3).double()
    net = nn.Linear(3, 1).double()
    y = net(x)[:, 0].detach() + 0.6 * torch.randn(40_000).double()
    groups = {"weight": torch.arange(3)[None]}
    for scale, ratio in ((0.6, 1.0), (1.2, 0.25)):
        exact, labelled = (
            group_derivatives(net, bp.Normal(scale), [(x, y)], groups, how)["weight"].curvature
            for how in ("gauss-newton", "empirical")
        )
        torch.testing.assert_close(labelled / exact, torch.full((3,), ratio).double(), rtol=0.05, atol=0)


def test_in_logistic_regression_the_error_is_of_third_order():
    torch.manual_seed(1)
    x, y = torch.randn(60, 4).double(), (torch.rand(60) < 0.4).long()
    net, likelihood = nn.Linear(4, 1).double(), bp.Bernoulli()
    groups = {"weight": torch.arange(4)[None]}
    errors = {}
    for scale in (0.02, 0.01):
        with torch.no_grad():
            net.bias.fill_(1.0)  # at a logit of zero the third derivative is none
            net.weight.copy_(scale * torch.tensor([[1.0, -2.0, 1.5, 0.7]]))
        one = group_derivatives(net, likelihood, [(x, y)], groups)["weight"]
        happens = [
            oracle.toggled(net, likelihood.log_prob, {"weight": groups["weight"] == place}, x, y) for place in range(4)
        ]
        happens = torch.tensor(happens).double()
        for name, predicted in (
            ("both", one.change),
            ("slope alone", -one.slope),
            ("curvature alone", 0.5 * one.curvature),
        ):
            errors.setdefault(name, []).append((predicted - happens).abs())
    orders = {name: (big / small).log2() for name, (big, small) in errors.items()}
    assert (orders["both"] - 3).abs().max() < 0.25
    assert (orders["slope alone"] - 2).abs().max() < 0.25 and (orders["curvature alone"] - 1).abs().max() < 0.4


class Heavy(Likelihood):
    """Student's t noise: its loss bends down for large residuals."""

    name = "heavy"

    def distribution(self, outputs):
        return dist.StudentT(2.0, outputs[:, 0], 0.3)

    def log_prob(self, outputs, y):
        return self.distribution(outputs).log_prob(y)

    def predict(self, outputs):
        return outputs[:, 0]

    def check(self, outputs, y):
        pass

    def scores(self, mean_prediction, y):
        return {}


def test_a_loss_that_bends_down_keeps_its_sign():
    torch.manual_seed(0)
    x, y = torch.randn(30, 3).double(), 2.0 * torch.randn(30).double()
    net, likelihood = nn.Linear(3, 1).double(), Heavy()
    found = group_derivatives(net, likelihood, batches(x, y), {"weight": torch.arange(3)[None]})["weight"]
    for place in range(3):
        sets = {"weight": torch.arange(3)[None] == place}
        wanted = oracle.true_curvature(net, likelihood.log_prob, sets, x, y)
        assert float(found.curvature[place]) == pytest.approx(wanted, rel=1e-9)
    assert bool((found.curvature < 0).any())  # else the signs are not seen


def test_drawn_labels_are_right_on_average_and_of_their_seed():
    net, x, y = made("linear")
    groups = groups_of(net, "output")
    exact = group_derivatives(net, bp.Categorical(), [(x, y)], groups)
    state = torch.get_rng_state()
    drawn = [group_derivatives(net, bp.Categorical(), [(x, y)], groups, "sampled", seed) for seed in range(300)]
    assert torch.equal(torch.get_rng_state(), state)
    for tensor, one in exact.items():
        each = torch.stack([found[tensor].curvature for found in drawn])
        error = each.std(dim=0) / 300**0.5
        assert bool(((each.mean(dim=0) - one.curvature).abs() < 4.5 * error + 1e-15).all())
    same = group_derivatives(net, bp.Categorical(), [(x, y)], groups, "sampled", 5)
    assert all(torch.equal(same[tensor].curvature, drawn[5][tensor].curvature) for tensor in groups)
    assert not torch.equal(drawn[4]["0.weight"].curvature, drawn[5]["0.weight"].curvature)


@pytest.mark.parametrize("name", ["linear", "convolution", "shared"])
def test_a_gate_on_a_set_is_that_of_a_loop_and_no_sum_over_its_members(name):
    net, x, y = made(name)
    names = [key for key, p in net.named_parameters() if p.ndim > 1]
    shapes = {key: net.get_parameter(key).shape for key in names}
    generator = torch.Generator().manual_seed(0)
    sets = [{key: torch.rand(shapes[key], generator=generator) < 0.4 for key in names[: 1 + k % 2]} for k in range(4)]
    single = torch.zeros(shapes[names[0]], dtype=torch.bool)
    single.view(-1)[1] = True
    sets.append({names[0]: single})
    found = set_derivatives(net, bp.Categorical(), batches(x, y), sets)
    members = group_derivatives(net, bp.Categorical(), batches(x, y), groups_of(net, "weight"))
    for place, one in enumerate(sets):
        slope = oracle.slope(net, bp.Categorical().log_prob, one, x, y)
        bent = oracle.curvature_of_labels(net, one, x)
        assert float(found.slope[place]) == pytest.approx(slope, rel=1e-9, abs=1e-13)
        assert float(found.curvature[place]) == pytest.approx(bent, rel=1e-9, abs=1e-13)
        added = sum(float((members[key].curvature * mask.flatten()).sum()) for key, mask in one.items())
        assert (added == pytest.approx(bent, rel=1e-6)) == (place == 4)
        slopes = sum(float((members[key].slope * mask.flatten()).sum()) for key, mask in one.items())
        assert slopes == pytest.approx(slope, rel=1e-9, abs=1e-13)


def test_sparse_sets_are_those_of_dense_ones(monkeypatch):
    torch.manual_seed(0)
    net, x, y = nn.Linear(30, 2).double(), torch.randn(9, 30).double(), torch.arange(9) % 2
    sets = [{"weight": torch.zeros(60, dtype=torch.bool)} for _ in range(3)]
    for place, one in enumerate(sets):
        one["weight"][[5 * place, 40 - 7 * place]] = True
        one["weight"] = one["weight"].view(2, 30)
    sparse = set_derivatives(net, bp.Categorical(), [(x, y)], sets)
    monkeypatch.setattr("bayesprune.inference.deletion.gate_derivatives.DENSE", -1.0)
    dense = set_derivatives(net, bp.Categorical(), [(x, y)], sets)
    torch.testing.assert_close(sparse.slope, dense.slope, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(sparse.curvature, dense.curvature, rtol=1e-12, atol=1e-15)


def test_no_examples_and_too_many_outputs_are_refused():
    net = nn.Linear(2, 65)
    groups = {"weight": torch.zeros(65, 2, dtype=torch.long)}
    with pytest.raises(ValueError, match="at least one example: data= gave none"):
        group_derivatives(net, bp.Categorical(), [], groups)
    x, y = torch.randn(4, 2), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="a backward pass for each of 65 outputs: give 'sampled'"):
        group_derivatives(net, bp.Categorical(), [(x, y)], groups)
    assert float(group_derivatives(net, bp.Categorical(), [(x, y)], groups, "sampled")["weight"].curvature) > 0
