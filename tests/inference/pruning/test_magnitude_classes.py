"""Pruning over the network, in each layer and per distribution: as thresholds in NumPy say, with exact counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.masks.spread import over_spread
from bayesprune.inference.pruning.report import PruneResult, report_of
from tests.oracles.magnitude_classes import kept_by_threshold

EXAMPLE = [[-0.685, 0.53, -0.464], [-0.534, 0.828, 0.045], [-0.123, 0.629, -0.014]]
MODES = {"network": "blind", "layer": "uniform", "distribution": "distribution"}
SIZES = (17, 13, 9, 4)


def network(seed=0, scales=(1.0, 3.0, 0.2)):
    torch.manual_seed(seed)
    layers = [nn.Linear(a, b).double() for a, b in zip(SIZES, SIZES[1:], strict=False)]
    with torch.no_grad():
        for layer, scale in zip(layers, scales, strict=True):
            layer.weight.normal_().mul_(scale).add_(0.1 * scale)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def result_of(net):
    """What `prune` returns of a network of which nothing is pruned."""
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in net.named_parameters() if p.ndim > 1}
    return PruneResult(net, masks, report_of("dense", "none", None, net, masks), bp.Categorical())


def fit_of(net):
    """A fit by points at the network's weights, nothing trained."""
    names = [name for name, p in net.named_parameters() if p.ndim > 1]
    model = bp.BayesianNetwork(net, dict.fromkeys(names, bp.Gaussian()), data_size=10)
    width = next(iter(net.parameters())).shape[1]
    return bp.Fit.of(bp.objective(model, "map"), (torch.ones(10, width).double(), torch.arange(10) % 3))


def numpy_of(result):
    weights = {name: result.network.get_parameter(name).detach().numpy() for name in result.masks}
    return weights, {name: mask.numpy() for name, mask in result.masks.items()}


def is_same(one, other):
    return all(torch.equal(one.masks[name], other.masks[name]) for name in one.masks)


def test_the_published_example_loses_one_weight_at_its_threshold():
    weights = np.array(EXAMPLE)
    assert np.percentile(np.abs(weights), 10) == pytest.approx(0.0388)
    net = nn.Sequential(nn.Linear(3, 3)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(EXAMPLE))
    for given in (fit_of(net), result_of(net)):
        for per in MODES:
            pruned = bp.prune(given, sparsity=0.1, per=per)
            left = pruned.network[0].weight.detach().numpy()
            assert np.array_equal(left != 0.0, np.abs(weights) >= 0.0388) and pruned.report.nonzero == 8


@pytest.mark.parametrize("per", MODES)
@pytest.mark.parametrize("seed", range(5))
def test_masks_are_those_of_thresholds_over_what_is_left(per, seed):
    """Round after round. An exact count and a percentile differ by one weight, and no more, of a network or a layer."""
    result = result_of(network(seed))
    for _ in range(6):
        weights, before = numpy_of(result)
        wanted = kept_by_threshold(weights, before, 0.25, MODES[per])
        result = bp.prune(result, share=0.25, per=per)
        got = {name: mask.numpy() for name, mask in result.masks.items()}
        apart = {name: int((wanted[name] != got[name]).sum()) for name in got}
        assert sum(apart.values()) <= (len(apart) if per == "layer" else 1)
        assert all(not (got[name] & ~before[name]).any() for name in got)  # nested
        groups = [[name] for name in got] if per == "layer" else [list(got)]
        for names in groups:
            was, now = (sum(int(one[name].sum()) for name in names) for one in (before, got))
            assert now == was - round(0.25 * was)


def test_the_three_differ_and_the_control_is_seen():
    masks = {per: bp.prune(result_of(network()), sparsity=0.6, per=per) for per in MODES}
    assert not is_same(masks["network"], masks["layer"]) and not is_same(masks["network"], masks["distribution"])
    weights, every = numpy_of(result_of(network()))
    for per, pruned in masks.items():
        wrong = kept_by_threshold(weights, every, 0.6, "uniform" if per == "network" else "blind")
        assert sum(int((wrong[name] != mask.numpy()).sum()) for name, mask in pruned.masks.items()) > 10


