"""Spike and slab with the paired guide by the ELBO, as it was: LeNet-300-100 on Fashion-MNIST, three seeds, last epoch.

One draw of the weights a step and no refit: what benchmarks/posterior.py is to be compared with.

The setting (expected density and slab) is chosen on the validation split from the few of `SETTINGS`, with seed 0 and
fewer epochs. Run ``python -m benchmarks.fashion_spike_and_slab``; it resumes, and prints what it cost.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

import bayesprune as bp
from bayesprune.inference.predictions.metrics import accuracy
from bayesprune.models.language.inclusion import is_undecided
from benchmarks.earlier_defaults import EARLIER
from benchmarks.ledger import Ledger, mean_and_spread

SETTINGS: dict[str, dict[str, float]] = {
    "density .1": {"expected_density": 0.1},
    "density .02": {"expected_density": 0.02},
    "density .02, slab .2": {"expected_density": 0.02, "slab_sd": 0.2},
}
RATE = 2e-3
LEVELS = (0.9, 0.95, 0.98)


def fitted(setting: dict[str, float], splits: Any, seed: int, epochs: int, execution: str = "auto") -> bp.Fit:
    """One fit from a fresh network, by an execution of `bayesprune.fit`."""
    torch.manual_seed(seed)
    network = bp.lenet_300_100()
    model = bp.BayesianNetwork(network, {"*.weight": bp.SpikeAndSlab(**setting)}, data_size=len(splits.train[0]))
    how: dict[str, Any] = {"epochs": epochs, "seed": seed, "learning_rate": RATE, "execution": execution}
    how |= {"local_reparameterisation": False}
    return bp.fit(model, splits.train, "paired", validation=splits.validation, **EARLIER, **how)


def scores(fit: bp.Fit, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
    """Everything that is reported of one fit on one split."""
    found: dict[str, Any] = fit.score(x, y)
    median = bp.prune(fit, min_inclusion=0.5)
    found["median_sparsity"] = median.report.sparsity
    found["median_accuracy"] = _accuracy(median.network, x, y)
    probabilities = fit.inclusion_probabilities()
    flat = np.concatenate([probabilities[name].values.ravel() for name in probabilities])
    found["between_05_95"] = float(is_undecided(flat).mean())
    for level in LEVELS:
        if level >= median.report.sparsity:
            found[f"accuracy_{level}"] = _accuracy(bp.prune(fit, sparsity=level).network, x, y)
    last = fit.trace.isel(restart=0, epoch=-1)
    found["log_likelihood_per_datum"] = float(last["expected_log_likelihood"]) / fit.model.data_size
    found["kl_per_datum"] = float(last["kl"]) / fit.model.data_size
    return found


def _accuracy(network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return accuracy(network(x).softmax(dim=1), y)


def main() -> None:
    """Chooses, fits three seeds, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--selection-epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default="runs/benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    splits = bp.load_data("fashion-mnist")
    ledger = Ledger(f"{options.out}/fashion_spike_and_slab.json")

    def select(name: str) -> dict[str, Any]:
        fit = fitted(SETTINGS[name], splits, 0, options.selection_epochs)
        return {"settings": SETTINGS[name], **scores(fit, *splits.validation)}

    trials = {name: ledger.run(f"validation, {name}", lambda n=name: select(n)) for name in SETTINGS}
    chosen = min(trials, key=lambda name: trials[name]["nll"])
    print(f"chosen by validation nll: {chosen}")

    def final(seed: int) -> dict[str, Any]:
        return scores(fitted(SETTINGS[chosen], splits, seed, options.epochs), *splits.test)

    runs = [ledger.run(f"test, {chosen}, seed {seed}", lambda s=seed: final(s)) for seed in range(options.seeds)]
    for key in runs[0]:
        if not key.endswith("minutes"):
            print(f"{key:28} {mean_and_spread([run[key] for run in runs if key in run])}")
    print(f"cost: {ledger.cost()}")


if __name__ == "__main__":
    main()
