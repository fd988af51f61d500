"""Bayesian model reduction of a dense network: LeNet-300-100 on Fashion-MNIST, three seeds, last epoch.

The network is trained in plain PyTorch (SGD, momentum 0.9, 20 epochs, cosine, weight decay 5e-4 per datum) without
bayesprune. `laplace_around` then puts a Normal around each weight, and the weights whose removal costs the least
evidence go first, to 80, 90 and 95 % zeros, without any training. Rivals on the same network: magnitude, magnitude over
the layer's root mean square, and the saliency G w^2 of optimal brain damage (LeCun et al. 1990) with the same curvature
G. The prior's sd, as a multiple of the root mean square of each layer's trained weights or He's, is chosen on the
validation split with seed 0, for each level.

Run ``python -m benchmarks.reduction_study``; it resumes, and prints the table and what it cost.
"""

from __future__ import annotations

import argparse
import functools
import time
from typing import Any

import numpy as np
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.data.batches import Batches
from bayesprune.inference.pruning.masks import keep_highest, masked_network
from bayesprune.inference.training.laplace_around import diagonal_ggn
from benchmarks.ledger import Ledger, mean_and_spread
from benchmarks.magnitude import Settings, accuracy, one_shot, train_dense

LEVELS = (0.8, 0.9, 0.95)
SCALES: tuple[float | None, ...] = (None, 0.5, 1.0, 2.0)
"""Prior sd over the root mean square of a layer's weights; None: He's sqrt(2 / fan_in)."""
SETTINGS = Settings(weight_decay=5e-4)
DENSITY = 0.1


def prior_sd(network: nn.Module, scale: float | None) -> dict[str, float] | None:
    """Prior sd by tensor."""
    if scale is None:
        return None
    matrices = {name: p for name, p in network.named_parameters() if p.ndim >= 2}
    return {name: scale * float(p.detach().square().mean().sqrt()) for name, p in matrices.items()}


def reduced(network: nn.Module, splits: Any, scale: float | None, split: Any) -> dict[str, Any]:
    """Accuracies after reduction, the inclusion probabilities, and processor seconds."""
    began = time.process_time()
    fit = bp.laplace_around(network, splits.train, prior_sd=prior_sd(network, scale))
    pips = bp.reduced_inclusion(fit, DENSITY)
    flat = np.concatenate([pips[name].values.ravel() for name in pips])
    seconds = time.process_time() - began
    found: dict[str, Any] = {
        "seconds": seconds,
        "above_half": float((flat > 0.5).mean()),
        "undecided": float(((flat > 0.05) & (flat < 0.95)).mean()),
    }
    for level in LEVELS:
        result = bp.prune(fit, sparsity=level, criterion="reduction")
        found[f"reduction {level}"] = accuracy(result.network, *split)
    return found


def rivals(network: nn.Module, splits: Any, split: Any) -> dict[str, Any]:
    """Accuracies after pruning by other criteria."""
    model = bp.BayesianNetwork(network, {"*.weight": bp.Gaussian()}, data_size=len(splits.train[0]))
    weights = {name: model.starting_weights(name) for name in model.priors}
    curvature = diagonal_ggn(model, Batches(splits.train, 128, torch.device("cpu"), torch.float32))
    scores = {
        "magnitude / rms": {name: w.abs() / w.square().mean().sqrt() for name, w in weights.items()},
        "brain damage": {name: curvature[name] * w.square() for name, w in weights.items()},
    }
    found: dict[str, Any] = {"dense": accuracy(network, *split)}
    for level in LEVELS:
        found[f"magnitude {level}"] = accuracy(one_shot(network, level).network, *split)
        for name, score in scores.items():
            masks = keep_highest(score, level, "network")
            found[f"{name} {level}"] = accuracy(masked_network(network, weights, masks), *split)
    return found


def study(splits: Any, seed: int, split: str, scales: tuple[float | None, ...]) -> dict[str, Any]:
    """One dense network, reduced with each prior sd and pruned by the rivals, scored on a split."""
    began = time.process_time()
    settings = Settings(weight_decay=SETTINGS.weight_decay, seed=seed)
    network = train_dense(*splits.train, settings).network
    trained = time.process_time() - began
    scored = getattr(splits, split)
    found: dict[str, Any] = {"training_seconds": trained, **rivals(network, splits, scored)}
    for scale in scales:
        found[f"scale {scale}"] = reduced(network, splits, scale, scored)
    return found


def main() -> None:
    """Chooses the prior's sd on validation, runs the seeds, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    splits = bp.load_data("fashion-mnist")
    ledger = Ledger(f"{options.out}/reduction_study.json")
    trial = ledger.run("validation", functools.partial(study, splits, 0, "validation", SCALES))
    chosen = {level: max(SCALES, key=lambda scale: trial[f"scale {scale}"][f"reduction {level}"]) for level in LEVELS}
    used = tuple(dict.fromkeys(chosen.values()))
    runs = [
        ledger.run(f"test seed {seed}, scales {used}", functools.partial(study, splits, seed, "test", used))
        for seed in range(options.seeds)
    ]
    print("validation, seed 0:")
    for scale in SCALES:
        row = trial[f"scale {scale}"]
        cells = "  ".join(f"{level:.0%} {row[f'reduction {level}']:.4f}" for level in LEVELS)
        print(
            f"  prior sd {scale or 'He'}: {cells}  above 1/2 {row['above_half']:.3f} undecided {row['undecided']:.3f}"
        )
    print(f"test, {len(runs)} seeds: dense {mean_and_spread([run['dense'] for run in runs])}")
    for level in LEVELS:
        print(f"sparsity {level}, prior sd {chosen[level] or 'He'}")
        ours = [run[f"scale {chosen[level]}"][f"reduction {level}"] for run in runs]
        print(f"  {'reduction':<16}{mean_and_spread(ours)}")
        for name in ("magnitude", "magnitude / rms", "brain damage"):
            print(f"  {name:<16}{mean_and_spread([run[f'{name} {level}'] for run in runs])}")
    for scale in used:
        rows = [run[f"scale {scale}"] for run in runs]
        above, undecided, seconds = (
            mean_and_spread([row[key] for row in rows]) for key in ("above_half", "undecided", "seconds")
        )
        print(f"prior sd {scale or 'He'}: PIPs above 1/2 {above}, undecided {undecided}; {seconds} processor seconds")
    print(f"training took {mean_and_spread([run['training_seconds'] for run in runs])} processor seconds")
    print(f"cost: {ledger.cost()}")


if __name__ == "__main__":
    main()
