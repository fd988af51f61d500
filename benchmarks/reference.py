"""Guides beside the truth: six correlated regressions, the paired guide, mean-field, and restarts combined.

Run ``python -m benchmarks.reference``; it prints two tables in markdown. The truth is enumeration (`bp.reference`); the
Gibbs sampler stands beside it, and the best that the paired guide can do, by its fixed point (`tests/oracles`). Runs
are kept in a file and not repeated. Cost: a seed of one design two thirds of a processor minute, 3 x 6 of them.
"""

from __future__ import annotations

import argparse
import math
import statistics
from typing import Any

import numpy as np
import torch
from torch import nn

import bayesprune as bp
from benchmarks.ledger import Ledger
from tests.oracles.correlated_regressions import correlated_problems
from tests.oracles.spike_and_slab_reference import RegressionProblem, paired_fixed_point

RESTARTS = 4
HOW = {
    "learning_rate": 1e-2,
    "execution": "plain",
    "schedule": "cosine",
    "precision": "float64",
    "device": "cpu",
}
"""What fits are made with, on all data a step; else the package's defaults."""
ROWS = ("paired", "paired, best of its kind", "paired, restarts combined", "mean-field")
T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


def model_of(problem: RegressionProblem) -> tuple[bp.BayesianNetwork, tuple[torch.Tensor, torch.Tensor]]:
    """The regression as a model, and its data."""
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    torch.manual_seed(0)
    line = nn.Sequential(nn.Linear(x.shape[1], 1, bias=False), nn.Flatten(0)).double()
    prior = bp.SpikeAndSlab(problem.inclusion, problem.slab_sd)
    return bp.BayesianNetwork(line, {"0.weight": prior}, bp.Normal(problem.noise_sd), len(x)), (x, y)


def against(found: bp.AgainstReference) -> dict[str, float]:
    """What is kept of a comparison."""
    return {
        "largest": found.largest,
        "mean": found.mean_difference,
        "sd_ratio": found.sd_ratio,
        "lost": found.best_log_score - found.log_score,
    }


def exact_run(problem: RegressionProblem, draws: int) -> dict[str, Any]:
    """Enumeration, the Gibbs sampler beside it, and the fixed point of the paired guide."""
    bnn, data = model_of(problem)
    exact = bp.reference(bnn, data)
    sampled = bp.reference(bnn, data, "gibbs", draws=draws)
    pips = exact.inclusion_probabilities()["0.weight"].values[0]
    a, m, v = paired_fixed_point(problem, start=0.5)
    sd = np.sqrt(a * (v + m**2) - (a * m) ** 2)
    q = np.clip(a, 1e-7, 1.0 - 1e-7)
    score = pips * np.log(np.clip(pips, 1e-300, 1) / q)
    score += (1 - pips) * np.log(np.clip(1 - pips, 1e-300, 1) / (1 - q))
    correlations = np.abs(np.corrcoef(problem.x.T) - np.eye(problem.x.shape[1]))
    gibbs = np.abs(sampled.inclusion_probabilities()["0.weight"].values[0] - pips)
    return {
        "correlation": float(correlations.max()),
        "gibbs": float(gibbs.max()),
        "r_hat": sampled.r_hat,
        "ess": sampled.ess,
        "gibbs_seconds": sampled.seconds,
        "exact_seconds": exact.seconds,
        "log_evidence": exact.log_evidence,
        "best": {
            "largest": float(np.abs(a - pips).max()),
            "mean": float(np.abs(a - pips).mean()),
            "sd_ratio": float(np.exp(np.log(sd / exact.sd["0.weight"].values[0]).mean())),
            "lost": float(score.mean()),
        },
    }


def fitted_run(problem: RegressionProblem, seed: int, steps: int, particles: int) -> dict[str, Any]:
    """The paired guide of several restarts and their mixture, and the mean-field guide, beside enumeration."""
    bnn, data = model_of(problem)
    exact = bp.reference(bnn, data)
    how = {**HOW, "steps": steps, "particles": particles, "batch_size": len(data[0]), "seed": 100 * seed}
    paired = bp.fit(bnn, data, "paired", restarts=RESTARTS, **how)
    meanfield = bp.fit(bnn, data, "meanfield", **how)
    each = [against(bp.against_reference(paired, exact, number)) for number in range(RESTARTS)]
    combined = paired.combined()
    return {
        "paired": each,
        "paired, restarts combined": against(bp.against_reference(combined, exact)),
        "mean-field": against(bp.against_reference(meanfield, exact)),
        "solutions": len(set(combined.solutions)),
    }


def with_interval(values: list[float]) -> str:
    """Mean and half the width of its 95 % interval over seeds, as text."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = T_95.get(len(values) - 1, 1.96) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.3f} ± {half:.3f}"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description="Guides beside the exact posterior of six regressions.")
    parser.add_argument("--out", default="runs/reference.json", help="the file of finished runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500, help="of each restart")
    parser.add_argument("--particles", type=int, default=4, help="draws of the guide a step, one after the other")
    parser.add_argument("--draws", type=int, default=4000, help="of each of the four chains of the Gibbs sampler")
    parser.add_argument("--only", default="", help="part of the names of the designs")
    parser.add_argument("--shard", default="0/1", help="i/n: only every n-th run from the i-th on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ledger, problems = Ledger(options.out), correlated_problems()
    problems = {name: problem for name, problem in problems.items() if options.only in name}
    mine, of = map(int, options.shard.split("/"))

    def key_of(name: str, seed: int) -> str:
        return f"{name} {options.steps} x {options.particles} seed {seed}"

    fits = [(name, seed) for seed in range(options.seeds) for name in problems]
    jobs = [*fits, *((name, None) for name in problems)]
    for name, seed in jobs[mine::of]:
        problem = problems[name]
        if seed is None:
            ledger.run(f"{name} exact {options.draws}", lambda p=problem: exact_run(p, options.draws))
        else:
            ledger.run(key_of(name, seed), lambda p=problem, s=seed: fitted_run(p, s, options.steps, options.particles))
    exact = {name: ledger.runs.get(f"{name} exact {options.draws}") for name in problems}
    print("\n| design | largest correlation | log evidence | Gibbs, largest difference | R-hat | ESS | s | exact, s |")
    print("|---|---|---|---|---|---|---|---|")
    for name, row in exact.items():
        if row is not None:
            print(
                f"| {name} | {row['correlation']:.2f} | {row['log_evidence']:.2f} | {row['gibbs']:.4f} | "
                f"{row['r_hat']:.3f} | {row['ess']:,.0f} | {row['gibbs_seconds']:.1f} | {row['exact_seconds']:.2f} |"
            )
    print(
        "\n| design | guide | PIP, largest difference | PIP, mean difference | sd over exact | log score lost, nats |"
    )
    print("|---|---|---|---|---|---|")
    for name in problems:
        keys = (key_of(name, seed) for seed in range(options.seeds))
        runs = [ledger.runs[key] for key in keys if key in ledger.runs]
        for row in ROWS:
            if row == "paired, best of its kind":
                found = [exact[name]["best"]] if exact[name] else []
            elif row == "paired":
                found = [one for run in runs for one in run[row]]
            else:
                found = [run[row] for run in runs]
            if found:
                cells = [with_interval([one[key] for one in found]) for key in ("largest", "mean", "sd_ratio", "lost")]
                print(f"| {name} | {row} | {' | '.join(cells)} |")
    if ledger.runs:
        print(f"\n{ledger.cost()}")


if __name__ == "__main__":
    main()
