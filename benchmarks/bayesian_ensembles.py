"""Sparse networks and their uncertainty at equal compute: one network, a posterior, samples of cycles, an ensemble.

LeNet-300-100 on 10,000 images of Fashion-MNIST, 5 % of the weights from the first step to the last (ERK), batch 128:

* ``rigl``: RigL-ITOP, one deterministic network;
* ``bayesian``: masks that move by signal to noise under a mean-field posterior, 32 draws ('Bayesian RigL');
* ``sampling``: cyclical SGHMC, five cycles that begin three times as dense, three networks each;
* ``snapshots``: the same cycles without noise, one network each;
* ``ensemble``: five RigL-ITOP networks, each with a fifth of the epochs;
* ``full ensemble``: the reference, five with all epochs each: five times the compute.

Accuracy, negative log-likelihood, calibration error and Brier score of the averaged prediction; and the area under the
curve by which its entropy tells test images from digits (8x8, scaled up to 28x28) and from uniform noise. Each method
has a few trials, chosen by the likelihood of validation images at seed 0; test images are looked at once, by what was
chosen.

Run ``python -m benchmarks.bayesian_ensembles``; it prints runs x minutes before it starts, and resumes.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from typing import Any

import torch

import bayesprune as bp
from bayesprune.inference.predictions.metrics import accuracy, expected_calibration_error, negative_log_likelihood
from benchmarks.ledger import Ledger, mean_and_spread

DENSITY, IMAGES, MEMBERS, CYCLES = 0.05, 10_000, 5, 5
EPOCHS, SEEDS = 60, 3
EPOCH_SECONDS = 0.6
"""Of one epoch, on one core."""
TRIALS: dict[str, dict[str, dict[str, Any]]] = {
    "rigl": {f"wd {wd:g}": {"weight_decay": wd} for wd in (1e-4, 5e-4)},
    "bayesian": {
        f"prior at density {of:g}, KL {kl:g}": {"expected_density": of, "kl_weight": kl}
        for of, kl in ((DENSITY, 0.1), (DENSITY, 1.0), (1.0, 0.1))
    },
    "sampling": {
        f"wd {wd:g}, T {t:g}": {"weight_decay": wd, "temperature": t}
        for wd, t in ((1e-4, 1.0), (5e-4, 1.0), (5e-4, 0.1))
    },
    "snapshots": {f"wd {wd:g}": {"weight_decay": wd} for wd in (1e-4, 5e-4)},
}
LIKE = {"ensemble": "rigl", "full ensemble": "rigl"}
"""Methods that take the setting chosen for another one."""
SCORES = ("accuracy", "nll", "ece", "brier", "digits", "noise")
Data = tuple[torch.Tensor, torch.Tensor]


RIGL_ITOP = bp.DynamicMasks(DENSITY, share=0.5, last_share=0.005, until=1.0, every=1.0 / 22.0)
"""Updates as rare as there: 22 of them in a fit."""
BAYESIAN_RIGL = bp.DynamicMasks(DENSITY, drop="signal-to-noise")
"""With its defaults, for which docs/bayesian_sparse_training.md has figures; it asks for Adam at .01."""
COOLING = bp.DynamicMasks(DENSITY, schedule=bp.CoolingCycles(CYCLES), share=0.0, within=0.1 / CYCLES)
"""Ten updates in each cycle."""


def trained(method: str, trial: Mapping[str, Any], data: Data, seed: int, epochs: int) -> bp.Fit:
    """A fit by one of the methods; its restarts are the networks that are averaged."""
    torch.manual_seed(seed)
    how: dict[str, Any] = {"seed": 1000 * seed, "guide": "map", "epochs": epochs}
    size = len(data[0])
    if method == "bayesian":
        prior = bp.Gaussian.at_density(trial["expected_density"])
        how |= {"guide": "meanfield", "rules": [BAYESIAN_RIGL], "kl_weight": trial["kl_weight"]}
    else:
        prior = bp.Gaussian.from_weight_decay(trial["weight_decay"], data_size=size)
        how["rules"] = [RIGL_ITOP]
    if method in ("sampling", "snapshots"):
        warm = method == "sampling"
        sampling = bp.CyclicalSampling(
            CYCLES, samples=3 if warm else 1, temperature=trial["temperature"] if warm else 0.0, noise_from=0.85
        )
        how["rules"] = [COOLING, sampling]
    if method in LIKE:
        how |= {"restarts": MEMBERS, "epochs": max(1, epochs // MEMBERS) if method == "ensemble" else epochs}
    model = bp.BayesianNetwork(bp.lenet_300_100(), {"*.weight": prior}, data_size=size)
    return bp.fit(model, data, **how)


def scored(fit: bp.Fit, inside: Data, outside: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Scores of the average over all networks, and over draws where these have a spread."""
    ensemble = fit.combined(weights="equal")
    draws = len(fit.restarts) * (1 if fit.guide.is_certain else 32)
    x, y = inside
    prediction = ensemble.predict(x, draws=draws)
    found = {
        "accuracy": accuracy(prediction.mean, y),
        "nll": negative_log_likelihood(prediction.mean, y),
        "ece": expected_calibration_error(prediction.mean, y),
        "brier": bp.brier_score(prediction.mean, y),
        "networks": float(len(fit.restarts)),
        "density": 1.0 - fit.summary()["sparsity"],
    }
    for name, other in outside.items():
        found[name] = bp.out_of_distribution_auroc(prediction, ensemble.predict(other, draws=draws))
    if "samples" in fit.settings:
        inclusion = bp.sampled_inclusion(fit)
        found["overlap"] = inclusion["fc1.weight"].attrs["overlap"] if "fc1.weight" in inclusion else float("nan")
    return found


