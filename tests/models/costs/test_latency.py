"""Latency: networks take turns, and what is reported is what passed; robust on a machine that others use too."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections import Counter

import pytest
import torch
from torch import nn

from bayesprune.models.costs import latency as module
from bayesprune.models.costs.latency import Latency, latency, ratio


def sleeper(seconds):
    return lambda x: time.sleep(seconds)


# --------------------------------------------------------------------------------------- what is measured


def test_sleeps_of_known_length_are_measured():
    found = latency({"long": sleeper(0.02), "short": sleeper(0.005)}, torch.zeros(1), repeats=9)
    # A sleep never ends early; how much later it ends is the machine's affair.
    assert 0.02 <= found["long"].lower <= found["long"].median <= found["long"].upper
    assert 0.005 <= found["short"].lower <= found["short"].median < 0.02
    assert found["long"].samples == found["short"].samples == 9
    assert found["long"].calls == 1
    assert 1.5 < ratio(found["long"], found["short"]).median < 10


def test_a_network_that_does_more_work_takes_longer():
    small = nn.Sequential(*(nn.Linear(256, 256) for _ in range(2)))
    large = nn.Sequential(*(nn.Linear(256, 256) for _ in range(40)))
    found = latency({"small": small, "large": large, "again": large}, torch.randn(16, 256), repeats=31)
    assert ratio(found["large"], found["small"]).median > 4
    assert ratio(found["small"], found["large"]).median < 1 / 4
    assert 0.5 < ratio(found["large"], found["again"]).median < 2  # control: the same network


def test_quick_networks_are_called_many_times_a_sample():
    calls = Counter()

    def quick(x):
        calls["quick"] += 1

    found = latency({"quick": quick}, torch.zeros(1), repeats=10)["quick"]
    assert found.calls > 100
    assert calls["quick"] > 10 * found.calls
    assert 0 < found.median < 0.5e-3  # seconds for one call, not for a sample
    assert found.median * found.calls > 0.1e-3  # a sample is long, though here the machine may have sped up since


class Clock:
    """Stands for the clock: it moves only when a network is called, by what the call costs."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.log = []
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)

    def network(self, name, *costs):
        """A network whose calls take these times in turn."""
        turn = iter(range(10**9))

        def call(x):
            self.log.append(name)
            self.now += costs[next(turn) % len(costs)]

        return call


def test_the_numbers_are_the_quartiles_of_the_samples(monkeypatch):
    clock = Clock(monkeypatch)
    found = latency({"a": clock.network("a", 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)}, 0, repeats=20, seconds=1e9)["a"]
    assert found.samples == 20
    assert set(found.rounds) == {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0}
    expected = sorted(found.rounds)
    assert found.median == statistics.median(expected)
    below = [sum(sample <= quartile for sample in expected) for quartile in (found.lower, found.upper)]
    assert 5 <= below[0] <= 8 and 15 <= below[1] <= 18


def test_a_sample_is_a_millisecond_long(monkeypatch):
    clock = Clock(monkeypatch)
    quick, slow = clock.network("quick", 1.5e-6), clock.network("slow", 0.4e-3)
    found = latency({"quick": quick, "slow": slow}, 0, repeats=5)
    assert math.ceil(1e-3 / 1.5e-6) <= found["quick"].calls <= 2 * 1e-3 / 1.5e-6
    assert 3 <= found["slow"].calls <= 5
    assert found["quick"].median == pytest.approx(1.5e-6)
    assert found["slow"].median == pytest.approx(0.4e-3)


def test_one_delay_does_not_make_samples_short(monkeypatch):
    clock = Clock(monkeypatch)
    network = clock.network("a", 1e-5, 1.2e-3, *[1e-5] * 10**6)  # the second call, the first that is timed, is delayed
    assert latency({"a": network}, 0, repeats=3)["a"].calls >= 100


def test_drift_cancels_in_ratios_and_not_in_medians(monkeypatch):
    clock = Clock(monkeypatch)
    slowing = {"now": 1.0}

    def network(cost):
        def call(x):
            clock.now += cost * slowing["now"]
            slowing["now"] *= 1.02  # every call is slower than the one before

        return call

    found = latency({"a": network(0.02), "b": network(0.01)}, 0, repeats=60, seconds=1e9)
    paired = ratio(found["a"], found["b"])
    assert paired.median == pytest.approx(2.0, rel=0.03)
    assert paired.samples == 60
    assert paired.upper - paired.lower < 0.1
    assert found["a"].upper / found["a"].lower > 2  # control: there is drift to cancel
    assert paired.median == statistics.median(a / b for a, b in zip(found["a"].rounds, found["b"].rounds, strict=True))


# ------------------------------------------------------------------------------------------------- turns


def test_each_round_runs_every_network_once_in_an_order_that_changes(monkeypatch):
    orders = []
    for _ in range(2):
        clock = Clock(monkeypatch)
        found = latency({name: clock.network(name, 0.1) for name in "abc"}, 0, repeats=40, seconds=1e9)
        assert all(latencies.calls == 1 for latencies in found.values())
        kept = clock.log[-120:]
        rounds = ["".join(kept[start : start + 3]) for start in range(0, 120, 3)]
        assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
        orders.append(rounds)
    assert len(set(orders[0])) == 6  # all orders occur
    firsts = Counter(one[0] for one in orders[0])
    assert max(firsts.values()) < 25
    assert orders[0] == orders[1]  # and are the same every time


