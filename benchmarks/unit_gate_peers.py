"""Unit gates beside other ways to remove units: LeNet-300-100 on Fashion-MNIST, equal epochs, three seeds, last epoch.

Each method trains for the same epochs (15) from the same start. Two thirds of them search, by a prior on units or by
plain training; then units are removed by the method's own rule, and the compact network is trained on for the last
third by cross entropy. Unit gates do both in one fit. The rules: gates above 1/2; L0: open at test time, P(z != 0) >
0.31; structured Bayesian pruning and VIB: signal-to-noise ratio above 1; group horseshoe: root mean square of a row
over the largest of its layer, above a threshold; Torch-Pruning: group magnitude, each layer pruned by the same ratio.
Units are hidden ones; pixels stay. Seconds are those of the processor, on one thread and the plain execution.

The three settings of a method should span 5 to 40 % of the dense MACs. For LeNet-300-100 they were set from single runs
of all 15 epochs, seed 0, by MACs and validation accuracy. What those runs found: kappa 5e-4 20 %, 2e-4 (at half the
learning rate) 43 %; L0's lam 0.1 76 %, 1 10 %; weight of the KL term of structured Bayesian pruning 1 65 %, 10 10 %;
VIB's strength 1 38 %, 10 9 %, 100 5 %; group horseshoe's threshold 0.1 64 %, 0.2 25 %, 0.4 9 %; Torch-Pruning's ratio
0.5 47 %, 0.7 28 %, 0.85 14 %, 0.93 6 %. On LeNet-5 kappa 1e-3 leaves 60 % and VIB's
strength 30 81 %; the settings of peers there are guesses from that.

Run ``python -m benchmarks.unit_gate_peers``; it resumes, prints the table, who is behind unit gates at equal MACs, and
the cost, and writes docs/images/unit_gate_peers_lenet-300-100.png. ``--network lenet-5`` is one seed of 4 epochs, with
fewer settings of each peer and MACs in shares of the network of its own widths, whatever ``--width`` it starts from.
"""

from __future__ import annotations

import argparse
import copy
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.analysis.plots.style import colour, finished, new_figure, styled
from bayesprune.inference.pruning.criteria import Criterion, dropout_rate
from benchmarks.earlier_defaults import EARLIER, EARLIER_GATING, EARLIER_UNIT_GATES
from benchmarks.ledger import Ledger, mean_and_spread
from benchmarks.magnitude import Settings, accuracy, train_dense, weight_matrices

Data = tuple[Tensor, Tensor]
RATE = 2e-3
"""Learning rate of every training, by Adam."""
SEARCH = 2 / 3
"""Share of the epochs after which units are removed."""
REFERENCE = "unit gates"
NETWORKS: dict[str, Callable[..., nn.Module]] = {"lenet-300-100": bp.lenet_300_100, "lenet-5": bp.lenet_5}
GATES: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "lenet-300-100": (EARLIER_UNIT_GATES, EARLIER_GATING),
    "lenet-5": ({}, {}),
}
"""Arguments of `UnitGates` and of `Gating` beside the price: those of LeNet-300-100 are of earlier versions."""
PICTURES = Path(__file__).parents[1] / "docs" / "images"


@dataclass(frozen=True)
class Job:
    """What a method gets to work with.

    Attributes:
        network: The start; methods copy it.
        data: Training data.
        epochs: Of the search.
        seed: Of the order of the data and of draws.
        gates: Arguments of `UnitGates` and of `Gating` beside the price, for gates of units.
    """

    network: nn.Module
    data: Data
    epochs: int
    seed: int
    gates: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})


@dataclass(frozen=True)
class Method:
    """A way to remove units.

    Attributes:
        search: Trains, at a value of the knob.
        remove: Makes the compact network of what the search found, at the same value.
        knob: What the values are.
        values: Those that are run, by network.
        shared: Whether the search is the same for all values, so that it is done once.
        share: Of the epochs, for the search.
    """

    search: Callable[[Job, float], Any]
    remove: Callable[[Any, Job, float], nn.Module]
    knob: str
    values: Mapping[str, Sequence[float]]
    shared: bool = False
    share: float = SEARCH


