"""Latency: how long networks take for one input, measured beside each other.

A shared machine drifts by more than the differences of interest, so the networks take turns: a round runs each
once, in an order that changes from round to round, and two of them are compared within rounds.
"""

from __future__ import annotations

import gc
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from bayesprune.models.checks.first_line import first_line
from bayesprune.models.networks.evaluation_mode import evaluation_mode

__all__ = ["Latency", "LatencyRatio", "latency", "ratio"]

_SAMPLE = 1e-3  # seconds; well above the clock's resolution and the cost of reading it
_CLEARLY_LONG = 10  # samples of this many times the least length are not checked for a chance delay
_WARM_UP = 2  # rounds that are not kept
_FEWEST = 3  # rounds that are kept however long they take

_MEASUREMENTS = itertools.count()


@dataclass(frozen=True)
class Latency:
    """How long one network takes. `str()` is one line.

    Attributes:
        median: Seconds for one call, median over the samples.
        lower: Lower quartile.
        upper: Upper quartile.
        rounds: Seconds for one call, one sample a round.
        calls: How many calls one sample is the mean of.
    """

    median: float
    lower: float
    upper: float
    rounds: tuple[float, ...] = field(repr=False)
    calls: int
    measurement: int = field(repr=False, compare=False)  # which call of latency() it comes from

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.rounds)

    def __str__(self) -> str:
        low, mid, high = (f"{1e3 * seconds:.4g}" for seconds in (self.lower, self.median, self.upper))
        return f"{mid} ms, quartiles {low} to {high} ms ({self.samples} samples of {self.calls} calls)"


@dataclass(frozen=True)
class LatencyRatio:
    """How many times as long one network takes as another.

    Attributes:
        median: Median over rounds of the ratio within a round.
        lower: Lower quartile of these ratios.
        upper: Upper quartile.
        samples: Number of rounds.
    """

    median: float
    lower: float
    upper: float
    samples: int

    def __str__(self) -> str:
        return f"{self.median:.3g}, quartiles {self.lower:.3g} to {self.upper:.3g} ({self.samples} rounds)"


def latency(
    networks: Mapping[str, Callable[..., Any]],
    example_input: Any,
    repeats: int = 100,
    threads: int | None = 1,
    seconds: float = 2.0,
) -> dict[str, Latency]:
    """Measures how long networks take for one input, by turns, in inference mode.

    Each network is first called until it is warm, and the number of calls is found that takes at least a
    millisecond: these calls are one sample. Then rounds run, each with one sample of every network, shuffled by a
    fixed seed. Where an input is on a CUDA device, the device is waited for before the clock is read.

    Args:
        networks: Networks by name; a module is measured in evaluation mode and put back in its own, any other
            callable is called as it is (e.g. a function that runs an ONNX session).
        example_input: What each is called with: one input, or a tuple of several. It is not moved or cast.
        repeats: Number of rounds, default 100.
        threads: Number of PyTorch's threads meanwhile, default 1; None leaves it. Other libraries have their own.
        seconds: Time allowed for each network, default 2; once all of it is spent no further round begins, except
            that three rounds always run (or `repeats`, where that is fewer).

    Returns:
        A `Latency` by name; `ratio` compares two of them.

    Raises:
        ValueError: If there is no network, a number is out of range, or a network does not take the input.
    """
    _check(networks, repeats, threads, seconds)
    inputs = tuple(example_input) if isinstance(example_input, (tuple, list)) else (example_input,)
    modules = [network for network in networks.values() if isinstance(network, nn.Module)]
    clock = _Clock(inputs)
    with evaluation_mode(*modules), _threads(threads), torch.inference_mode(), _no_collection():
        deadline = time.perf_counter() + seconds * len(networks)
        calls = {name: _calibrated(name, network, clock) for name, network in networks.items()}
        samples: dict[str, list[float]] = {name: [] for name in networks}
        order, shuffled = list(networks), random.Random(0)
        for done in range(-_WARM_UP, repeats):
            late = time.perf_counter() > deadline
            if late and (-_WARM_UP < done < 0 or done >= _FEWEST):
                continue
            shuffled.shuffle(order)
            for name in order:
                sample = clock.seconds(networks[name], calls[name]) / calls[name]
                if done >= 0:
                    samples[name].append(sample)
    measurement = next(_MEASUREMENTS)
    return {
        name: Latency(*_quartiles(found), tuple(found), calls[name], measurement) for name, found in samples.items()
    }


def ratio(one: Latency, other: Latency) -> LatencyRatio:
    """Compares two networks that were measured together: how many times as long `one` takes as `other`.

    Ratios are taken within rounds, so that what slows the machine down for a while slows both down and cancels.
    ``ratio(found["dense"], found["compact"])`` is the speed-up of the compact network.

    Raises:
        ValueError: If the two come from different calls of `latency`.
    """
    if one.measurement != other.measurement:
        raise ValueError("latencies of different measurements have no common rounds: pass both to one call of latency")
    pairs = [a / b for a, b in zip(one.rounds, other.rounds, strict=True)]
    return LatencyRatio(*_quartiles(pairs), len(pairs))


class _Clock:
    """Times calls with fixed inputs."""

    def __init__(self, inputs: tuple[Any, ...]) -> None:
        self.inputs = inputs
        self._devices = {part.device for part in inputs if torch.is_tensor(part) and part.is_cuda}

    def seconds(self, network: Callable[..., Any], calls: int) -> float:
        """Seconds that a number of calls takes."""
        self._wait()
        began = time.perf_counter()
        for _ in range(calls):
            network(*self.inputs)
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        for device in self._devices:
            torch.cuda.synchronize(device)


def _calibrated(name: str, network: Callable[..., Any], clock: _Clock) -> int:
    """Calls once while cold, then returns how many calls take at least a sample's length."""
    try:
        clock.seconds(network, 1)
    except Exception as problem:  # the network is the user's code
        reason = first_line(problem)
        raise ValueError(
            f"{name!r} does not take the example input ({reason}): pass one that it can be called with"
        ) from problem
    calls = 1
    while True:
        taken = clock.seconds(network, calls)
        if taken < _CLEARLY_LONG * _SAMPLE:  # a delay by chance would make it look long enough
            taken = min(taken, clock.seconds(network, calls), clock.seconds(network, calls))
        if taken >= _SAMPLE:
            return calls
        wanted = math.ceil(1.2 * calls * _SAMPLE / max(taken, 1e-9))
        calls = min(max(calls + 1, wanted), 10 * calls)


def _quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    lower, median, upper = statistics.quantiles(samples, n=4, method="inclusive")
    return median, lower, upper


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector is off, as in `timeit`: it would run within samples at random."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _check(networks: Any, repeats: int, threads: int | None, seconds: float) -> None:
    if not isinstance(networks, Mapping) or not networks:
        raise ValueError('latency needs networks by name, at least one: pass e.g. {"dense": network, "compact": small}')
    for name, network in networks.items():
        if not callable(network):
            raise ValueError(
                f"{name!r} is a {type(network).__name__}, which cannot be called: pass a module or function"
            )
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}, but at least one round is needed: 100 is usual")
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}, but at least 1 is expected: pass None to leave PyTorch's setting")
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds}, but a positive time for each network is expected: 2 is usual")
