"""Deletion calibration of several posteriors: LeNet-300-100 on Fashion-MNIST, one seed, last epoch.

Each fit has 20 epochs; then single weights are deleted, stratified by inclusion probability and layer, and the change
of the held-out loss (the validation split, on which nothing was chosen here) is compared with the probability. Beside
it, on the same deletions, the rank correlations of rival scores: magnitude, |mean| / sd and |gradient x weight| of the
training loss. For the dense network the magnitude's rank stands in for a probability. Of spike and slab, sets
of up to 1,000 weights are deleted as well.

Run ``python -m benchmarks.deletion_study``; it resumes, prints the table and what it cost, and writes
docs/images/deletion.png.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy import stats

import bayesprune as bp
from bayesprune.inference.pruning.criteria import magnitude
from benchmarks.earlier_defaults import EARLIER, EARLIER_POINTS
from benchmarks.ledger import Ledger
from benchmarks.magnitude import Settings, train_dense

MODELS: dict[str, tuple[Callable[[], bp.Hierarchy], str]] = {
    "spike and slab, density .1": (lambda: bp.SpikeAndSlab(0.1), "paired"),
    "spike and slab, density .02": (lambda: bp.SpikeAndSlab(0.02), "paired"),
    "HALO, mean-field, density .1": (lambda: bp.HALO(), "meanfield"),
    "horseshoe": (lambda: bp.Horseshoe(), "meanfield"),
    "reduction, mean-field": (lambda: bp.Reduction(0.1), "meanfield"),
}
DENSE = "magnitude of the dense network"
LAPLACE = "reduction, Laplace"
RATE = 2e-3
PARTS = ("deletions", "curve", "correlation", "comparison")
FACTS = ("score", "kind", "per", "loss", "examples", "threshold", "probability")


def fitted(name: str, splits: Any, epochs: int) -> bp.Fit:
    """A fit from a fresh network; the dense network is trained in plain PyTorch and gets a Laplace approximation."""
    if name in (DENSE, LAPLACE):
        trained = train_dense(*splits.train, Settings(epochs=epochs, weight_decay=5e-4))
        model = bp.BayesianNetwork(trained.network, {"*.weight": bp.Reduction(0.1)}, data_size=len(splits.train[0]))
        return bp.laplace_around(model, splits.train)
    prior, guide = MODELS[name]
    torch.manual_seed(0)
    model = bp.BayesianNetwork(bp.lenet_300_100(), {"*.weight": prior()}, data_size=len(splits.train[0]))
    how = EARLIER_POINTS if guide == "map" else EARLIER
    return bp.fit(model, splits.train, guide, epochs=epochs, learning_rate=RATE, **how)


def ranks(scores: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Share of all weights with a lower score, in [0, 1): a stand-in for a probability."""
    flat = np.concatenate([value.numpy().ravel() for value in scores.values()])
    order = (stats.rankdata(flat) - 1.0) / len(flat)
    parts = np.split(order, np.cumsum([value.numel() for value in scores.values()])[:-1])
    return {name: part.reshape(value.shape) for part, (name, value) in zip(parts, scores.items(), strict=True)}


def rivals(fit: bp.Fit, splits: Any) -> dict[str, Any]:
    """Scores by weight that compete with the inclusion probability; the last is Mozer & Smolensky's (1989)."""
    slopes = bp.deletion_scores(fit, tuple(part[:10_000] for part in splits.train), curvature="empirical").slope
    return {
        "|mean|": {name: value.detach().abs() for name, value in fit.model.weights_at(fit.guide.means()).items()},
        "|mean| / sd": "signal-to-noise",
        "|gradient x weight|": {
            name: slope.abs().reshape(fit.model.priors[name].shape) for name, slope in slopes.items()
        },
    }


def study(name: str, splits: Any, epochs: int, n: int) -> dict[str, Any]:
    """One fit and its deletions, as JSON holds them."""
    fit = fitted(name, splits, epochs)
    scores = {"score": ranks(magnitude(fit)) if name == DENSE else None, **rivals(fit, splits)}
    calibration = bp.deletion_calibration(fit, splits.validation, n=n, scores=scores)
    found = as_json(calibration)
    found["fit"] = fit.score(*splits.validation)
    if name.startswith("spike"):
        found["sets"] = str(bp.set_deletion(fit, splits.validation))
    return found


def as_json(calibration: bp.DeletionCalibration) -> dict[str, Any]:
    """A calibration as JSON holds it."""
    parts: dict[str, Any] = {part: getattr(calibration, part).to_dict() for part in PARTS}
    return parts | {key: getattr(calibration, key) for key in FACTS}


def as_calibration(found: Mapping[str, Any]) -> bp.DeletionCalibration:
    """What `as_json` has written, read back for the figure."""
    parts: dict[str, Any] = {part: xr.Dataset.from_dict(found[part]) for part in PARTS}
    return bp.DeletionCalibration(**parts, **{key: found[key] for key in FACTS})


def main() -> None:
    """Fits, deletes, prints the tables and writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--deletions", type=int, default=600)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/benchmarks")
    parser.add_argument("--picture", default="docs/images/deletion.png")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    splits = bp.load_data("fashion-mnist")
    ledger = Ledger(f"{options.out}/deletion_study.json")
    found = {
        name: ledger.run(name, functools.partial(study, name, splits, options.epochs, options.deletions))
        for name in (*MODELS, LAPLACE, DENSE)
    }
    for name, row in found.items():
        print(f"\n{name}: accuracy {row['fit']['accuracy']:.4f}, nll {row['fit']['nll']:.3f} averaged over draws")
        print(as_calibration(row))
        if "sets" in row:
            print(row["sets"])
    bp.plot_deletion_calibration({name: as_calibration(row) for name, row in found.items()}, path=options.picture)
    print(f"\ncost: {ledger.cost()}")


if __name__ == "__main__":
    main()