def test_the_first_calls_are_not_counted(monkeypatch):
    clock = Clock(monkeypatch)
    network = clock.network("a", *[9.0] * 4, *[0.1] * 1000)  # cold for a call, a timed one and two rounds
    found = latency({"a": network}, 0, repeats=10, seconds=1e9)["a"]
    assert found.rounds == pytest.approx([0.1] * 10)
    assert len(clock.log) == 14


# ------------------------------------------------------------------------------------------------- limits


def test_no_round_begins_when_the_time_is_spent(monkeypatch):
    clock = Clock(monkeypatch)
    found = latency({"a": clock.network("a", 0.3), "b": clock.network("b", 0.1)}, 0, repeats=1000, seconds=10.0)
    assert 20.0 <= clock.now <= 20.5
    assert 40 < found["a"].samples == found["b"].samples < 50


@pytest.mark.parametrize(("repeats", "expected"), [(1000, 3), (2, 2), (1, 1)])
def test_a_few_rounds_always_run(monkeypatch, repeats, expected):
    clock = Clock(monkeypatch)
    found = latency({"a": clock.network("a", 60.0)}, 0, repeats=repeats, seconds=1.0)["a"]
    assert found.samples == expected
    assert found.lower == found.median == found.upper == 60.0
    assert len(clock.log) == 3 + expected  # cold, timed, and one round to warm up


# --------------------------------------------------------------------------------------- nothing is changed


class Watcher(nn.Module):
    """Notes what it runs under."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.seen = set()

    def forward(self, x):
        self.seen.add((self.training, torch.is_inference_mode_enabled(), torch.get_num_threads(), gc.isenabled()))
        return self.layer(x)


@pytest.fixture
def two_threads():
    """Two threads before, and the usual number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_networks_run_in_inference_mode_with_the_threads_asked_for(two_threads):
    network = Watcher().train()
    latency({"a": network}, torch.randn(1, 2), repeats=2)
    assert network.seen == {(False, True, 1, False)}
    assert network.training and network.layer.training
    assert torch.get_num_threads() == 2 and gc.isenabled() and not torch.is_inference_mode_enabled()
    network(torch.randn(1, 2)).sum().backward()


@pytest.mark.parametrize(("threads", "expected"), [(None, 2), (2, 2), (1, 1)])
def test_no_threads_means_those_there_are(two_threads, threads, expected):
    network = Watcher()
    latency({"a": network}, torch.randn(1, 2), repeats=1, threads=threads)
    assert {seen[2] for seen in network.seen} == {expected}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("fails_at", [1, 50])
def test_everything_is_put_back_after_an_error(two_threads, fails_at):
    calls = Counter()

    def fails(x):
        calls["now"] += 1
        time.sleep(0.001)
        if calls["now"] == fails_at:
            raise RuntimeError("not today\nnor tomorrow")

    network = Watcher().train()
    first = (ValueError, r"^'fails' does not take .* \(not today\)")  # that the input does not fit is seen at once
    expected, message = first if fails_at == 1 else (RuntimeError, "^not today")
    with pytest.raises(expected, match=message):
        latency({"network": network, "fails": fails}, torch.randn(1, 2), seconds=60.0)
    assert torch.get_num_threads() == 2 and gc.isenabled() and not torch.is_inference_mode_enabled()
    assert network.training and network.layer.training


# ------------------------------------------------------------------------------------- inputs and results


def test_several_inputs_are_passed_apart_and_one_of_any_type_as_it_is():
    seen = set()
    latency({"two": lambda x, y: seen.add((x, y))}, (1, 2), repeats=1)
    latency({"one": lambda x: seen.add(x)}, "anything", repeats=1)
    assert seen == {(1, 2), "anything"}


def test_results_read_well():
    found = Latency(0.00123456, 0.0012, 0.0015, (0.0012, 0.0015), 7, 0)
    assert str(found) == "1.235 ms, quartiles 1.2 to 1.5 ms (2 samples of 7 calls)"
    other = Latency(0.0006, 0.0006, 0.0006, (0.0006, 0.0005), 7, 0)
    assert str(ratio(found, other)) == "2.5, quartiles 2.25 to 2.75 (2 rounds)"


def test_latencies_of_different_measurements_are_not_paired():
    first, second = (latency({"a": sleeper(0.001)}, 0, repeats=3)["a"] for _ in range(2))
    assert ratio(first, first).median == 1.0  # control
    with pytest.raises(ValueError, match="no common rounds: pass both to one call"):
        ratio(first, second)


@pytest.mark.parametrize(
    ("networks", "options", "message"),
    [
        ({}, {}, "networks by name, at least one"),
        (nn.Linear(2, 2), {}, "networks by name, at least one"),
        ({"a": 3}, {}, "'a' is a int, which cannot be called"),
        ({"a": nn.Linear(3, 2)}, {}, "'a' does not take the example input"),
        ({"a": nn.Linear(2, 2)}, {"repeats": 0}, "repeats is 0"),
        ({"a": nn.Linear(2, 2)}, {"threads": 0}, "threads is 0"),
        ({"a": nn.Linear(2, 2)}, {"seconds": 0.0}, "seconds is 0.0"),
        ({"a": nn.Linear(2, 2)}, {"seconds": math.nan}, "seconds is nan"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(networks, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        latency(networks, torch.randn(1, 2), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_the_device_is_waited_for():
    factor = torch.randn(4096, 4096, device="cuda")

    def work(x):
        for _ in range(50):
            x = x @ factor
        return x

    def waiting(x):
        work(x)
        torch.cuda.synchronize()

    found = latency({"work": work, "waiting": waiting}, factor, repeats=10)
    assert 0.8 < ratio(found["work"], found["waiting"]).median < 1.25