def strange(count: int, like: torch.Tensor) -> dict[str, torch.Tensor]:
    """Inputs of other kinds, standardised as Fashion-MNIST is: test digits scaled up, and noise in [0, 1]."""
    low, high = float(like.min()), float(like.max())  # of black and of white
    x, _ = bp.load_data("digits").test
    digits = torch.nn.functional.interpolate(x, size=(28, 28), mode="bilinear", align_corners=False)
    digits = low + (high - low) * (digits - x.min()) / (x.max() - x.min())
    generator = torch.Generator().manual_seed(0)
    return {"digits": digits, "noise": low + (high - low) * torch.rand(count, 1, 28, 28, generator=generator)}


def chosen(ledger: Ledger, method: str, data: Data, validation: Data, epochs: int) -> dict[str, Any]:
    """The trial of the best likelihood of validation images, at seed 0."""
    trials = TRIALS[method]
    found = {
        name: ledger.run(
            f"validation, {method}, {name}, {epochs} epochs",
            lambda trial=trial: scored(trained(method, trial, data, 0, epochs), validation, {}),
        )["nll"]
        for name, trial in trials.items()
    }
    best = min(found, key=lambda name: found[name])
    print(f"{method}: {best}", flush=True)
    return trials[best]


def work(epochs: int, seeds: int) -> tuple[int, float]:
    """How many runs there are, and minutes that one takes on average."""
    trials = sum(len(each) for each in TRIALS.values())
    passes = trials * epochs + seeds * epochs * (len(TRIALS) + 1 + MEMBERS)
    runs = trials + seeds * (len(TRIALS) + len(LIKE))
    return runs, passes * EPOCH_SECONDS / 60.0 / runs


def table(rows: Mapping[str, list[dict[str, Any]]]) -> str:
    """Mean and standard deviation over seeds, a row a method."""
    lines = ["| method | networks | " + " | ".join(SCORES) + " |", "|---|---|" + "---|" * len(SCORES)]
    for method, runs in rows.items():
        cells = [mean_and_spread([run[name] for run in runs]) for name in SCORES]
        lines.append(f"| {method} | {runs[0]['networks']:.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(rows: Mapping[str, list[dict[str, Any]]], of: str = "ensemble") -> str:
    """Differences to the ensemble of equal compute, paired by seed."""
    lines = []
    for method, runs in rows.items():
        for name in SCORES if method != of else ():
            paired = [run[name] - other[name] for run, other in zip(runs, rows[of], strict=True)]
            spread = statistics.stdev(paired) if len(paired) > 1 else float("nan")
            lines.append(f"{method} - {of}, {name}: {statistics.mean(paired):+.4f}, sd over seeds {spread:.4f}")
    return "\n".join(lines)


def main() -> None:
    """Chooses on validation images, runs the seeds on test images, prints the table."""
    parser = argparse.ArgumentParser(description="Uncertainty of sparse networks at equal compute.")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", default="runs/benchmarks/bayesian_ensembles.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs, minutes = work(options.epochs, options.seeds)
    print(f"{runs} runs x about {minutes:.2f} minutes = {runs * minutes:.0f} minutes on one core", flush=True)
    splits, ledger = bp.load_data("fashion-mnist"), Ledger(options.out)
    data = splits.train[0][:IMAGES], splits.train[1][:IMAGES]  # the split was drawn at random
    outside = strange(2000, splits.train[0])

    def run(method: str, trial: Mapping[str, Any], seed: int) -> dict[str, Any]:
        return ledger.run(
            f"test, {method}, seed {seed}, {options.epochs} epochs",
            lambda: scored(trained(method, trial, data, seed, options.epochs), splits.test, outside),
        )

    trials = {method: chosen(ledger, method, data, splits.validation, options.epochs) for method in TRIALS}
    trials |= {method: trials[other] for method, other in LIKE.items()}
    rows = {method: [run(method, trial, seed) for seed in range(options.seeds)] for method, trial in trials.items()}
    print(table(rows), differences(rows), f"cost: {ledger.cost()}", sep="\n\n")


if __name__ == "__main__":
    main()