def plain(job: Job, value: float = 0.0) -> nn.Module:
    """Trains by cross entropy."""
    settings = Settings(job.epochs, "adam", RATE, weight_decay=1e-4, schedule="cosine", seed=job.seed)
    return train_dense(*job.data, settings, job.network).network


def gated(job: Job, value: float) -> bp.Fit:
    """Learns and prunes at once."""
    x, _ = job.data
    of_gates, of_gating = job.gates
    gates = bp.UnitGates(kappa=value, **of_gates)
    model = bp.BayesianNetwork(job.network, {}, gates=gates, data_size=len(x), example_input=x[:2])
    return _fitted(model, job, rules=[bp.Gating(**of_gating)])


def with_prior(prior: Callable[[float], bp.Hierarchy], tempered: bool = False) -> Callable[[Job, float], bp.Fit]:
    """Fits with a prior on the rows of all layers but that of the classes; `tempered`: the value weighs the KL term."""

    def search(job: Job, value: float) -> bp.Fit:
        names = list(weight_matrices(job.network))[:-1]
        model = bp.BayesianNetwork(job.network, dict.fromkeys(names, prior(value)), data_size=len(job.data[0]))
        return _fitted(model, job, **(EARLIER | {"kl_weight": value if tempered else 1.0}))

    return search


def _fitted(model: bp.BayesianNetwork, job: Job, **how: Any) -> bp.Fit:
    # The same path for all: "auto" would compile for some, in other processes, whose time is not counted.
    how = {"epochs": job.epochs, "learning_rate": RATE, "seed": job.seed, "execution": "plain", "device": "cpu"} | how
    return bp.fit(model, job.data, **how)


def by_inclusion(threshold: float) -> Callable[[bp.Fit, Job, float], nn.Module]:
    """Removes units whose inclusion probability is not above a threshold."""
    return lambda fit, job, value: bp.prune(fit, min_inclusion=threshold).compact().network


def above(fit: bp.Fit, criterion: Criterion, threshold: float) -> bp.PruneResult:
    """Keeps exactly the weights whose score exceeds a threshold."""
    kept = torch.cat([score.flatten() > threshold for score in criterion(fit, 0).values()])
    return bp.prune(fit, sparsity=1.0 - int(kept.sum()) / len(kept), criterion=criterion)


def row_size(fit: bp.Fit, restart: int = 0) -> dict[str, Tensor]:
    """Root mean square of each row, over the largest of its layer, for all weights of the row."""
    sizes = {name: w.flatten(1).square().mean(dim=1).sqrt() for name, w in fit.included_weights(restart).items()}
    shapes = {name: prior.shape for name, prior in fit.model.priors.items()}
    return {
        name: (size / size.max()).view(-1, *(1 for _ in shapes[name][1:])).expand(shapes[name])
        for name, size in sizes.items()
    }


def by_signal(fit: bp.Fit, job: Job, value: float) -> nn.Module:
    """Removes groups with a signal-to-noise ratio below 1."""
    return above(fit, dropout_rate, 0.0).compact().network


def by_size(fit: bp.Fit, job: Job, value: float) -> nn.Module:
    """Removes rows that are small beside the largest of their layer."""
    return above(fit, row_size, value).compact().network


