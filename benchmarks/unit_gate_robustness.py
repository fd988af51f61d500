"""Do unit gates find the same network from other starts? LeNet-300-100 on Fashion-MNIST, 15 epochs, three seeds.

One price kappa is chosen at width x1, seed 0: the largest of `KAPPAS` whose network is within half a point of the dense
network of equal epochs, on the validation split. With this price the same fit starts from networks half, twice and
four times as wide, and from initial weights multiplied by 1/2 and by 2. Two thirds of the epochs train gates and
weights, then gates are rounded at 1/2 and the network that is left is trained on. Printed are hidden units and test
accuracies at the last epoch, how many theta were undecided (strictly inside 0.02, 0.98) when they were rounded, units
that rounding dropped, and the test accuracy before and after it; and, over widths x1, x2 and x4, the spread of hidden
units, (max - min) / mean. The same is done with a fixed pi and with a Beta(1, b) hyper-prior, under which an open gate
costs as much more than a closed one. The weights' prior and when gates begin to move are those of earlier versions;
today's defaults are tried by benchmarks/unit_gate_starts.py.

Run ``python -m benchmarks.unit_gate_robustness``; it resumes, and prints tables and what they cost. ``--cost`` measures
instead what removing units while training saves: fits with and without it by turns, wall seconds, one thread;
``--estimators`` the same fit by other estimators of the gates' gradient.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.inference.predictions.validation_scores import validation_scores
from bayesprune.inference.watching.callbacks import FitState
from benchmarks.earlier_defaults import EARLIER_GATING, EARLIER_UNIT_GATES
from benchmarks.ledger import Ledger, mean_and_spread
from benchmarks.magnitude import accuracy, weight_matrices
from benchmarks.unit_gate_peers import hidden_widths

KAPPAS = (1.6e-3, 8e-4, 4e-4, 2e-4, 1e-4)
"""Prices in nats per datum, tried from the largest down."""
WITHIN = 0.005
"""How much less accurate than the dense network the chosen one may be on the validation split."""
GATED = 2 / 3
"""Share of the epochs that train gates."""
WIDTHS = ("x1", "x2", "x4")
"""The starts over which the spread is taken."""


@dataclass(frozen=True)
class Start:
    """Where a fit starts.

    Attributes:
        width: Factor on 300 and 100 hidden units.
        scale: Factor on the initial weights, not on biases.
    """

    width: float = 1.0
    scale: float = 1.0

    @torch.no_grad()
    def network(self, seed: int) -> nn.Module:
        """The network with its initial weights."""
        torch.manual_seed(seed)
        network = bp.lenet_300_100(width=self.width)
        for weight in weight_matrices(network).values():
            weight.mul_(self.scale)
        return network


STARTS = {
    "x1": Start(),
    "x0.5": Start(width=0.5),
    "x2": Start(width=2.0),
    "x4": Start(width=4.0),
    "weights x0.5": Start(scale=0.5),
    "weights x2": Start(scale=2.0),
}


def beta_of(log_gamma: float) -> float:
    """The b of the Beta(1, b) hyper-prior under which an open gate costs log_gamma nats more than a closed one.

    With pi at its best, theta / b, the costs are log b - (b - 1) log(1 - 1 / b) and 0, less the same constant.
    """

    def excess(log_b: float) -> float:
        b = math.exp(log_b)
        return log_b - (b - 1.0) * math.log1p(-1.0 / b) - log_gamma

    return math.exp(brentq(excess, 1e-9, log_gamma, xtol=1e-12))


PRESSURES: dict[str, Callable[[float], bp.UnitGates]] = {
    "flattening": lambda log_gamma: bp.UnitGates(log_gamma, **EARLIER_UNIT_GATES),
    "fixed pi": lambda log_gamma: bp.UnitGates(probability=1.0 / (1.0 + math.exp(log_gamma)), **EARLIER_UNIT_GATES),
    "Beta(1, b)": lambda log_gamma: bp.UnitGates(beta=(1.0, beta_of(log_gamma)), **EARLIER_UNIT_GATES),
}
"""Gates with a price, in nats of all the data, by what pi has for a prior."""


class AroundRounding(bp.Callback):
    """Notes the accuracy of the network with every gate at its theta one step before rounding, and right after it.

    Attributes:
        before: A fraction.
        after: A fraction.
    """

    def __init__(self, data: tuple[Tensor, Tensor]) -> None:
        self.data = data
        self.before = self.after = math.nan

    def on_step(self, state: FitState) -> None:
        step = round(GATED * state.steps)
        if state.step == step - 1:
            self.before = self._accuracy(state)
        elif state.step == step:
            self.after = self._accuracy(state)

    def _accuracy(self, state: FitState) -> float:
        return validation_scores(state.objective, *self.data)["accuracy"]


def fitted(model: bp.BayesianNetwork, data: tuple[Tensor, Tensor], epochs: int, seed: int, **how: Any) -> bp.Fit:
    """A fit as all of them are made."""
    return bp.fit(model, data, epochs=epochs, seed=seed, execution="plain", device="cpu", **how)


def dense(splits: Any, epochs: int, seed: int) -> dict[str, Any]:
    """The network without gates, with the same prior of the weights."""
    prior = bp.Gaussian(EARLIER_UNIT_GATES["weight_scale"])
    network = STARTS["x1"].network(seed)
    model = bp.BayesianNetwork(network, {"*.weight": prior}, data_size=len(splits.train[0]))
    fit = fitted(model, splits.train, epochs, seed, guide="map")
    return {part: fit.score(*getattr(splits, part))["accuracy"] for part in ("validation", "test")}


def gated(
    splits: Any, epochs: int, seed: int, start: str, pressure: str, kappa: float, estimator: str | None = None
) -> dict[str, Any]:
    """One fit with gates, and the network that it found."""
    x, _ = splits.train
    gates = PRESSURES[pressure](kappa * len(x))
    network = STARTS[start].network(seed)
    model = bp.BayesianNetwork(network, {}, gates=gates, data_size=len(x), example_input=x[:2])
    watcher = AroundRounding(splits.test)
    gating = bp.Gating(round_at=GATED, estimator=estimator, **EARLIER_GATING)
    how = {"rules": [gating], "callbacks": [watcher]}
    fit = fitted(model, splits.train, epochs, seed, **how)
    report = fit.settings["gating"][0]
    small = bp.prune(fit, min_inclusion=0.5).compact().network
    widths = hidden_widths(small)
    return {
        "validation": accuracy(small, *splits.validation),
        "test": accuracy(small, *splits.test),
        "before": watcher.before,
        "after": watcher.after,
        "interior": report["interior"],
        "dropped": sum(report["open_before_rounding"].values()) - sum(report["open_after_rounding"].values()),
        "units": sum(widths),
        "noise": report["noise"],
        "widths": "-".join(map(str, widths)),
    }


def relative_spread(values: Sequence[float]) -> float:
    """(max - min) / mean."""
    return (max(values) - min(values)) / statistics.mean(values)


def chosen_kappa(ledger: Ledger, splits: Any, epochs: int) -> float:
    """The largest price whose network is nearly as accurate as the dense one, on the validation split."""
    aim = _run_dense(ledger, splits, epochs, 0)["validation"] - WITHIN
    for kappa in KAPPAS:
        if _run(ledger, splits, epochs, 0, "x1", "flattening", kappa)["validation"] >= aim:
            return kappa
    raise RuntimeError(f"no price of {KAPPAS} reaches validation accuracy {aim:.4f}: add smaller ones")


def _run_dense(ledger: Ledger, splits: Any, epochs: int, seed: int) -> dict[str, Any]:
    return ledger.run(f"dense, {epochs} epochs, seed {seed}", functools.partial(dense, splits, epochs, seed))


def _run(
    ledger: Ledger, splits: Any, epochs: int, seed: int, start: str, pressure: str, kappa: float
) -> dict[str, Any]:
    name = f"{pressure}, kappa {kappa:g}, {start}, {epochs} epochs, seed {seed}"
    return ledger.run(name, functools.partial(gated, splits, epochs, seed, start, pressure, kappa))


def print_start(pressure: str, start: str, runs: Sequence[Mapping[str, Any]]) -> None:
    """A line of the table."""
    means = {
        key: statistics.mean(run[key] for run in runs) for key in ("units", "interior", "dropped", "before", "after")
    }
    print(
        f"| {pressure} | {start} | {', '.join(run['widths'] for run in runs)} "
        f"| {means['units']:.1f} | {mean_and_spread([run['test'] for run in runs])} "
        f"| {means['interior']:.1f} | {means['dropped']:.1f} | {means['before']:.4f} | {means['after']:.4f} |",
        flush=True,
    )


def robustness(ledger: Ledger, splits: Any, options: argparse.Namespace) -> None:
    """Runs every start under every prior of pi, prints the table and the spreads."""
    epochs, seeds, rival_seeds = options.epochs, range(options.seeds), range(options.rival_seeds or options.seeds)
    kappa = options.kappa or chosen_kappa(ledger, splits, epochs)
    size = len(splits.train[0])
    whole = [_run_dense(ledger, splits, epochs, seed) for seed in seeds]
    print(f"kappa {kappa:g}, log gamma {kappa * size:.2f} nats, b {beta_of(kappa * size):,.0f}")
    print(f"dense: test accuracy {mean_and_spread([run['test'] for run in whole])}")
    print("| prior of pi | start | widths | hidden units | test accuracy | undecided | dropped | before | after |")
    print("|---|---|---|---|---|---|---|---|---|")
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for pressure in options.only or PRESSURES:
        for start in options.starts or (STARTS if pressure == "flattening" else WIDTHS):
            numbers = seeds if pressure == "flattening" else rival_seeds
            runs = [_run(ledger, splits, epochs, seed, start, pressure, kappa) for seed in numbers]
            found.setdefault(pressure, {})[start] = runs
            print_start(pressure, start, runs)
    for pressure, by_start in found.items():
        if not set(WIDTHS) <= set(by_start):
            continue
        units, accuracies = (
            [statistics.mean(run[key] for run in by_start[start]) for start in WIDTHS] for key in ("units", "test")
        )
        print(
            f"{pressure}: over {', '.join(WIDTHS)} (max - min) / mean of hidden units {relative_spread(units):.3f}, "
            f"accuracies {100 * (max(accuracies) - min(accuracies)):.2f} points"
        )


ESTIMATORS = ("trapezoid", "straight-through", "disarm", "exact-toggle")


def estimators(ledger: Ledger, splits: Any, options: argparse.Namespace) -> None:
    """The same fit by several estimators of the gates' gradient, one seed."""
    kappa = options.kappa or 4e-4
    print("| estimator | widths | validation | test accuracy | noise over price | processor minutes |")
    print("|---|---|---|---|---|---|")
    for estimator in ESTIMATORS:
        run = ledger.run(
            f"{estimator}, kappa {kappa:g}, {options.epochs} epochs",
            functools.partial(gated, splits, options.epochs, 0, "x1", "flattening", kappa, estimator),
        )
        print(
            f"| {estimator} | {run['widths']} | {run['validation']:.4f} | {run['test']:.4f} | {run['noise']:.2f} "
            f"| {run['minutes']:.1f} |",
            flush=True,
        )


