"""Layers of low rank become two where these hold fewer weights; every other layer stays what it is."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from bayesprune.models.checks.plan_check import check_plan
from bayesprune.models.units.compact import compact
from bayesprune.models.units.cutting import cut
from bayesprune.models.units.rank_folding import FoldedLayer, fold_layers, numerical_rank
from tests.oracles.units_reference import Net

X = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))


def of_rank(rows, columns, rank, dtype=torch.float32, seed=0, tail=0.0):
    """A product of factors, rounded to a number format, with a further part of full rank of a size."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(rows, rank, generator=generator, dtype=torch.float64)
    v = torch.randn(rank, columns, generator=generator, dtype=torch.float64)
    rest = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return ((u @ v) / rank**0.5 + tail * rest).to(dtype)


def network(weight=None, bias=True):
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(24, 30, bias=bias), nn.Tanh(), nn.Linear(30, 4))
    made = made if weight is None else made.to(weight.dtype)
    if weight is not None:
        with torch.no_grad():
            made[0].weight.copy_(weight)
    return made


def apart(one, other, x):
    with torch.no_grad():
        a, b = one(x), other(x)
    return float((a - b).abs().max() / a.std(dim=0).mean())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_a_layer_of_low_rank_becomes_two_that_give_the_same(dtype, within, bias):
    full, x = network(of_rank(30, 24, 5, dtype), bias), X.to(dtype)
    result = compact(full, x)
    thin = result.network
    assert result.report.folded == {"0": FoldedLayer(5, 24, 30)} and result.report.not_folded == {}
    assert type(thin[0]) is nn.Sequential and [type(part) for part in thin[0]] == [nn.Linear, nn.Linear]
    assert (thin[0][0].bias is None, thin[0][1].bias is None) == (True, not bias)
    assert thin[0][0].weight.dtype is dtype and type(thin) is nn.Sequential
    assert apart(full, thin, x) < within and result.report.fold_difference < 1e-5
    assert result.report.parameters_after == result.report.parameters_before - 30 * 24 + 5 * (30 + 24)
    assert "0: rank 5, 270 weights in two layers for 720" in str(result.report)
    wrong = fold_layers(network(of_rank(30, 24, 5, dtype), bias), {"0": 4})  # control: one component less
    assert apart(full, wrong, x) > 0.01


def test_the_network_itself_is_left_as_it_was():
    full = network(of_rank(30, 24, 5))
    before = full[0].weight.clone()
    compact(full, X)
    assert type(full[0]) is nn.Linear and torch.equal(full[0].weight, before)


@pytest.mark.parametrize(("rank", "folds"), [(1, True), (13, True), (14, False), (23, False)])
def test_two_layers_are_made_where_they_hold_fewer_weights(rank, folds):
    report = compact(network(of_rank(30, 24, rank)), X).report
    assert (rank * 54 < 720) == folds
    assert (set(report.folded), set(report.not_folded)) == (({"0"}, set()) if folds else (set(), {"0"}))
    if not folds:
        words = f"of rank {rank}, but two layers would hold {54 * rank:,} weights, and it has 720"
        assert report.not_folded["0"] == words and f"0 stays one layer: {words}" in str(report)


def test_layers_of_full_rank_stay():
    report = compact(network(), X).report
    assert (report.folded, report.not_folded, report.fold_difference) == ({}, {}, 0.0)


@pytest.mark.parametrize("tail", [1e-2, 1e-3])
def test_what_is_nearly_of_low_rank_stays(tail):
    assert numerical_rank(of_rank(30, 24, 5, tail=tail)) == 24
    assert compact(network(of_rank(30, 24, 5, tail=tail)), X).report.folded == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "columns", "rank"), [(192, 64, 20), (64, 192, 1), (300, 100, 99), (8, 8, 8)])
def test_the_rank_of_a_rounded_product_is_found(rows, columns, rank, dtype):
    assert numerical_rank(of_rank(rows, columns, rank, dtype)) == rank


def test_sparse_layers_stay_as_they_are():
    weight = of_rank(30, 24, 2)
    weight[torch.rand(30, 24, generator=torch.Generator().manual_seed(1)) < 0.6] = 0.0
    weight[:, 12:] = weight[:, :12]  # of rank 12 by its columns
    report = compact(network(weight), X).report
    assert report.folded == {} and report.not_folded == {}


def test_shorter_formats_and_layers_whose_weights_are_read_stay():
    assert compact(network(of_rank(30, 24, 5, torch.bfloat16)), X.bfloat16()).report.folded == {}
    reads = Net(lambda s, x: s.a(x).tanh() @ s.a.weight, a=nn.Linear(24, 30))
    with torch.no_grad():
        reads.a.weight.copy_(of_rank(30, 24, 5))
    assert compact(reads, X, unknown="keep").report.folded == {}


def test_a_layer_whose_sizes_the_forward_reads_stays_and_the_report_says_why():
    reads = Net(lambda s, x: s.a(x) / s.a.in_features, a=nn.Linear(24, 30))
    with torch.no_grad():
        reads.a.weight.copy_(of_rank(30, 24, 5))
    report = compact(reads, X).report
    assert report.folded == {} and "reads more of the layer than its outputs" in report.not_folded["a"]


def test_it_may_be_left_out():
    result = compact(network(of_rank(30, 24, 5)), X, fold_ranks=False)
    assert result.report.folded == {} and "folded" not in result.plan and type(result.network[0]) is nn.Linear


def test_units_are_cut_first_and_the_plan_makes_the_same_network():
    weight = of_rank(30, 24, 5)
    full = network(weight)
    with torch.no_grad():
        full[2].weight[:, :6] = 0.0
    result = compact(full, X)
    assert result.report.folded == {"0": FoldedLayer(5, 24, 24)}
    plan = json.loads(json.dumps(result.plan))
    assert plan["folded"] == {"0": 5}
    again = cut(full, X, plan)
    assert list(again.state_dict()) == list(result.network.state_dict())
    again.load_state_dict(result.network.state_dict())
    assert apart(result.network, again, X) == 0.0 and apart(full, again, X) < 1e-5


def test_frozen_weights_stay_frozen():
    full = network(of_rank(30, 24, 5))
    full[0].weight.requires_grad_(False)
    thin = compact(full, X).network
    assert [part.weight.requires_grad for part in thin[0]] == [False, False] and thin[2].weight.requires_grad


@pytest.mark.parametrize("folded", [[], {"0": 0}, {"0": True}, {"0": 2.5}])
def test_a_damaged_plan_is_refused(folded):
    with pytest.raises(ValueError, match="the plan is damaged: its folded does not say a rank of each layer"):
        check_plan({"tensors": {}, "bias_added": [], "folded": folded})


@pytest.mark.parametrize("folded", [{"9": 2}, {"1": 2}, {"0": 25}, {"": 1}])
def test_a_plan_of_another_network_is_refused(folded):
    with pytest.raises(ValueError, match="the plan is of another network: it has no linear layer"):
        cut(network(), X, {"tensors": {}, "bias_added": [], "folded": folded})
