"""Is what unit gates find faster? Compact against dense, batch 1 and 128, PyTorch and onnxruntime, beside the MACs.

LeNet-300-100 (15 epochs) and LeNet-5 (3 epochs) with unit gates on Fashion-MNIST, then the compact and the dense
network by turns in one process, one thread. Run ``python -m benchmarks.unit_gate_speed``; it resumes, and prints a
table and what it cost.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.models.costs.latency import latency, ratio
from benchmarks.compact_speed import BATCHES, RUNTIMES, in_onnxruntime
from benchmarks.earlier_defaults import EARLIER_GATING, EARLIER_UNIT_GATES
from benchmarks.ledger import Ledger
from benchmarks.magnitude import accuracy


@dataclass(frozen=True)
class Case:
    """A network and how it is fitted.

    Attributes:
        build: Makes it.
        kappa: Price of a unit in nats per datum.
        epochs: In all; two thirds of them with gates.
    """

    build: Callable[[], nn.Module]
    kappa: float
    epochs: int


CASES = {
    "lenet-300-100": Case(bp.lenet_300_100, 4e-4, 15),
    "lenet-5": Case(bp.lenet_5, 4e-4, 3),
}


def measured(splits: Any, case: Case, rounds: int) -> dict[str, Any]:
    """Fits, compacts and times."""
    torch.manual_seed(0)
    dense = case.build().eval()
    x, _ = splits.train
    gates, gating = bp.UnitGates(kappa=case.kappa, **EARLIER_UNIT_GATES), bp.Gating(**EARLIER_GATING)
    model = bp.BayesianNetwork(dense, {}, gates=gates, data_size=len(x), example_input=x[:1])
    fit = bp.fit(model, splits.train, epochs=case.epochs, device="cpu", rules=[gating])
    small = bp.prune(fit, min_inclusion=0.5).compact().network
    found: dict[str, Any] = {
        "test": accuracy(small, *splits.test),
        "architecture": bp.architecture(small, x[:1]),
        "macs": bp.costs(dense, x[:1]).dense_macs / bp.costs(small, x[:1]).dense_macs,
    }
    for runtime in RUNTIMES:
        for batch in BATCHES:
            found[f"{runtime}, batch {batch}"] = speed_up(dense, small, runtime, x[:batch], rounds)
    return found


def speed_up(dense: nn.Module, small: nn.Module, runtime: str, x: Tensor, rounds: int) -> list[float]:
    """Quartiles of the speed-up over rounds, and the milliseconds of the dense network."""
    ready: dict[str, Callable[..., Any]] = {"dense": dense, "compact": small}
    if runtime == "onnxruntime":
        ready = {
            name: in_onnxruntime(network, x[:1].repeat(2, *[1] * (x.ndim - 1)))
            for name, network in (("dense", dense), ("compact", small))
        }
    times = latency(ready, x, repeats=rounds, threads=1, seconds=20)
    one = ratio(times["dense"], times["compact"])
    return [one.lower, one.median, one.upper, 1e3 * times["dense"].median]


def main() -> None:
    """Measures what is missing and prints the table."""
    parser = argparse.ArgumentParser(description="Is what unit gates find faster?")
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--out", default="runs/benchmarks/unit_gate_speed.json", help="ledger of finished runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = bp.load_data("fashion-mnist")
    ledger = Ledger(options.out)
    print("| network | found | test accuracy | MACs | runtime | dense ms | times faster (quartiles) |")
    print("|---|---|---|---|---|---|---|")
    for name, case in CASES.items():
        run = ledger.run(name, functools.partial(measured, splits, case, options.rounds))
        for runtime in RUNTIMES:
            for batch in BATCHES:
                lower, median, upper, milliseconds = run[f"{runtime}, batch {batch}"]
                print(
                    f"| {name} | {run['architecture']} | {run['test']:.4f} | 1/{run['macs']:.1f} "
                    f"| {runtime}, batch {batch} | {milliseconds:.3f} | {median:.2f} ({lower:.2f} to {upper:.2f}) |"
                )
    print(f"cost: {ledger.cost()}")


if __name__ == "__main__":
    main()
