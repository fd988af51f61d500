"""What a fit holds by the weight, by guide: the state counted, the peak of a process measured; 1e9 weights on 8 GPUs.

A fit of a few steps of a network 784-h-h-10, in a process of its own for every size. Three things are told apart:

* **state**, counted tensor by tensor: the weights of the copy that is trained, the guide's parameters, their gradients
  and Adam's two moments. It is what stays from step to step.
* **training**: the most that the process holds until the last step, above what it held before the network was built.
  It has the state, what a step draws and throws away, the network that was handed in and its copy in the model.
* **whole**: the same until `fit` returns, which looks at the fit once more. Of the largest network, since what that
  takes is bounded (inference/posterior/shrinkage.py) and no multiple of the weights.

The slope between two sizes is bytes a weight, and does not know of libraries and activations. Freed memory goes back to
the system at once (MALLOC_MMAP_THRESHOLD_), so that a peak is what is held and not what an allocator keeps.

    python -m benchmarks.many_bytes
    python -m benchmarks.many_bytes --processes 2      # the first process of two, with FabricRuntime
    python -m benchmarks.many_bytes --estimate         # 1e9 weights on 8 GPUs by what was measured; measures nothing

The first one takes about two minutes, and 5 GiB at the largest size. Results are kept in a ledger; `--fresh` measures
anew.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, distributed, nn

import bayesprune as bp
from benchmarks.growth import SMALL, Peak
from benchmarks.ledger import Ledger
from benchmarks.started import in_processes

SIZES = (2_000_000, 8_000_000, 32_000_000)
BATCH, STEPS = 16, 3


@dataclass(frozen=True)
class Declared:
    """A prior with its guide, and what it costs by the weight.

    Attributes:
        prior: Its name among those of `bayesprune`.
        guide: As for `bp.fit`.
        learned: Numbers that are learned for each weight.
    """

    prior: str
    guide: str
    learned: int


GUIDES = {
    "point": Declared("Gaussian", "map", 1),
    "Normal, mean-field": Declared("Gaussian", "meanfield", 2),
    "HALO, map": Declared("HALO", "map", 2),
    "spike and slab, paired": Declared("SpikeAndSlab", "paired", 3),
    "horseshoe, mean-field": Declared("Horseshoe", "meanfield", 4),
}
"""What is measured, by name."""


@dataclass(frozen=True)
class Link:
    """What carries gradients between processes, or state inside of one.

    Attributes:
        name: Of it.
        bytes_per_second: Nominal, in one direction.
    """

    name: str
    bytes_per_second: float


LINKS = (
    Link("NVLink 4", 450e9),
    Link("PCIe 5 x16", 64e9),
    Link("Ethernet 400 Gb/s", 50e9),
    Link("Ethernet 100 Gb/s", 12.5e9),
)
"""Nominal rates, in one direction; those of real transfers are 0.6 to 0.9 of them."""
MEMORY = Link("memory of an H100 SXM", 3.35e12)
FLOPS = 400e12
"""Operations a second that a GPU of today reaches in large matrix products in bfloat16; nominal are 989e12 (H100)."""
ON_HOST = 8
"""Bytes a weight of the network that was handed in and of its copy in the model, which stay where they were made."""
CARDS = {"24 GB": 24e9, "80 GB": 80e9, "141 GB": 141e9}


def state_bytes(modules: Iterable[nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """Bytes of parameters, buffers, gradients and the optimizer's state, every storage once."""
    storages: dict[int, int] = {}

    def count(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()

    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            count(tensor)
            if tensor.grad is not None:
                count(tensor.grad)
    for kept in optimizer.state.values():
        for value in kept.values():
            if torch.is_tensor(value):
                count(value)
    return sum(storages.values())


class Count(bp.Callback):
    """Counts the state after the last step, and reads the peak until then; of several processes in the first one.

    Args:
        peak: What is read.
    """

    def __init__(self, peak: Peak) -> None:
        self.peak = peak
        self.state = self.training = 0

    def on_epoch(self, state: Any) -> None:
        """Counts."""
        self.state, self.training = state_bytes([state.objective], state.optimizer), self.peak.above_base()


def network_of(weights: int) -> nn.Module:
    """A network 784-h-h-10 with the h that comes nearest to so many parameters."""
    width = max(1, round(-398.0 + math.sqrt(398.0**2 + weights - 10)))  # h^2 + 796 h + 10 = weights
    return bp.lenet_300_100(784, 10, (width, width))


def fit_once(weights: int, declared: Declared, batch: int, runtime: Any) -> dict[str, float]:
    """A fit of a few steps in the plain execution.

    Returns:
        ``"weights"``, the parameters of the network; ``"state"``, ``"training"`` and ``"whole"`` in bytes, the first
        two zero where this is not the first process.
    """
    torch.manual_seed(0)
    x, y = torch.rand(STEPS * batch, 784), torch.randint(10, (STEPS * batch,))
    peak = Peak("cpu")
    network = network_of(weights)
    count = sum(p.numel() for p in network.parameters())
    model = bp.BayesianNetwork(network, {"*.weight": getattr(bp, declared.prior)()}, data_size=len(x))
    counted = Count(peak)
    fit = bp.fit(
        model,
        (x, y),
        declared.guide,
        steps=STEPS,
        batch_size=batch,
        execution="plain",
        device="cpu",
        callbacks=[counted],
        runtime=runtime,
    )
    found = {"weights": count, "state": counted.state, "training": counted.training, "whole": peak.above_base()}
    del fit
    return {name: float(value) for name, value in found.items()}


def measure_here(weights: int, name: str, batch: int, shared: bool) -> dict[str, float]:
    """Bytes of state and peak of a fit, for a process of its own.

    Args:
        weights: Parameters of the network.
        name: One of `GUIDES`.
        batch: Examples a step.
        shared: Whether it is one of several processes that share the fit.

    Returns:
        As `fit_once`.
    """
    torch.set_num_threads(1)
    runtime = bp.FabricRuntime(device="cpu") if shared else None
    fit_once(SMALL, GUIDES[name], batch, runtime)  # libraries are loaded before memory is measured
    found = fit_once(weights, GUIDES[name], batch, runtime)
    if shared:
        distributed.barrier()
        distributed.destroy_process_group()
    return found


def measure(weights: int, name: str, batch: int, processes: int) -> dict[str, float]:
    """`measure_here` in a process of its own, or in several that share the fit; what the first one has found."""
    with patch.dict(os.environ, MALLOC_MMAP_THRESHOLD_="65536"):
        return in_processes(measure_here, processes, weights, name, batch, processes > 1)


def slope(sizes: Sequence[Mapping[str, float]], key: str) -> float:
    """Bytes a weight between the smallest and the largest network."""
    small, large = min(sizes, key=lambda one: one["weights"]), max(sizes, key=lambda one: one["weights"])
    return (large[key] - small[key]) / (large["weights"] - small["weights"])


def expected_state(declared: Declared) -> int:
    """Bytes a weight of the state: the network's own, and four numbers for each that is learned."""
    return 4 + 4 * 4 * declared.learned


def show(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """A table of what was measured, by guide."""
    lines = [f"{'bytes a weight':26}{'learned':>9}{'state':>9}{'expected':>10}{'training':>10}{'whole':>9}   by size"]
    for name, sizes in found.items():
        each = ", ".join(f"{one['training'] / one['weights']:.1f} at {one['weights']:.0e}" for one in sizes)
        largest = max(sizes, key=lambda one: one["weights"])
        lines.append(
            f"{name:26}{GUIDES[name].learned:9}{slope(sizes, 'state'):9.1f}{expected_state(GUIDES[name]):10}"
            f"{slope(sizes, 'training'):10.1f}{largest['whole'] / largest['weights']:9.1f}   {each}"
        )
    return "\n".join(lines)


def estimate(peaks: Mapping[str, float], weights: float = 1e9, processes: int = 8) -> str:
    """What so many weights take on so many GPUs, by guide: memory of each, bytes a step, and what they wait for.

    Args:
        peaks: Bytes a weight that a process holds at most while it trains, by name of `GUIDES`; `ON_HOST` of them are
            not on the GPU.
        weights: How many.
        processes: GPUs.
    """
    share = 2 * (processes - 1) / processes
    peaks = {name: peak - ON_HOST for name, peak in peaks.items()}
    lines = [
        f"{weights:.0e} weights on {processes} GPUs, float32; seconds are nominal",
        f"{'':26}{'GB each':>9}{'GB a step':>11}" + "".join(f"{link.name:>19}" for link in LINKS) + f"{'Adam':>9}",
    ]
    for name, peak in peaks.items():
        numbers = GUIDES[name].learned * weights
        moved = share * 4 * numbers
        seconds = "".join(f"{moved / link.bytes_per_second:>18.3f}s" for link in LINKS)
        adam = 28 * numbers / MEMORY.bytes_per_second  # reads four numbers, writes three
        lines.append(f"{name:26}{peak * weights / 1e9:9.0f}{moved / 1e9:11.1f}{seconds}{adam:8.3f}s")
    lines += [
        "",
        "uses of each weight a step and GPU (examples times places) that take as long as sharing gradients",
    ]
    for name in peaks:
        # a use is a multiplication and an addition, forward once and backward twice
        uses = (share * 4 * GUIDES[name].learned * FLOPS / (6 * link.bytes_per_second) for link in LINKS)
        lines.append(f"{name:46}" + "".join(f"{one:>19,.0f}" for one in uses))
    lines += ["", "weights that a card has room for"]
    for name, peak in peaks.items():
        lines.append(f"{name:26}" + ", ".join(f"{room / peak:.1e} in {card}" for card, room in CARDS.items()))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> dict[str, list[dict[str, float]]]:
    """Measures, prints tables and one line of JSON; returns what was found by name of a guide."""
    parser = argparse.ArgumentParser(description="Bytes a weight of a fit, by guide.")
    parser.add_argument("--guides", nargs="+", default=list(GUIDES), choices=GUIDES)
    parser.add_argument("--sizes", nargs="+", type=float, default=list(SIZES), help="weights; two at least")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"examples a step (default {BATCH})")
    parser.add_argument("--processes", type=int, default=1, help="that share the fit (default 1)")
    parser.add_argument("--estimate", action="store_true", help="show 1e9 weights on 8 GPUs by earlier results")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/many_bytes.json"), help="the ledger")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args(arguments)
    if options.fresh:
        options.out.unlink(missing_ok=True)
    ledger, found = Ledger(options.out), dict[str, list[dict[str, float]]]()
    for name in options.guides:
        for size in map(int, options.sizes):
            key = f"{name}, {size:,} weights, batch {options.batch}, {options.processes} processes"
            if options.estimate and key not in ledger.found():
                continue
            how = (size, name, options.batch, options.processes)
            result = ledger.run(key, lambda how=how: measure(*how))  # type: ignore[misc]
            found.setdefault(name, []).append(result)
    found = {name: sizes for name, sizes in found.items() if len(sizes) > 1}
    print(show(found))
    print("\n" + estimate({name: slope(sizes, "training") for name, sizes in found.items()}))
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
