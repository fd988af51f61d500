"""Inclusion probabilities of correlated regressions beside enumeration: one restart, and several combined.

Run ``python -m benchmarks.correlated_inclusion``; it prints a table, a line a regression. The truth is that of
`tests/oracles`. Cost: 8 regressions x 8 restarts x about 13 processor seconds.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.inclusion.correlated_inputs import largest_correlation
from tests.oracles.correlated_regressions import correlated_problems, orthogonal_problems, random_problem
from tests.oracles.spike_and_slab_reference import RegressionProblem, enumerate_posterior, paired_fixed_point

RESTARTS = 8


def fitted(problem: RegressionProblem, restarts: int, **settings: Any) -> bp.Fit:
    """A fit of a linear network with spike and slab, and the noise known."""
    x, y = torch.tensor(problem.x, dtype=torch.float32), torch.tensor(problem.y, dtype=torch.float32)
    torch.manual_seed(0)
    line = nn.Sequential(nn.Linear(x.shape[1], 1, bias=False), nn.Flatten(0))
    prior = bp.SpikeAndSlab(problem.inclusion, problem.slab_sd)
    bnn = bp.BayesianNetwork(line, {"0.weight": prior}, bp.Normal(problem.noise_sd), len(x))
    return bp.fit(bnn, (x, y), restarts=restarts, batch_size=len(x), device="cpu", **settings)


def compared(problem: RegressionProblem, fit: bp.Fit) -> dict[str, Any]:
    """Largest errors of inclusion probabilities, and whether a note stands beside them."""
    exact = enumerate_posterior(problem).pips
    found = [fit.inclusion_probabilities(number) for number in range(len(fit.restarts))]
    single = np.array([np.abs(one["0.weight"].values[0] - exact).max() for one in found])
    combined = fit.combined()
    mixture = combined.inclusion_probabilities()["0.weight"].values[0]
    correlations = np.abs(np.corrcoef(problem.x.T) - np.eye(problem.x.shape[1]))
    return {
        "correlation": float(correlations.max()),
        "single": single,
        "combined": float(np.abs(mixture - exact).max()),
        "solutions": len(set(combined.solutions)),
        "noted": all("notes" in one.attrs for one in found),
        "any_note": any("notes" in one.attrs for one in found),
        "alone_noted": bool(fit.settings.get("correlated_inputs")),
    }


def where_the_rule_speaks(count: int) -> None:
    """Prints how the notes' rule does on random regressions, at the exact optimum of the paired guide."""
    rng, off, silent, unnoted, least = np.random.default_rng(0), 0, 0, 0, 1.0
    for _ in range(count):
        problem = random_problem(rng)
        pips = paired_fixed_point(problem, start=0.9, sweeps=300)[0]
        noted = largest_correlation(torch.tensor(problem.x)) is not None
        silent += not noted
        if np.abs(pips - enumerate_posterior(problem).pips).max() > 0.1:
            off, unnoted = off + 1, unnoted + (not noted)
            correlations = np.abs(np.corrcoef(problem.x.T) - np.eye(problem.x.shape[1]))
            least = min(least, float(correlations.max()))
    print(
        f"{count:,} random regressions: {off:,} are off by more than 0.1, {unnoted} of them without a note, the least"
    )
    print(f"of the largest correlations among these is {least:.2f}; {silent:,} of all have no note")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Inclusion probabilities of correlated regressions.")
    parser.add_argument("--restarts", type=int, default=RESTARTS)
    parser.add_argument("--particles", type=int, default=4, help="draws a step; the package's default is 1")
    parser.add_argument(
        "--random", type=int, default=0, help="only that: the notes' rule on so many random regressions"
    )
    parser.add_argument("--only", default="", help="part of the names of the regressions")
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="of Adam; the package's default is 1e-3")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    if options.random:
        where_the_rule_speaks(options.random)
        print(f"cost: {options.random:,} regressions, {(time.process_time() - began) / 60:.1f} processor minutes")
        return
    how = f"learning rate {options.learning_rate:g}, {options.particles} particles, all data a step, else defaults"
    print(f"{options.restarts} restarts, {how}")
    print(f"{'regression':<20}{'corr.':>6}{'first':>7}{'median':>8}{'worst':>7}{'combined':>10}{'solutions':>10}  note")
    problems = {name: p for name, p in (correlated_problems() | orthogonal_problems()).items() if options.only in name}
    for name, problem in problems.items():
        settings = {"learning_rate": options.learning_rate, "particles": options.particles}
        row = compared(problem, fitted(problem, options.restarts, **settings))
        single = row["single"]
        noted = "every restart" if row["noted"] else "some" if row["any_note"] else "none"
        print(
            f"{name:<20}{row['correlation']:6.2f}{single[0]:7.2f}{np.median(single):8.2f}{single.max():7.2f}"
            f"{row['combined']:10.2f}{row['solutions']:10d}  {noted}",
            flush=True,
        )
    minutes = (time.process_time() - began) / 60
    print(f"cost: {len(problems)} regressions x {options.restarts} restarts, {minutes:.1f} processor minutes")


if __name__ == "__main__":
    main()
