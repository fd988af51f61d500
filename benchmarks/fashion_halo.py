"""HALO by MAP beside one-shot and gradual magnitude pruning: LeNet-300-100 on Fashion-MNIST, last epoch.

All runs have equal epochs, batch 128, SGD with momentum 0.9, no fine-tuning. HALO trains once, in a single stage,
with the authors' objective (`HALO.from_paper`), and is then pruned by magnitude; the gradual baseline is global with
the cubic schedule. For each level of sparsity each method gets the same number of trials on the validation split
(seed 0), then three seeds are run on the test split with what was chosen.

Run ``python -m benchmarks.fashion_halo``; it resumes, and prints what it cost.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch

import bayesprune as bp
from bayesprune.inference.schedules import steps
from benchmarks.ledger import Ledger, mean_and_spread
from benchmarks.magnitude import Settings, accuracy, one_shot, train_dense, train_gradual

LEVELS = (0.9, 0.95, 0.98)
HALO_TRIALS: dict[str, dict[str, float]] = {
    "psi 0.7e-4": {"xi": 1e-5, "psi": 0.7e-4, "weight_decay": 1e-4},
    "psi 1e-4": {"xi": 1e-5, "psi": 1e-4, "weight_decay": 1e-4},
    "psi 1.4e-4": {"xi": 1e-5, "psi": 1.4e-4, "weight_decay": 1e-4},
    "psi 2e-4": {"xi": 1e-5, "psi": 2e-4, "weight_decay": 1e-4},
    "psi 3e-4": {"xi": 1e-5, "psi": 3e-4, "weight_decay": 1e-4},
}
GRADUAL_TRIALS: dict[str, dict[str, float]] = {
    "wd 1e-4, end .5": {"weight_decay": 1e-4, "end": 0.5},
    "wd 1e-4, end .7": {"weight_decay": 1e-4, "end": 0.7},
    "wd 1e-4, end .9": {"weight_decay": 1e-4, "end": 0.9},
    "wd 5e-4, end .5": {"weight_decay": 5e-4, "end": 0.5},
    "wd 5e-4, end .7": {"weight_decay": 5e-4, "end": 0.7},
}


def halo(
    trial: dict[str, float], splits: Any, split: tuple[torch.Tensor, torch.Tensor], seed: int, epochs: int
) -> dict[str, Any]:
    """One HALO run, pruned to every level."""
    x, y = splits.train
    torch.manual_seed(seed)
    network = bp.lenet_300_100()
    prior = bp.HALO.from_paper(**trial, data_size=len(x))
    model = bp.BayesianNetwork(network, {"*.weight": prior}, data_size=len(x))
    fit = bp.fit(
        model,
        (x, y),
        "map",
        epochs=epochs,
        seed=seed,
        optimizer="sgd",
        learning_rate=0.1,
        schedule=steps(MILESTONES),
    )
    found: dict[str, Any] = {"dense": accuracy(bp.prune(fit, sparsity=0.0).network, *split)}
    for level in LEVELS:
        found[str(level)] = accuracy(bp.prune(fit, sparsity=level).network, *split)
    return found


MILESTONES = (0.5, 0.75)
"""Shares of training at which the learning rate is divided by ten, for every method."""


def settings(trial: dict[str, float], seed: int, epochs: int) -> Settings:
    """The baseline's settings: the same optimizer, rate and schedule as HALO's."""
    return Settings(
        epochs=epochs, optimizer="sgd", learning_rate=0.1, momentum=0.9, schedule="step", seed=seed,
        weight_decay=trial["weight_decay"],
    )  # fmt: skip


def gradual(trial: dict[str, float], level: float, splits: Any, split: Any, seed: int, epochs: int) -> dict[str, Any]:
    """One gradual magnitude run to one level."""
    trained = train_gradual(*splits.train, level, settings(trial, seed, epochs), end=trial["end"])
    return {"accuracy": accuracy(trained.network, *split)}


def dense(splits: Any, split: Any, seed: int, epochs: int) -> dict[str, Any]:
    """One dense run, and one-shot magnitude pruning of it."""
    trained = train_dense(*splits.train, settings({"weight_decay": 1e-4}, seed, epochs))
    found: dict[str, Any] = {"dense": accuracy(trained.network, *split)}
    for level in LEVELS:
        found[str(level)] = accuracy(one_shot(trained.network, level).network, *split)
    return found


def main() -> None:
    """Chooses on validation, runs the seeds, prints the table of paired differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default="runs/benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    splits = bp.load_data("fashion-mnist")
    ledger = Ledger(f"{options.out}/fashion_halo.json")
    epochs, seeds = options.epochs, range(options.seeds)

    trials = {
        name: ledger.run(f"validation halo {name}", lambda t=trial: halo(t, splits, splits.validation, 0, epochs))
        for name, trial in HALO_TRIALS.items()
    }
    gradual_trials = {
        (name, level): ledger.run(
            f"validation gradual {name} at {level}",
            lambda t=trial, at=level: gradual(t, at, splits, splits.validation, 0, epochs),
        )
        for name, trial in GRADUAL_TRIALS.items()
        for level in LEVELS
    }
    one_shots = [ledger.run(f"test dense seed {s}", lambda s=s: dense(splits, splits.test, s, epochs)) for s in seeds]
    print(f"dense, seeds {list(seeds)}: {mean_and_spread([run['dense'] for run in one_shots])}")
    for level in LEVELS:
        best_halo = max(HALO_TRIALS, key=lambda name: trials[name][str(level)])
        best_gradual = max(GRADUAL_TRIALS, key=lambda name: gradual_trials[name, level]["accuracy"])
        ours = [
            ledger.run(
                f"test halo {best_halo} seed {s}",
                lambda s=s, n=best_halo: halo(HALO_TRIALS[n], splits, splits.test, s, epochs),
            )[str(level)]
            for s in seeds
        ]
        theirs = [
            ledger.run(
                f"test gradual {best_gradual} at {level} seed {s}",
                lambda s=s, n=best_gradual, at=level: gradual(GRADUAL_TRIALS[n], at, splits, splits.test, s, epochs),
            )["accuracy"]
            for s in seeds
        ]
        shots = [run[str(level)] for run in one_shots]
        differences = [100 * (a - b) for a, b in zip(ours, theirs, strict=True)]
        to_shot = [100 * (a - b) for a, b in zip(ours, shots, strict=True)]
        print(
            f"{level}: HALO ({best_halo}) {mean_and_spread(ours)}; gradual ({best_gradual}) {mean_and_spread(theirs)}; "
            f"one-shot {mean_and_spread(shots)}; HALO - gradual {statistics.mean(differences):+.2f} points "
            f"(paired sd {statistics.stdev(differences) if len(differences) > 1 else float('nan'):.2f}), "
            f"HALO - one-shot {statistics.mean(to_shot):+.2f}"
        )
    print(f"cost: {ledger.cost()}")


if __name__ == "__main__":
    main()
