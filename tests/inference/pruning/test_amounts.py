"""How much is pruned and of what: shares, numbers, patterns of tensors, and what is pruned already."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bayesprune as bp
from tests.inference.pruning.test_magnitude_classes import fit_of, is_same, network, result_of

NAMES = ("0.weight", "2.weight", "4.weight")


def counts(result):
    return {name: int(mask.sum()) for name, mask in result.masks.items()}


@pytest.mark.parametrize("given", [fit_of, result_of])
def test_numbers_are_exact_and_spread_over_layers_in_proportion(given):
    pruned = bp.prune(given(network()), count=100, per="layer")
    sizes = {name: mask.numel() for name, mask in pruned.masks.items()}
    whole = sum(sizes.values())
    assert pruned.report.nonzero == whole - 100
    for name, count in counts(pruned).items():
        assert abs(count - sizes[name] * (whole - 100) / whole) <= 1.0
    assert pruned.report.rule == "100 fewer weights per layer"
    one = bp.prune(given(network()), count=whole - 1)
    assert one.report.nonzero == 1  # what the published 100 % leave


@pytest.mark.parametrize("per", ["network", "layer", "distribution"])
@pytest.mark.parametrize("given", [fit_of, result_of])
def test_named_tensors_are_pruned_and_the_others_are_left_as_they_were(given, per):
    pruned = bp.prune(given(network()), sparsity=0.5, per=per, only=["0.*", "4.weight"])
    assert bool(pruned.masks["2.weight"].all())
    sizes = {name: pruned.masks[name].numel() for name in ("0.weight", "4.weight")}
    left = {name: counts(pruned)[name] for name in sizes}
    assert sum(left.values()) == sum(size - round(0.5 * size) for size in sizes.values())
    assert (left == {name: size - round(0.5 * size) for name, size in sizes.items()}) is (per == "layer")
    assert pruned.report.rule == f"sparsity 0.5 per {per} of 0.*, 4.weight"
    alone = bp.prune(given(network()), sparsity=0.5, per=per)
    assert not is_same(pruned, alone)
    again = bp.prune(pruned, share=0.5, only="2.weight", per=per)
    assert all(torch.equal(again.masks[name], pruned.masks[name]) for name in sizes)
    assert counts(again)["2.weight"] == math.ceil(pruned.masks["2.weight"].numel() / 2)


def test_a_least_score_and_an_inclusion_probability_are_of_named_tensors():
    for given in (fit_of(network()), result_of(network())):
        pruned = bp.prune(given, min_score=0.7, criterion="magnitude", only="0.weight")
        weight = network()[0].weight
        assert torch.equal(pruned.masks["0.weight"], weight.abs() > 0.7) and bool(pruned.masks["2.weight"].all())
        assert pruned.report.rule == "score > 0.7 of 0.weight"
    torch.manual_seed(0)
    model = bp.BayesianNetwork(nn.Linear(8, 3), {"*": bp.SpikeAndSlab()}, data_size=20)
    fit = bp.fit(model, (torch.randn(20, 8), torch.arange(20) % 3), steps=3, device="cpu")
    every = bp.prune(fit, min_inclusion=0.9)
    some = bp.prune(fit, min_inclusion=0.9, only="bias")
    assert torch.equal(some.masks["bias"], every.masks["bias"]) and some.report.rule.endswith("> 0.9 of bias")
    assert torch.equal(some.masks["weight"], bp.prune(fit, min_inclusion=0.5).masks["weight"])


def test_what_a_fit_has_left_out_comes_back_by_no_criterion():
    net = network()
    with torch.no_grad():
        net[0].weight[:, :9] = 0.0
    fit = fit_of(net)
    for how in ({"criterion": "random"}, {"per": "distribution"}, {"criterion": "random", "per": "distribution"}):
        pruned = bp.prune(fit, share=0.3, **how)
        zeros, whole = 13 * 9, sum(mask.numel() for mask in pruned.masks.values())
        assert pruned.report.nonzero == whole - zeros - round(0.3 * (whole - zeros))
        assert not bool(pruned.masks["0.weight"][:, :9].any())
    assert not bool(bp.prune(fit, sparsity=0.5, criterion="random").masks["0.weight"][:, :9].any())


def test_chance_has_a_seed():
    result = result_of(network())
    one, same, other = (bp.prune(result, sparsity=0.5, criterion="random", seed=seed) for seed in (1, 1, 2))
    assert is_same(one, same) and not is_same(one, other)
    fits = [bp.prune(fit_of(network()), sparsity=0.5, criterion="random", seed=seed) for seed in (1, 2)]
    assert is_same(fits[0], one) and is_same(fits[1], other)
    share = [float(one.masks[name].double().mean()) for name in NAMES]
    assert all(abs(part - 0.5) < 0.2 for part in share)


def test_what_was_given_is_left_as_it_was():
    result = result_of(network())
    before = {name: value.clone() for name, value in result.network.state_dict().items()}
    pruned = bp.prune(result, share=0.5)
    assert all(torch.equal(value, before[name]) for name, value in result.network.state_dict().items())
    assert all(bool(mask.all()) for mask in result.masks.values()) and pruned.network is not result.network
    assert pruned.likelihood is result.likelihood and pruned.input_shape == result.input_shape


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"sparsity": 0.5, "only": "1.wieght"}, "only='1.wieght' matches no tensor that is pruned: did you mean"),
        ({"sparsity": 0.5, "only": "cell.*"}, "only='cell.*' matches no tensor .*: these are 0.weight, 2.weight and 4"),
        ({"sparsity": 0.5, "only": 3}, "only= takes names or shell patterns"),
        ({"sparsity": 0.5, "only": []}, "only= takes names or shell patterns"),
        ({"share": 1.0}, "share 1 of what was left leaves none of the 374 weights .*; count=373 leaves one"),
        ({"count": 374}, "374 fewer weights leave none of the 374 weights"),
        ({"count": 373, "per": "layer"}, "leave 1 in 3 tensors, of which each keeps one at least"),
        ({"share": 0.995, "per": "layer", "only": "4.weight"}, "leaves none of the 36 weights of 4.weight"),
        ({"share": 0.0}, r"share= is the fraction of the weights left that goes, in \(0, 1\], not 0.0"),
        ({"share": math.nan}, "share= is the fraction"),
        ({"count": 2.5}, "count= is the number of weights that go, at least 1, not 2.5"),
        ({"count": 0}, "count= is the number of weights that go"),
        ({"count": True}, "count= is the number of weights that go"),
        ({"sparsity": 1.0}, r"sparsity is a fraction of zeros in \[0, 1\), not 1.0"),
        ({"sparsity": 0.5, "per": "class"}, "per= takes 'network', 'layer' or 'distribution', not 'class'"),
        ({"share": 0.5, "count": 3}, "give one of sparsity=, share=, count=, "),
        ({"share": 0.5, "seed": "a"}, "seed"),
        ({"min_score": 0.5, "criterion": "magnitude", "per": "distribution"}, "per='distribution' is about where"),
    ],
)
@pytest.mark.parametrize("given", [fit_of, result_of])
def test_what_cannot_be_is_refused_in_one_sentence(given, arguments, says):
    with pytest.raises(ValueError, match=says) as told:
        bp.prune(given(network()), **arguments)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "what is pruned already is one network without a posterior: give one of sparsity="),
        ({"min_inclusion": 0.5}, "what is pruned already is one network"),
        ({"budget": 0.5}, "what is pruned already is one network"),
        ({"sparsity": 0.5, "restart": 0}, "what is pruned already is one network"),
        ({"share": 0.5, "criterion": "inclusion"}, "criterion 'inclusion' is none of a network that is pruned already"),
        ({"share": 0.5, "criterion": lambda given, restart: {}}, "must return a score for each weight of 0.weight"),
    ],
)
def test_what_needs_a_posterior_is_refused_of_what_is_pruned(arguments, says):
    with pytest.raises(ValueError, match=says):
        bp.prune(result_of(network()), **arguments)


def test_less_than_there_is_is_refused():
    result = bp.prune(result_of(network()), sparsity=0.8)
    with pytest.raises(ValueError, match="75 of 374 weights .* are left, fewer than the 187 that sparsity 0.5 keeps"):
        bp.prune(result, sparsity=0.5)
    with pytest.raises(ValueError, match="give sparsity=, share= or count="):
        bp.prune(fit_of(network()), budget=0.5, per="distribution")
    with pytest.raises(ValueError, match="a budget by layer names its tensors itself"):
        bp.prune(fit_of(network()), budget=0.5, only="0.weight")
    with pytest.raises(ValueError, match=r"per=, criterion= and only= say how weights are ranked"):
        bp.prune(fit_of(network()), only="0.weight")
