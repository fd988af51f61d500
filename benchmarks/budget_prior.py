"""Which spike and slab a budget begins at: where its controller comes to, and what the landing does.

LeNet-300-100 on digits, 2,500 steps, the defaults of `fit` otherwise. For every density asked for, KL weight and
declared `expected_density` (the budget moves the prior odds from there; the slab's scale is that of the declaration):
how many weights the controller had left by itself, by how many nats the landing then shifted all log odds, the share
of inclusion probabilities in (.05, .95) before and after that, the prior log odds that the knob ended at, and accuracy
and nll on the VALIDATION split, averaged over draws and of the median-probability model at its means. Test data are
not looked at.

Run ``python -m benchmarks.budget_prior``; it prints what it costs, resumes, and prints the table, medians over seeds
with the smallest and largest in brackets. ``--shard 1/2`` runs every second one; the table needs all.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import statistics
from pathlib import Path
from typing import Any

import torch

import bayesprune as bp
from benchmarks.ledger import shard_of, sharded

DENSITIES = (0.05, 0.02, 0.01, 0.005)
KL_WEIGHTS = (0.1, 1.0)
DECLARED = (0.1, 0.02, 0.005)
MINUTES = 0.35
"""Of a run, on one core that others use too."""


def fitted(density: float, kl_weight: float, declared: float, seed: int, steps: int) -> dict[str, Any]:
    """One fit under a budget, scored on validation."""
    splits = bp.load_data("digits")
    torch.manual_seed(seed)
    priors = {"*.weight": bp.SpikeAndSlab(declared)}
    model = bp.BayesianNetwork(bp.lenet_300_100(64), priors, data_size=len(splits.train[0]))
    rules = [bp.Budget(density=density)]
    fit = bp.fit(model, splits.train, steps=steps, rules=rules, kl_weight=kl_weight, seed=seed, device="cpu")
    (said,) = fit.settings["budget"]
    landing, forms = said["landing"], bp.score_forms(fit, *splits.validation)
    odds = math.log(declared / (1 - declared)) + math.log(fit.model.knobs["odds"].value)
    return {
        "by_itself": landing["before"] / said["whole"], "reached": said["reached"],
        "count": said["reached_count"], "asked_count": round(said["asked_count"]), "shift": landing["shift"],
        "undecided_before": landing["undecided"]["before"], "undecided": landing["undecided"]["after"],
        "prior_log_odds": odds,
        "averaged": forms["averaged"]["accuracy"], "averaged_nll": forms["averaged"]["nll"],
        "median": forms["means"]["accuracy"], "median_nll": forms["means"]["nll"],
    }  # fmt: skip


def shown(rows: list[dict[str, Any]], key: str, factor: float = 1.0, digits: int = 2) -> str:
    """Median of a figure over seeds, with its extremes where there are several."""
    values = [factor * row[key] for row in rows]
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}, {max(values):.{digits}f})"


def main() -> None:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--densities", type=float, nargs="+", default=DENSITIES)
    parser.add_argument("--kl-weights", type=float, nargs="+", default=KL_WEIGHTS)
    parser.add_argument("--declared", type=float, nargs="+", default=DECLARED)
    parser.add_argument("--shard", type=shard_of, default=(1, 1), help="I/N: every N-th run, from the I-th on")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder of the results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    number, shards = given.shard
    ledger = sharded(given.out, "budget_prior", given.shard)
    cells = list(itertools.product(given.densities, given.kl_weights, given.declared))
    runs = [(*cell, seed) for seed in range(given.seeds) for cell in cells][number - 1 :: shards]
    names = {run: f"{run[0]:g} at {run[1]:g} from {run[2]:g}, seed {run[3]}, {given.steps} steps" for run in runs}
    missing = sum(name not in ledger.found() for name in names.values())
    print(f"{missing} runs x {MINUTES} minutes = {MINUTES * missing:.0f} minutes are to come", flush=True)
    for run, name in names.items():
        ledger.run(name, functools.partial(fitted, *run, steps=given.steps))
    print(
        "| asked, % | KL weight | declared, % | by itself, % | shift, nats | undecided before, % | after, % | "
        "prior log odds | averaged, % | nll | median model, % | nll |\n|" + "---|" * 12
    )
    found = ledger.found()
    for cell in cells:
        rows = [found[name] for run, name in names.items() if run[:3] == cell]
        if rows:
            print(
                f"| {100 * cell[0]:g} | {cell[1]:g} | {100 * cell[2]:g} | {shown(rows, 'by_itself', 100)} | "
                f"{shown(rows, 'shift')} | {shown(rows, 'undecided_before', 100)} | {shown(rows, 'undecided', 100)} | "
                f"{shown(rows, 'prior_log_odds', digits=1)} | {shown(rows, 'averaged', 100, 1)} | "
                f"{shown(rows, 'averaged_nll', digits=3)} | {shown(rows, 'median', 100, 1)} | "
                f"{shown(rows, 'median_nll', digits=3)} |"
            )
    print(ledger.cost())


if __name__ == "__main__":
    main()
