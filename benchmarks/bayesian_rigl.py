"""Bayesian RigL beside its deterministic twin and dense networks: digits, LeNet-300-100, five percent of the weights.

Mean-field on an always-sparse support against points on one, and both dense, at bare defaults and with single settings
changed; accuracy, negative log-likelihood (nats) and expected calibration error on validation and test data, means over
seeds. Run ``python -m benchmarks.bayesian_rigl``: about 3 processor seconds a run of 70 epochs, 24 runs by default.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import bayesprune as bp
from bayesprune.inference.masks.dynamic_masks import DynamicMasks

DENSITY = 0.05
SNR, ELBO = {"drop": "signal-to-noise"}, {"kl_weight": 1.0}
CASES: Mapping[str, tuple[str, Mapping[str, Any] | None, Mapping[str, Any]]] = {
    "points, dense": ("map", None, {}),
    "points, sparse": ("map", {}, {}),
    "points, sparse at random": ("map", {"drop": "random", "grow": "random"}, {}),
    "mean-field, dense": ("meanfield", None, {}),
    "Bayesian RigL": ("meanfield", SNR, {}),
    "  prior at the density": ("meanfield", SNR, {"prior": bp.Gaussian.at_density(DENSITY)}),
    "  prior at the density, KL weight 1": ("meanfield", SNR, {"prior": bp.Gaussian.at_density(DENSITY), **ELBO}),
    "  KL weight 1": ("meanfield", SNR, ELBO),
    "  Adam at .001": ("meanfield", SNR, {"learning_rate": 0.001}),
    "  Adam at .003": ("meanfield", SNR, {"learning_rate": 0.003}),
    "  drop by magnitude": ("meanfield", {}, {}),
    "  grow by Bayes factors": ("meanfield", {**SNR, "grow": "bayes-factor"}, {}),
}


def scores(case: str, data: Any, seed: int, epochs: int) -> list[float]:
    """Accuracy, NLL and ECE on validation and on test data, and processor seconds, of one run."""
    guide, masks, how = CASES[case][0], CASES[case][1], dict(CASES[case][2])
    size = len(data.train[0])
    usual = bp.Gaussian() if guide == "meanfield" else bp.Gaussian.from_weight_decay(1e-4, data_size=size)
    prior = how.pop("prior", usual)
    torch.manual_seed(seed)
    bnn = bp.BayesianNetwork(bp.lenet_300_100(64), {"*.weight": prior}, data_size=size)
    rules = [] if masks is None else [DynamicMasks(density=DENSITY, **masks)]
    clock = time.process_time()
    fit = bp.fit(bnn, data.train, guide, rules=rules, seed=seed, epochs=epochs, **how)
    clock = time.process_time() - clock
    found = [fit.score(*part) for part in (data.validation, data.test)]
    return [one[name] for one in found for name in ("accuracy", "nll", "ece")] + [clock]


def main(arguments: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Prints a table of means over seeds, and returns it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=70)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data, table = bp.load_data("digits", seed=0), {}
    print("| | validation: accuracy | NLL | ECE | test: accuracy | NLL | ECE | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for case in options.cases:
        runs = [scores(case, data, seed, options.epochs) for seed in options.seeds]
        table[case] = [statistics.mean(column) for column in zip(*runs, strict=True)]
        va, vn, ve, ta, tn, te, seconds = table[case]
        shown = f"{100 * va:.1f} | {vn:.3f} | {ve:.3f} | {100 * ta:.1f} | {tn:.3f} | {te:.3f} | {seconds:.1f}"
        print(f"| {case} | {shown} |", flush=True)
    return table


if __name__ == "__main__":
    main()
