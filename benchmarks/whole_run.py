"""Whole fits by plain and by fused execution: the same accuracy, and the time they take.

The two fits of LeNet-300-100 on Fashion-MNIST that docs/results.md reports (spike and slab with the paired guide; HALO
by MAP), 20 epochs, with the settings chosen there. By default fused execution has three seeds, plain execution one;
at the same seed both start alike and draw the same noise, but rounding drives the runs apart within an epoch.

Run ``python -m benchmarks.whole_run``; it resumes, and prints what it cost.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

import bayesprune as bp
from bayesprune.inference.execution.execution_report import ExecutionReport
from benchmarks import fashion_halo, fashion_spike_and_slab
from benchmarks.ledger import Ledger, mean_and_spread

SPIKE_AND_SLAB, HALO = "density .1", "kappa 1.5, warm-up"


def spike_and_slab(splits: Any, seed: int, epochs: int, path: str) -> dict[str, Any]:
    """Scores and seconds of one spike-and-slab fit."""
    setting = fashion_spike_and_slab.SETTINGS[SPIKE_AND_SLAB]
    fit = fashion_spike_and_slab.fitted(setting, splits, seed, epochs, path)
    return {**_told(fit), **fit.score(*splits.test)}


def halo(splits: Any, seed: int, epochs: int, path: str) -> dict[str, Any]:
    """Accuracies at every sparsity and seconds of one HALO fit."""
    fit = fashion_halo.fitted(fashion_halo.HALO_TRIALS[HALO], splits, seed, epochs, path)
    return {**_told(fit), **fashion_halo.pruned_scores(fit, splits.test)}


def _told(fit: bp.Fit) -> dict[str, Any]:
    return {"seconds": fit.settings["seconds"], "path": str(ExecutionReport(**fit.settings["execution"]))}


FITS: dict[str, Callable[..., dict[str, Any]]] = {"spike and slab": spike_and_slab, "halo": halo}


def main() -> None:
    """Runs what is missing and prints a table."""
    parser = argparse.ArgumentParser(description="Whole fits on plain and fused execution.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3, help="of the fused execution (default 3)")
    parser.add_argument("--plain-seeds", type=int, default=1, help="of the plain execution (default 1)")
    parser.add_argument("--fits", nargs="+", choices=tuple(FITS), default=tuple(FITS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    splits = bp.load_data("fashion-mnist")
    ledger = Ledger(f"{options.out}/whole_run.json")
    for name in options.fits:
        for path, seeds in (("plain", options.plain_seeds), ("fused", options.seeds)):
            runs = [
                ledger.run(
                    f"{name}, {path}, {options.threads} threads, seed {seed}",
                    lambda f=FITS[name], s=seed, p=path: f(splits, s, options.epochs, p),
                )
                for seed in range(seeds)
            ]
            print(f"{name}, {path}: {runs[0]['path']}" if runs else f"{name}, {path}: no run")
            for key, value in (runs[0] if runs else {}).items():
                if isinstance(value, float) and not key.endswith("minutes"):
                    print(f"  {key:20} {mean_and_spread([run[key] for run in runs])}")
    print(f"cost: {ledger.cost()}")


if __name__ == "__main__":
    main()
