"""What the standard deviation of gated weights costs on small data: diabetes, and 5,000 images of Fashion-MNIST.

`UnitGates(weight_scale=)` at 0.3 (earlier versions), 0.5 (the default) and 1, all else left as it is; LeNet-300-100 on
cases of benchmarks/default_cases.py. Printed are the scores on test data.

Run ``python -m benchmarks.unit_gate_scales``: 9 runs x about 0.5 minutes. It resumes.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import torch

import bayesprune as bp
from benchmarks.default_cases import CASES
from benchmarks.ledger import Ledger

SCALES = (0.3, 0.5, 1.0)
SEEDS = {"diabetes-raw": (0, 1), "fashion-5000": (0,)}


def scored(case: str, seed: int, scale: float) -> dict[str, Any]:
    """The scores of one fit."""
    splits = CASES[case].load(seed)
    x, _ = splits.train
    torch.manual_seed(seed)
    network = bp.lenet_300_100(x[0].numel(), splits.classes or 1)
    likelihood = None if splits.classes else bp.Normal()
    gates = bp.UnitGates(weight_scale=scale)
    model = bp.BayesianNetwork(network, {}, likelihood, len(x), gates, x[:2])
    fit = bp.fit(model, splits.train, seed=seed, execution="plain", device="cpu")
    return {name: float(value) for name, value in fit.score(*splits.test).items()}


def main() -> None:
    """Runs all of them; prints a line each, and what they cost."""
    parser = argparse.ArgumentParser(description="The standard deviation of gated weights on small data.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ledger = Ledger(f"{options.out}/unit_gate_scales.json")
    for case, seeds in SEEDS.items():
        for seed in seeds:
            for scale in SCALES:
                ledger.run(f"{case}, scale {scale:g}, seed {seed}", functools.partial(scored, case, seed, scale))
    print(f"cost: {ledger.cost()}")


if __name__ == "__main__":
    main()