def test_a_fit_and_its_dense_network_are_pruned_alike():
    for per in MODES:
        for amount in ({"sparsity": 0.7}, {"share": 0.7}, {"count": 200}):
            one, other = (
                bp.prune(fit_of(network()), per=per, **amount),
                bp.prune(result_of(network()), per=per, **amount),
            )
            assert is_same(one, other) and one.report.rule == other.report.rule


def test_equal_weights_are_counted_exactly():
    net = network()
    with torch.no_grad():
        for layer in (net[0], net[2], net[4]):
            layer.weight.copy_(layer.weight.sign() * (layer.weight.abs() > 0.5).double().add(1.0))
    whole = sum(layer.weight.numel() for layer in (net[0], net[2], net[4]))
    for per in ("network", "distribution"):
        assert bp.prune(result_of(net), sparsity=0.33, per=per).report.nonzero == whole - round(0.33 * whole)


def test_one_class_is_pruned_in_the_same_way_by_all_three():
    net = nn.Sequential(nn.Linear(11, 7)).double()
    one = {per: bp.prune(result_of(net), sparsity=0.55, per=per) for per in MODES}
    assert is_same(one["network"], one["layer"]) and is_same(one["network"], one["distribution"])


def test_a_rescaled_layer_changes_nothing_per_distribution_and_much_over_the_network():
    scaled = (1.0, 300.0, 0.2)
    for per, is_invariant in (("distribution", True), ("layer", True), ("network", False)):
        one, other = (bp.prune(result_of(network(scales=s)), sparsity=0.6, per=per) for s in ((1.0, 3.0, 0.2), scaled))
        assert is_same(one, other) is is_invariant


def test_the_spread_is_of_the_weights_that_are_left():
    result = bp.prune(result_of(network()), sparsity=0.8, only="0.weight", per="layer")
    right = bp.prune(result, share=0.75, per="distribution")
    weights = {name: result.network.get_parameter(name).detach() for name in result.masks}
    with_zeros = {name: weight.abs() / weight.std(correction=0) for name, weight in weights.items()}
    scores = torch.cat([with_zeros[name][mask] for name, mask in result.masks.items()])
    least = scores.sort().values[round(0.75 * len(scores))]
    wrong = {name: mask & (with_zeros[name] >= least) for name, mask in result.masks.items()}
    assert sum(int(mask.sum()) for mask in wrong.values()) == right.report.nonzero
    assert any(not torch.equal(wrong[name], right.masks[name]) for name in wrong)
    # The spread with zeros is smaller, so that the tensor that was pruned most looks stronger than it is.
    assert int(wrong["0.weight"].sum()) > int(right.masks["0.weight"].sum())


def test_a_tensor_without_a_spread_goes_last():
    scores = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([5.0, 0.0, 0.0])}
    active = {"a": torch.tensor([True, True, True]), "b": torch.tensor([True, False, False])}
    found = over_spread(scores, active, scores)
    assert torch.isinf(found["b"]).all() and torch.isfinite(found["a"]).all()
    assert found["a"].tolist() == pytest.approx([value / np.std([1.0, 2.0, 3.0]) for value in (1, 2, 3)])


def test_other_criteria_are_divided_by_the_spread_of_their_scores():
    def cubes(given, restart):
        return {name: given.network.get_parameter(name).abs() ** 3 for name in given.masks}

    result = result_of(network())
    pruned = bp.prune(result, sparsity=0.6, per="distribution", criterion=cubes)
    weights, _ = numpy_of(result)
    scores = {name: np.abs(weight) ** 3 / np.std(np.abs(weight) ** 3) for name, weight in weights.items()}
    every = np.sort(np.concatenate([score.ravel() for score in scores.values()]))
    least = every[round(0.6 * len(every))]
    assert all(np.array_equal(scores[name] >= least, mask.numpy()) for name, mask in pruned.masks.items())
    assert not is_same(pruned, bp.prune(result, sparsity=0.6, per="distribution"))
