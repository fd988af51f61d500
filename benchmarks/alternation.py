"""Timing several steps by turns, and the ratios between them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Cost:
    """What a step costs.

    Attributes:
        ms: Median over blocks, milliseconds a step.
        ms_quartiles: Lower and upper quartile.
        ratio: Median over blocks of the time over the reference's in the same block.
        ratio_quartiles: Lower and upper quartile.
    """

    ms: float
    ms_quartiles: tuple[float, float]
    ratio: float
    ratio_quartiles: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        """Numbers by name."""
        return asdict(self)


def synchronize(device: str | torch.device) -> None:
    """Waits for what a GPU still has to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def alternate(
    steps: Mapping[str, Callable[[], object]],
    blocks: int = 21,
    block_seconds: float = 0.1,
    warm_up: int = 3,
    device: str | torch.device = "cpu",
) -> dict[str, list[float]]:
    """Times steps by turns: in every block each runs once, so that drift of the machine hits all alike.

    The order moves on by one from block to block, so that no step always runs behind the same other.

    Args:
        steps: A function that makes one step, by name.
        blocks: Blocks; at least 1.
        block_seconds: About how long each runs in a block: as many steps as fit, at least one.
        warm_up: Untimed steps of each first.
        device: Where they run.

    Returns:
        Seconds a step in each block, by name.
    """
    counts = {}
    for name, step in steps.items():
        for _ in range(warm_up):
            step()
        synchronize(device)
        begin = time.perf_counter()
        step()
        synchronize(device)
        counts[name] = max(1, round(block_seconds / (time.perf_counter() - begin)))
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    for block in range(blocks):
        first = block % len(names)
        for name in names[first:] + names[:first]:
            step, count = steps[name], counts[name]
            begin = time.perf_counter()
            for _ in range(count):
                step()
            synchronize(device)
            times[name].append((time.perf_counter() - begin) / count)
    return times


def summarise(times: Mapping[str, Sequence[float]], reference: str) -> dict[str, Cost]:
    """Medians, quartiles, and ratios to `reference` taken within blocks.

    Args:
        times: Seconds a step in each block, by name.
        reference: Name of what the others are divided by.
    """
    costs = {}
    for name, values in times.items():
        ratios = [own / other for own, other in zip(values, times[reference], strict=True)]
        costs[name] = Cost(
            1e3 * statistics.median(values),
            _quartiles([1e3 * value for value in values]),
            statistics.median(ratios),
            _quartiles(ratios),
        )
    return costs


def best(times: Mapping[str, Sequence[float]], prefix: str) -> str:
    """Name of the fastest by median among those whose name begins with `prefix`."""
    return min((name for name in times if name.startswith(prefix)), key=lambda name: statistics.median(times[name]))


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, upper