COST_CASES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "lenet-300-100 x4": (lambda: STARTS["x4"].network(0), 15),
    "lenet-5": (bp.lenet_5, 3),
}
"""Networks of the measurement of cost, and epochs."""


def timed(splits: Any, case: str, removes: bool, kappa: float, seed: int) -> dict[str, Any]:
    """One fit, its wall seconds and what it found."""
    build, epochs = COST_CASES[case]
    torch.manual_seed(0)
    x, _ = splits.train
    gates = bp.UnitGates(kappa=kappa, **EARLIER_UNIT_GATES)
    model = bp.BayesianNetwork(build(), {}, gates=gates, data_size=len(x), example_input=x[:2])
    gating = bp.Gating(round_at=GATED, remove="epoch" if removes else None, **EARLIER_GATING)
    busy = time.process_time()
    fit = fitted(model, splits.train, epochs, seed, rules=[gating])
    busy = time.process_time() - busy
    small = bp.prune(fit, min_inclusion=0.5).compact().network
    costs = bp.training_costs(fit)
    return {
        "seconds": fit.settings["seconds"],
        "processor": busy,
        "macs": costs.ratio,
        "early": costs.decided_early,
        "test": accuracy(small, *splits.test),
        "widths": "-".join(map(str, hidden_widths(small))),
    }


