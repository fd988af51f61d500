"""Budget transfer: gradual magnitude pruning under the budgets by layer of soft thresholds, uniform and ERK.

Fashion-MNIST, LeNet-300-100 (10 epochs, 3 seeds) and LeNet-5 (4 epochs, 1 seed), at 5 and 2 % of the weights. For each,
one fit of `SoftThreshold` with ``Budget(density=)`` says what it leaves of every layer; gradual magnitude pruning
(benchmarks/magnitude.py, the settings of benchmarks/budget.py) is then trained from scratch to exactly these counts, to
those of `LayerBudget.uniform` and of `LayerBudget.erk`, and globally. All have the same total. Stated are the accuracy
of the last iterate and the MACs with weights that are left, as shares of the dense network's.

Run ``python -m benchmarks.budget_transfer``; it prints runs x minutes before it starts, resumes, and appends a JSON
line a run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

import bayesprune as bp
from benchmarks.magnitude import Settings, train_gradual

NETWORKS = {"lenet-300-100": bp.lenet_300_100, "lenet-5": bp.lenet_5}
EPOCHS = {"lenet-300-100": 10, "lenet-5": 4}
SEEDS = {"lenet-300-100": 3, "lenet-5": 1}
MINUTES = {"lenet-300-100": (2.0, 1.4), "lenet-5": (3.5, 2.1)}
"""Of a fit with soft thresholds and of a gradual run, as measured on a core that others used too."""
DENSITIES = (0.05, 0.02)
BUDGETS = ("soft thresholds", "uniform", "ERK", "global")
Run = tuple[str, float, str, int]


def runs() -> list[Run]:
    """Network, density, budget and seed of every gradual run; what is cheap first."""
    return [
        (network, density, budget, seed)
        for network in NETWORKS
        for density in DENSITIES
        for budget in BUDGETS
        for seed in range(SEEDS[network])
    ]


def made(network: str, seed: int) -> torch.nn.Module:
    """A fresh network."""
    torch.manual_seed(seed)
    return NETWORKS[network]()


def learned(network: str, density: float, data: Any, epochs: int, folder: Path) -> bp.LayerBudget:
    """The budget that soft thresholds have learned, from its file where it is there."""
    file = folder / f"{network}-{density:g}-{epochs}.json"
    if not file.exists():
        x, y = data
        model = bp.BayesianNetwork(made(network, 0), {"*.weight": bp.SoftThreshold()}, data_size=len(x))
        began = time.perf_counter()
        fit = bp.fit(model, (x, y), epochs=epochs, rules=[bp.Budget(density=density)], seed=0)
        (said,) = fit.settings["budget"]
        fit.layer_budget().with_macs(made(network, 0), x[:1]).write(file)
        print(f"{file.name}: {time.perf_counter() - began:.0f} s, landed by {json.dumps(said['landing'])}", flush=True)
    return bp.LayerBudget.read(file)


def measured(run: Run, splits: Any, epochs: int, folder: Path) -> dict[str, Any]:
    """What one run came to."""
    network, density, name, seed = run
    start, (x, y) = made(network, seed), splits.train
    makers = {"uniform": bp.LayerBudget.uniform, "ERK": bp.LayerBudget.erk}
    budget = None
    if name == "soft thresholds":
        budget = learned(network, density, splits.train, epochs, folder)
    elif name in makers:
        budget = makers[name](start, density)
    settings = Settings(epochs=epochs, learning_rate=0.1, momentum=0.9, weight_decay=1e-4, schedule="cosine", seed=seed)
    layers = None if budget is None else {one.tensor: int(one.left or 0) for one in budget.layers}
    began = time.perf_counter()
    trained = train_gradual(x, y, 1.0 - density, settings, network=start, end=0.7, layers=layers)
    left = bp.LayerBudget.of(trained.network).with_macs(start, x[:1])
    assert budget is None or [one.left for one in left.layers] == [one.left for one in budget.layers]
    return {
        "accuracy": trained.accuracy(*splits.test),
        "left": left.left,
        "macs": left.macs,
        "dense_macs": left.dense_macs,
        "densities": {one.tensor: one.density for one in left.layers},
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    """Runs what is not there yet, and prints the table."""
    parser = argparse.ArgumentParser(description="Budget transfer on Fashion-MNIST.")
    parser.add_argument("--epochs", type=int, help="of every run; default 10 and 4, by network")
    parser.add_argument("--only", choices=tuple(NETWORKS), help="one network; default both")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/benchmarks/budget_transfer")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "runs.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    keys = ("network", "density", "budget", "seed", "epochs")
    done = {tuple(one[key] for key in keys): one for one in lines}
    wanted = [(*run, options.epochs or EPOCHS[run[0]]) for run in runs() if options.only in (None, run[0])]
    missing = [run for run in wanted if run not in done]
    share = {run: run[4] / EPOCHS[run[0]] for run in missing}
    fits = {run[:2]: share[run] * MINUTES[run[0]][0] for run in missing if run[2] == "soft thresholds"}
    gradual = [share[run] * MINUTES[run[0]][1] for run in missing]
    minutes = sum(gradual), sum(fits.values())
    said = f"{len(missing)} gradual runs of {minutes[0]:.0f} minutes in all and {len(fits)} fits of {minutes[1]:.0f}"
    print(f"{said} are to come", flush=True)
    splits = bp.load_data("fashion-mnist")
    for run in missing:
        done[run] = dict(zip(keys, run, strict=True)) | measured(run[:4], splits, run[4], folder)
        with file.open("a") as out:
            out.write(json.dumps(done[run]) + "\n")
        print(json.dumps(done[run]), flush=True)
    print("| network | asked | budget | left | accuracy | MACs, % of dense |\n|---|---|---|---|---|---|")
    for network, density, budget in dict.fromkeys(run[:3] for run in wanted):
        rows = [done[run] for run in wanted if run[:3] == (network, density, budget)]
        hits = [100 * row["accuracy"] for row in rows]
        spread = f" +- {stdev(hits):.2f}" if len(hits) > 1 else ""
        macs = 100 * mean(row["macs"] / row["dense_macs"] for row in rows)
        print(f"| {network} | {density:.0%} | {budget} | {rows[0]['left']:,} | {mean(hits):.2f}{spread} | {macs:.2f} |")


if __name__ == "__main__":
    main()