def by_torch_pruning(network: nn.Module, job: Job, value: float) -> nn.Module:
    """Removes a share of the units of each layer but the last by Torch-Pruning's group magnitude."""
    import torch_pruning as tp

    network = copy.deepcopy(network)
    layers = [module for module in network.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    pruner = tp.pruner.BasePruner(
        network, job.data[0][:2], importance=importance, pruning_ratio=value, ignored_layers=layers[-1:]
    )
    pruner.step()
    return network


METHODS: dict[str, Method] = {
    "dense": Method(plain, lambda network, job, value: network, "", {n: (0.0,) for n in NETWORKS}, share=1.0),
    REFERENCE: Method(
        gated,
        by_inclusion(0.5),
        "kappa",
        {"lenet-300-100": (2e-4, 6e-4, 2.5e-3), "lenet-5": (2e-3,)},
        share=1.0,
    ),
    "L0": Method(
        with_prior(lambda value: bp.L0HardConcrete(value, level="output")),
        by_inclusion(0.31),
        "lam",
        {"lenet-300-100": (0.3, 0.7, 2.0), "lenet-5": (1.0,)},
    ),
    "structured Bayesian pruning": Method(
        with_prior(lambda value: bp.StructuredBayesianPruning(), tempered=True),
        by_signal,
        "weight of the KL term",
        {"lenet-300-100": (2.0, 5.0, 15.0), "lenet-5": (20.0, 100.0)},
    ),
    "VIB": Method(
        with_prior(lambda value: bp.VIB(value)),
        by_signal,
        "strength",
        {"lenet-300-100": (1.0, 10.0, 100.0), "lenet-5": (100.0,)},
    ),
    "group horseshoe": Method(
        with_prior(lambda value: bp.GroupHorseshoe()),
        by_size,
        "threshold",
        {"lenet-300-100": (0.15, 0.25, 0.5), "lenet-5": (0.3, 0.6)},
        shared=True,
    ),
    "Torch-Pruning": Method(
        plain,
        by_torch_pruning,
        "ratio",
        {"lenet-300-100": (0.6, 0.8, 0.92), "lenet-5": (0.5, 0.75)},
        shared=True,
    ),
}
"""Every method by name."""


def hidden_widths(network: nn.Module) -> list[int]:
    """Units of each layer but the last."""
    return [len(weight) for weight in weight_matrices(network).values()][:-1]


def run(method: Method, network: str, splits: Any, epochs: int, seed: int, width: float = 1.0) -> dict[str, Any]:
    """All values of a method at one seed: scores and sizes of the compact networks, and what they cost to train."""
    torch.manual_seed(seed)
    start = NETWORKS[network](width=width)
    first = max(1, round(method.share * epochs))
    job = Job(start, splits.train, first, seed, GATES[network])
    found: dict[str, Any] = {}
    searched, search_seconds = None, 0.0
    for value in method.values[network]:
        if searched is None or not method.shared:
            began = time.process_time()
            searched = method.search(job, value)
            search_seconds = time.process_time() - began
        began = time.process_time()
        small = method.remove(searched, job, value)
        small = plain(Job(small, splits.train, epochs - first, seed))
        seconds = search_seconds + time.process_time() - began
        costs = bp.costs(small, splits.test[0][:1])
        found[f"{value:g}"] = {
            "validation": accuracy(small, *splits.validation),
            "test": accuracy(small, *splits.test),
            "macs": costs.dense_macs,
            "parameters": costs.parameters,
            "widths": "-".join(map(str, hidden_widths(small))),
            "seconds": seconds,
        }
    return found


@dataclass(frozen=True)
class Point:
    """A method at one value, over seeds.

    Attributes:
        method: Name of the method.
        value: Value of its knob.
        accuracies: On the test split, by seed.
        macs: Mean over seeds, for one example.
    """

    method: str
    value: str
    accuracies: list[float]
    macs: float

    @property
    def accuracy(self) -> float:
        """Mean over seeds."""
        return statistics.mean(self.accuracies)

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; 0 of one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


def points_of(method: str, runs: Sequence[Mapping[str, Any]]) -> list[Point]:
    """The points of a method, from its runs by seed."""
    return [
        Point(method, value, [run[value]["test"] for run in runs], statistics.mean(run[value]["macs"] for run in runs))
        for value in runs[0]
        if value not in ("minutes", "wall_minutes")
    ]


def verdict(point: Point, reference: Sequence[Point]) -> str:
    """How a point stands to a curve of points, interpolated over log MACs at as many MACs.

    A difference counts where it exceeds the spread over seeds of the point and of each point of the curve.
    """
    curve = sorted(reference, key=lambda other: other.macs)
    if not curve[0].macs <= point.macs <= curve[-1].macs:
        return f"{point.macs:,.0f} MACs are outside the curve"
    macs = np.log([other.macs for other in curve])
    expected = float(np.interp(np.log(point.macs), macs, [other.accuracy for other in curve]))
    gap = point.accuracy - expected
    clear = abs(gap) > max(other.spread for other in (point, *curve))
    how = "within the spread" if not clear else "ahead" if gap > 0 else "dominated"
    return f"{100 * gap:+.2f} points at {point.macs:,.0f} MACs, {how}"


def main() -> None:
    """Runs all methods, prints the table and the verdicts, draws the picture."""
    parser = argparse.ArgumentParser(description="Unit gates beside other ways to remove units.")
    parser.add_argument("--network", choices=NETWORKS, default="lenet-300-100")
    parser.add_argument("--width", type=float, default=1.0, help="factor on the hidden widths of the start (default 1)")
    parser.add_argument("--epochs", type=int, help="in all (default 15, lenet-5: 4)")
    parser.add_argument("--seeds", type=int, help="default 3, lenet-5: 1")
    parser.add_argument("--only", action="append", choices=METHODS, help="a method; repeatable; default all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/benchmarks")
    parser.add_argument("--pictures", type=Path, default=PICTURES, help="folder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    small = options.network == "lenet-300-100"
    epochs, seeds = options.epochs or (15 if small else 4), options.seeds or (3 if small else 1)
    splits = bp.load_data("fashion-mnist")
    ledger = Ledger(f"{options.out}/unit_gate_peers_{options.network}.json")
    chosen = [name for name in options.only or METHODS if METHODS[name].values[options.network]]
    points: dict[str, list[Point]] = {}
    print("| method | setting | test accuracy | validation | MACs | of dense | parameters | widths | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    dense = bp.costs(NETWORKS[options.network](), splits.test[0][:1]).dense_macs
    start = "" if options.width == 1.0 else f", x{options.width:g}"
    for name in chosen:
        method = METHODS[name]
        values = " ".join(f"{value:g}" for value in method.values[options.network])
        runs = [
            ledger.run(
                f"{name} {values}{start}, {epochs} epochs, seed {seed}",
                functools.partial(run, method, options.network, splits, epochs, seed, options.width),
            )
            for seed in range(seeds)
        ]
        points[name] = points_of(name, runs)
        for point in points[name]:
            rows = [one[point.value] for one in runs]
            setting = f"{method.knob} {point.value}" if method.knob else ""
            validation, parameters, seconds = (
                [float(row[key]) for row in rows] for key in ("validation", "parameters", "seconds")
            )
            print(
                f"| {name} | {setting} | {mean_and_spread(point.accuracies)} "
                f"| {mean_and_spread(validation)} | {point.macs:,.0f} | {point.macs / dense:.1%} "
                f"| {statistics.mean(parameters):,.0f} | {', '.join(row['widths'] for row in rows)} "
                f"| {statistics.mean(seconds):.0f} |",
                flush=True,
            )
    if REFERENCE in points:
        for name in chosen:
            for point in points[name] if name not in (REFERENCE, "dense") else ():
                print(f"{name} {point.value} beside {REFERENCE}: {verdict(point, points[REFERENCE])}")
    if not options.only and not start:
        picture = options.pictures / f"unit_gate_peers_{options.network}.png"
        draw(points, dense, f"{options.network}, equal epochs", picture)
        print(f"written: {picture}")
    print(f"cost: {ledger.cost()}")


def draw(points: Mapping[str, Sequence[Point]], dense: int, title: str, path: Path) -> None:
    """Test accuracy against MACs, a line a method."""
    with styled():
        figure, (axis,) = new_figure(1, 1, title, (5.2, 3.4))
        for number, (name, found) in enumerate(points.items()):
            line = sorted(found, key=lambda point: point.macs)
            shares = [100 * point.macs / dense for point in line]
            heights, spreads = ([100 * getattr(point, key) for point in line] for key in ("accuracy", "spread"))
            axis.errorbar(shares, heights, spreads, fmt="o-", markersize=4, label=name, color=colour(number))
        axis.set_xscale("log")
        axis.set_xlabel("MACs of the compact network, % of dense")
        axis.set_ylabel("test accuracy, %")
        axis.legend()
        finished(figure, path)


if __name__ == "__main__":
    main()
