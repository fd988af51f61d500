"""The benchmarks of unit gates: rules that remove what they say, verdicts, and priors of pi of one price."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import bayesprune as bp
from benchmarks import unit_gate_peers as peers
from benchmarks import unit_gate_robustness as robustness


def data(n=64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 12, generator=generator)
    return x, (x[:, :3] @ torch.randn(3, 4, generator=generator)).argmax(1)


def small(hidden=(20, 8)):
    torch.manual_seed(0)
    return bp.lenet_300_100(12, 4, hidden)


@pytest.fixture(scope="module")
def fit():
    return peers.with_prior(lambda value: bp.GroupHorseshoe())(peers.Job(small(), data(), 3, 0), 0.0)


def test_a_row_has_its_root_mean_square_over_the_largest_of_its_layer(fit):
    found = peers.row_size(fit)
    assert set(found) == {"fc1.weight", "fc2.weight"}
    for name, weight in fit.included_weights().items():
        rows = [math.sqrt(sum(float(w) ** 2 for w in row) / len(row)) for row in weight]
        expected = torch.tensor([[row / max(rows)] * weight.shape[1] for row in rows])
        torch.testing.assert_close(found[name], expected)
        assert float(found[name].min()) < 0.99  # not all alike


def test_above_keeps_the_rows_over_the_threshold_and_no_others(fit):
    scores = peers.row_size(fit)
    rows = torch.cat([score[:, 0] for score in scores.values()]).sort().values
    low, high = (float(rows[at : at + 2].mean()) for at in (5, 12))
    kept = {threshold: peers.above(fit, peers.row_size, threshold).masks for threshold in (low, high)}
    for threshold, masks in kept.items():
        assert all(torch.equal(masks[name], scores[name] > threshold) for name in scores)
    assert any(not torch.equal(kept[low][name], kept[high][name]) for name in scores)


def test_torch_pruning_removes_a_share_of_each_layer_but_the_last_and_spares_what_it_was_given():
    pytest.importorskip("torch_pruning")
    network = small()
    found = peers.by_torch_pruning(network, peers.Job(network, data(), 1, 0), 0.5)
    assert peers.hidden_widths(found) == [10, 4]
    assert peers.hidden_widths(network) == [20, 8]
    assert found(data()[0]).shape == (64, 4)


def test_a_search_is_shared_only_where_it_does_not_depend_on_the_value(monkeypatch):
    monkeypatch.setitem(peers.NETWORKS, "small", lambda width: bp.lenet_300_100(12, 4, (20, 8), width))
    monkeypatch.setitem(peers.GATES, "small", ({}, {}))
    splits = SimpleNamespace(train=data(), validation=data(), test=data())

    def searches(shared, width=1.0):
        seen = []

        def search(job, value):
            seen.append((value, job.epochs))
            return job.network

        method = peers.Method(search, lambda found, job, value: found, "", {"small": (1.0, 2.0)}, shared)
        found = peers.run(method, "small", splits, 3, 0, width)
        assert set(found) == {"1", "2"}
        first, second = round(20 * width), round(8 * width)
        assert found["1"]["widths"] == f"{first}-{second}"
        assert found["1"]["macs"] == 12 * first + first * second + second * 4
        return seen

    assert searches(True) == [(1.0, 2)]  # two of three epochs
    assert searches(False) == [(1.0, 2), (2.0, 2)]
    assert searches(True, width=0.5) == [(1.0, 2)]  # a narrower start


def curve(spread=0.001):
    return [
        peers.Point("unit gates", "1", [0.86 - spread, 0.86 + spread], 1e3),
        peers.Point("unit gates", "2", [0.88 - spread, 0.88 + spread], 1e5),
    ]


@pytest.mark.parametrize(
    ("accuracy", "macs", "expected"),
    [
        (0.80, 1e4, "-7.00 points at 10,000 MACs, dominated"),
        (0.90, 1e4, "+3.00 points at 10,000 MACs, ahead"),
        (0.871, 1e4, "+0.10 points at 10,000 MACs, within the spread"),
        (0.90, 1e6, "1,000,000 MACs are outside the curve"),
    ],
)
def test_a_verdict_compares_at_equal_macs(accuracy, macs, expected):
    # Over log MACs the middle of 1e3 and 1e5 is 1e4, where the curve is at 0.87.
    assert peers.verdict(peers.Point("L0", "1", [accuracy], macs), curve()) == expected


def test_a_difference_below_the_spread_of_the_curve_does_not_count():
    point = peers.Point("L0", "1", [0.865], 1e4)
    assert peers.verdict(point, curve(0.001)).endswith("dominated")
    assert peers.verdict(point, curve(0.01)).endswith("within the spread")


def cheapest(theta, log_penalty):
    """min over pi of KL(Bernoulli(theta) || Bernoulli(pi)) + penalty, by a search over log odds of pi."""
    log_odds = torch.linspace(-40.0, 40.0, 800_001, dtype=torch.float64)
    log_pi, log_rest = nn.functional.logsigmoid(log_odds), nn.functional.logsigmoid(-log_odds)
    divergence = -log_pi if theta == 1.0 else -log_rest
    return float((divergence + log_penalty(log_pi, log_rest)).min())


@pytest.mark.parametrize("log_gamma", [0.5, 10.8, 60.0])
def test_the_beta_hyper_prior_has_the_price_of_the_flattening_one(log_gamma):
    def price(b):
        cost = [cheapest(theta, lambda log_pi, log_rest: -(b - 1.0) * log_rest) for theta in (1.0, 0.0)]
        return cost[0] - cost[1]

    b = robustness.beta_of(log_gamma)
    if log_gamma < 30.0:  # the search goes to pi = exp(-40)
        assert price(b) == pytest.approx(log_gamma, abs=1e-6)
        assert price(1.1 * b) != pytest.approx(log_gamma, abs=1e-2)
    pressure = robustness.PRESSURES["Beta(1, b)"](log_gamma).pressure(1)
    ends = pressure.cost(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert float(ends[1] - ends[0]) == pytest.approx(log_gamma, abs=1e-3)


@pytest.mark.parametrize("log_gamma", [0.5, 10.8])
def test_a_fixed_pi_has_the_price_of_the_flattening_prior(log_gamma):
    pi = robustness.PRESSURES["fixed pi"](log_gamma).probability
    assert math.log1p(-pi) - math.log(pi) == pytest.approx(log_gamma)


def test_the_spread_is_the_range_over_the_mean():
    assert robustness.relative_spread([90.0, 100.0, 110.0]) == pytest.approx(0.2)
    assert robustness.relative_spread([5.0, 5.0]) == 0.0


def test_accuracies_are_noted_one_step_before_rounding_and_right_after(monkeypatch):
    monkeypatch.setattr(robustness, "validation_scores", lambda objective, x, y: {"accuracy": objective})
    watcher = robustness.AroundRounding(data())
    for step in range(1, 16):
        watcher.on_step(SimpleNamespace(step=step, steps=15, objective=step / 100))
    assert (watcher.before, watcher.after) == (0.09, 0.10)


def test_starts_differ_in_width_and_in_the_scale_of_weights_alone():
    one, wide, large = (robustness.STARTS[name].network(0) for name in ("x1", "x4", "weights x2"))
    assert peers.hidden_widths(wide) == [1200, 400]
    for name, parameter in one.named_parameters():
        factor = 2.0 if name.endswith("weight") else 1.0
        assert torch.equal(large.get_parameter(name), factor * parameter)
