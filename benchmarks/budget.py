"""Budgets: every method is asked for the same densities, beside gradual magnitude pruning at the same counts.

LeNet-300-100 on Fashion-MNIST, one seed, 10 epochs, batch 128, the last iterate, no fine-tuning. HALO, spike and slab
and L0 are asked for 10, 5, 2 and 1 % of the weights by `Budget(density=)`, gates of units for 50, 25 and 10 % of the
MACs by `Budget(macs=)`; each fit has the defaults of `fit` but for what `HOW` states. Accuracies are those of the fit
(averaged over draws, where there are any) and of the plain network that `prune` makes of what is counted. Gradual
magnitude pruning (benchmarks/magnitude.py) has the settings chosen for it in benchmarks/fashion_halo.py.

Settings are chosen on the validation split; ``--split test`` is looked at once.

Run ``python -m benchmarks.budget``; it prints runs x minutes before it starts, resumes, and appends a JSON line a run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import bayesprune as bp
from benchmarks.magnitude import Settings, train_gradual

PRIORS = {"HALO": bp.HALO, "spike and slab": bp.SpikeAndSlab, "L0": bp.L0HardConcrete}
HOW: dict[str, dict[str, Any]] = {
    "HALO": {"learning_rate": 2e-3},
    "spike and slab": {"learning_rate": 2e-3},
    "L0": {"learning_rate": 2e-3},
    "unit gates": {},
}
"""Arguments of `fit` by method, chosen on validation."""
GRADUAL = {"weight_decay": 1e-4, "schedule": "cosine"}
MINUTES = 1.5
"""Of a run, on one core that others use too."""


def runs() -> list[tuple[str, float]]:
    """Every method and what it is asked for, the most interesting first."""
    names = (*PRIORS, "gradual magnitude")
    return [
        *((name, 0.02) for name in names), ("unit gates", 0.25), *((name, 0.05) for name in names), ("unit gates", 0.1),
        *((name, 0.01) for name in names), ("unit gates", 0.5), *((name, 0.1) for name in names),
    ]  # fmt: skip


def fitted(method: str, asked: float, data: Any, epochs: int) -> bp.Fit:
    """One fit from a fresh network under a budget."""
    torch.manual_seed(0)
    network, (x, y) = bp.lenet_300_100(), data
    if method == "unit gates":
        model = bp.BayesianNetwork(network, {}, data_size=len(x), gates=bp.UnitGates(), example_input=x[:1])
        budget = bp.Budget(macs=asked)
    else:
        model = bp.BayesianNetwork(network, {"*.weight": PRIORS[method]()}, data_size=len(x))
        budget = bp.Budget(density=asked)
    return bp.fit(model, (x, y), epochs=epochs, rules=[budget], seed=0, **HOW[method])


def measured(method: str, asked: float, splits: Any, split: str, epochs: int) -> dict[str, Any]:
    """What one run came to."""
    x, y = getattr(splits, split)
    began = time.perf_counter()
    if method == "gradual magnitude":
        settings = Settings(epochs=epochs, optimizer="sgd", learning_rate=0.1, momentum=0.9, seed=0, **GRADUAL)
        trained = train_gradual(*splits.train, 1.0 - asked, settings, end=0.7)
        found = {"reached": 1.0 - trained.sparsity, "accuracy": trained.accuracy(x, y)}
        return {**found, "seconds": time.perf_counter() - began}
    fit = fitted(method, asked, splits.train, epochs)
    (said,) = fit.settings["budget"]
    if method in ("HALO", "gradual magnitude"):
        network = bp.prune(fit, sparsity=1.0 - said["reached"]).network  # no atom: the smallest weights go
    else:
        network = bp.prune(fit, min_inclusion=0.5).network
    with torch.no_grad():
        pruned = float((network(x).argmax(1) == y).double().mean())
    left = sum(int((w != 0).sum()) for w in network.parameters() if w.ndim > 1)
    return {
        "before": said["landing"]["before"] / said["whole"],
        "reached": said["reached"],
        "accuracy": fit.score(x, y)["accuracy"],
        "pruned": pruned,
        "weights": left,
        "knobs": {key: one["end"] for key, one in said["knobs"].items()},
        "landing": said["landing"],
        "execution": fit.settings["execution"]["name"],
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    """Runs what is not there yet, and prints the table."""
    parser = argparse.ArgumentParser(description="Budgets on Fashion-MNIST.")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of methods; default all")
    parser.add_argument("--out", default="runs/benchmarks/budget.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    file = Path(options.out)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(one["method"], one["asked"]): one for one in lines if one["split"] == options.split}
    wanted = [run for run in runs() if not options.only or run[0] in options.only]
    missing = [run for run in wanted if run not in done]
    print(f"{len(missing)} runs x {MINUTES} minutes = {MINUTES * len(missing):.0f} minutes are to come", flush=True)
    splits = bp.load_data("fashion-mnist")
    for method, asked in missing:
        found = measured(method, asked, splits, options.split, options.epochs)
        done[method, asked] = {"method": method, "asked": asked, "split": options.split, **found}
        with file.open("a") as out:
            out.write(json.dumps(done[method, asked]) + "\n")
        print(json.dumps(done[method, asked]), flush=True)
    print("| method | asked | before landing | reached | accuracy | pruned |\n|---|---|---|---|---|---|")
    for run in wanted:
        one = done[run]
        rest = [one.get(key) for key in ("before", "reached", "accuracy", "pruned")]
        shown = " | ".join("" if value is None else f"{100 * value:.2f}" for value in rest)
        print(f"| {run[0]} | {100 * run[1]:g} % | {shown} |")


if __name__ == "__main__":
    main()
