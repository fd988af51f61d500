"""Unit gates as declared with nothing set, from starts of three widths: LeNet-300-100, digits and Fashion-MNIST.

`UnitGates()` and `Gating()`: the price of a unit is log N / N nats per datum. Networks once (x1), twice and four times
as wide are fitted with three seeds, digits for 200 epochs of batches of 64, Fashion-MNIST for 15 of 128. Printed are
units found in each layer, test and validation accuracy of the network that comes out, its collapsed objective in nats
per datum, training loss + weight decay + price x units, and its parts; and over the starts the spread of mean units,
(max - min) / mean. ``--ways`` tries other values, those of earlier versions among them.

Run ``python -m benchmarks.unit_gate_starts``; it resumes, and says what it cost. ``--data``, ``--ways`` and ``--seeds``
for some of it.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

import bayesprune as bp
from benchmarks.earlier_defaults import EARLIER_GATING, EARLIER_UNIT_GATES
from benchmarks.ledger import Ledger, mean_and_spread
from benchmarks.magnitude import accuracy, weight_matrices
from benchmarks.unit_gate_peers import hidden_widths
from benchmarks.unit_gate_robustness import WIDTHS, relative_spread


@dataclass(frozen=True)
class Length:
    """How long a fit is.

    Attributes:
        epochs: Passes over the data.
        batch_size: Examples a step.
    """

    epochs: int
    batch_size: int


LENGTHS = {"digits": Length(200, 64), "fashion-mnist": Length(15, 128)}
WAYS: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "default": ({}, {}),
    "earlier": (EARLIER_UNIT_GATES, EARLIER_GATING),
    "earlier weight scale": (EARLIER_UNIT_GATES, {}),
    "weight scale 1": ({"weight_scale": 1.0}, {}),
    "no delay": ({"weight_scale": 1.0}, EARLIER_GATING),
    "no delay, start .5": ({"start": 0.5}, EARLIER_GATING),
    "no delay, start .7": ({"start": 0.7}, EARLIER_GATING),
    "no delay, travel .45": ({}, {"travel": 0.45, **EARLIER_GATING}),
    "delay .5": ({}, {"delay": 0.5}),
}
"""Arguments of `UnitGates` and of `Gating`, by name."""


def fitted(splits: Any, width: str, seed: int, way: str, length: Length) -> dict[str, Any]:
    """One fit, and the network that it found."""
    x, y = splits.train
    of_gates, of_gating = WAYS[way]
    gates = bp.UnitGates(**of_gates)
    torch.manual_seed(seed)
    network = bp.lenet_300_100(x[0].numel(), splits.classes, width=float(width[1:]))
    model = bp.BayesianNetwork(network, {}, gates=gates, data_size=len(x), example_input=x[:2])
    fit = bp.fit(
        model, splits.train, epochs=length.epochs, batch_size=length.batch_size, seed=seed, execution="plain",
        device="cpu", rules=[bp.Gating(**of_gating)],
    )  # fmt: skip
    small = bp.prune(fit, min_inclusion=0.5).compact().network
    widths, price = hidden_widths(small), gates.price(len(x))
    assert price is not None
    squares = sum(float(weight.square().sum()) for weight in weight_matrices(small).values())
    with torch.no_grad():
        loss = float(functional.cross_entropy(small(x), y))
    decay = 0.5 * squares / gates.weight_scale**2 / len(x)
    report = fit.settings["gating"][0]
    return {
        "widths": "-".join(map(str, widths)),
        "units": sum(widths),
        "test": accuracy(small, *splits.test),
        "validation": accuracy(small, *splits.validation),
        "loss": loss,
        "decay": decay,
        "objective": loss + decay + price / len(x) * sum(widths),
        "interior": report["interior"],
        "noise": report["noise"],
    }


def row(data: str, way: str, width: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """A line of the table."""
    means = {name: statistics.mean(run[name] for run in runs) for name in ("units", "loss", "decay", "objective")}
    undecided, minutes = (statistics.mean(run[name] for run in runs) for name in ("interior", "minutes"))
    return (
        f"| {data} | {way} | {width} | {means['units']:.1f} ({', '.join(run['widths'] for run in runs)}) "
        f"| {mean_and_spread([run['test'] for run in runs])} "
        f"| {mean_and_spread([run['validation'] for run in runs])} | {undecided:.1f} "
        f"| {means['loss']:.4f} | {means['decay']:.4f} | {means['objective']:.4f} | {60 * minutes:.0f} |"
    )


def main() -> None:
    """Runs all starts, prints the table and the spreads."""
    parser = argparse.ArgumentParser(description="Unit gates at their defaults, from starts of three widths.")
    parser.add_argument("--data", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["default"])
    parser.add_argument("--widths", nargs="+", default=list(WIDTHS), help="x1, x2, ... (default x1 x2 x4)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="default 200 for digits, 15 for Fashion-MNIST")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ledger = Ledger(f"{options.out}/unit_gate_starts.json")
    lines, spreads = [], []
    for data in options.data:
        splits, length = bp.load_data(data), LENGTHS[data]
        length = Length(options.epochs or length.epochs, length.batch_size)
        for way in options.ways:
            units, accuracies = [], []
            for width in options.widths:
                runs = []
                for seed in range(options.seeds):
                    settings = " ".join(f"{key}={value}" for part in WAYS[way] for key, value in part.items())
                    name = f"{data}, {way} {settings}, {width}, {length.epochs} epochs, seed {seed}"
                    runs.append(ledger.run(name, functools.partial(fitted, splits, width, seed, way, length)))
                lines.append(row(data, way, width, runs))
                units.append(statistics.mean(run["units"] for run in runs))
                accuracies.append(statistics.mean(run["test"] for run in runs))
            spreads.append(
                f"{data}, {way}: over {', '.join(options.widths)} (max - min) / mean of hidden units "
                f"{relative_spread(units):.3f}, accuracies {100 * (max(accuracies) - min(accuracies)):.2f} points"
            )
    print("| data | way | start | hidden units | test | validation | undecided | loss | decay | objective | seconds |")
    print("|---|---|---|---|---|---|---|---|---|---|---|", *lines, *spreads, sep="\n")
    print(f"cost: {ledger.cost()}")


if __name__ == "__main__":
    main()