def cost(ledger: Ledger, splits: Any, options: argparse.Namespace) -> None:
    """Fits with and without removal by turns; prints seconds and ratios within rounds."""
    kappa = options.kappa or 4e-4
    for case in COST_CASES:
        ratios = []
        for number in range(options.rounds):
            seconds = {}
            for removes in (True, False) if number % 2 == 0 else (False, True):
                name = f"{case}, kappa {kappa:g}, {'removed' if removes else 'kept'}, round {number}"
                one = ledger.run(name, functools.partial(timed, splits, case, removes, kappa, number))
                seconds[removes] = one["seconds"]
                print(f"{name}: {one['seconds']:.1f} s, test accuracy {one['test']:.4f}, {one['widths']}", flush=True)
            ratios.append(seconds[True] / seconds[False])
        print(f"{case}: with removal {statistics.median(ratios):.2f} of the time without ({options.rounds} rounds)")


def main() -> None:
    """Runs one of the two parts."""
    parser = argparse.ArgumentParser(description="Do unit gates find the same network from other starts?")
    parser.add_argument("--epochs", type=int, default=15, help="in all (default 15); not of --cost")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rival-seeds", type=int, help="of fixed pi and Beta (default: as many)")
    parser.add_argument("--only", action="append", choices=PRESSURES, help="a prior of pi; repeatable; default all")
    parser.add_argument("--starts", nargs="+", choices=STARTS, help="default all, of fixed pi and Beta the widths")
    parser.add_argument("--kappa", type=float, help="nats per datum (default: chosen; of --cost 4e-4)")
    parser.add_argument("--cost", action="store_true", help="what physical removal saves")
    parser.add_argument("--estimators", action="store_true", help="other estimators of the gates' gradient, one seed")
    parser.add_argument("--rounds", type=int, default=2, help="of --cost (default 2)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    splits = bp.load_data("fashion-mnist")
    name = "removal_cost" if options.cost else "estimators" if options.estimators else "robustness"
    ledger = Ledger(f"{options.out}/unit_gate_{name}.json")
    (cost if options.cost else estimators if options.estimators else robustness)(ledger, splits, options)
    print(f"cost: {ledger.cost()}")


if __name__ == "__main__":
    main()
