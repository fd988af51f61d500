"""All ready priors on one network: LeNet-300-100 on Fashion-MNIST, 15 epochs, one seed, last epoch.

Every prior is fitted with its own guide, Adam at 2e-3 and the defaults of `bayesprune.fit`, and pruned to 90 and 95 %
zeros by the criterion that belongs to it; nothing is fine-tuned. Where a prior has a strength that its default does not
settle, the few settings listed here are fitted and the one whose network at 90 % has the lowest validation nll is
reported, on the test split. Priors on groups (here: all weights that read one input, so pixels and hidden units) drop
whole groups, the others single weights. One seed: differences of a few tenths of a point mean nothing.

Run ``python -m benchmarks.prior_table``; it resumes, and prints the table and what it cost.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

import bayesprune as bp
from bayesprune.inference.predictions.plain_scores import plain_scores
from bayesprune.inference.pruning.criteria import Criterion
from benchmarks.earlier_defaults import EARLIER, EARLIER_POINTS
from benchmarks.ledger import Ledger

LEVELS = (0.9, 0.95)
RATE = 2e-3


@dataclass(frozen=True)
class Trial:
    """One setting of a prior.

    Attributes:
        make: Makes the prior.
        criterion: What pruning ranks by, as `bayesprune.prune` takes it.
        how: Arguments of `bayesprune.fit` besides the common ones.
    """

    make: Callable[[], bp.Hierarchy]
    criterion: str | Criterion
    how: dict[str, Any] = field(default_factory=dict)


def by_group(fit: bp.Fit, restart: int = 0) -> dict[str, torch.Tensor]:
    """Root mean square of the weights that read an input, for each of them: scales and weights are not told apart."""
    weights = fit.included_weights(restart)
    return {name: w.square().mean(dim=0).sqrt().expand(w.shape) for name, w in weights.items()}


SLOW = {"kl_warmup": 0.6}
PRIORS: dict[str, dict[str, Trial]] = {
    "gaussian, mean-field": {"He": Trial(bp.Gaussian, "signal-to-noise")},
    "reduction, mean-field": {"He": Trial(bp.Reduction, "reduction")},
    "laplace, MAP": {
        "scale .04": Trial(lambda: bp.Laplace(0.04), "magnitude", {"guide": "map"}),
        "scale .2": Trial(lambda: bp.Laplace(0.2), "magnitude", {"guide": "map"}),
    },
    "halo, MAP": {
        "kappa .3": Trial(lambda: bp.HALO(0.3), "magnitude", SLOW),
        "kappa 1.5": Trial(lambda: bp.HALO(1.5), "magnitude", SLOW),
    },
    "sws, MAP": {"default": Trial(bp.SWS, "magnitude", SLOW)},
    "mcp, MAP": {
        "default": Trial(bp.MCP, "magnitude", SLOW),
        "lam 10, gamma .01": Trial(lambda: bp.MCP(10.0, 0.01), "magnitude", SLOW),
    },
    "horseshoe": {"density .1": Trial(bp.Horseshoe, "signal-to-noise")},
    "regularised horseshoe": {"density .1": Trial(bp.RegularisedHorseshoe, "signal-to-noise")},
    "spike and slab": {
        "density .3": Trial(lambda: bp.SpikeAndSlab(0.3), "inclusion"),
        "density .6": Trial(lambda: bp.SpikeAndSlab(0.6), "inclusion"),
    },
    "continuous spike and slab": {
        "density .1": Trial(lambda: bp.ContinuousSpikeAndSlab(0.1), "inclusion"),
        "density .3": Trial(lambda: bp.ContinuousSpikeAndSlab(0.3), "inclusion"),
    },
    "sparse variational dropout": {
        "log-uniform": Trial(bp.SparseVariationalDropout, "dropout-rate", {**SLOW, "local_reparameterisation": True})
    },
    "group normal-Jeffreys": {"inputs": Trial(lambda: bp.GroupNormalJeffreys("input"), "dropout-rate")},
    "group horseshoe": {"inputs": Trial(lambda: bp.GroupHorseshoe(per="input"), by_group)},
    "structured Bayesian pruning": {"inputs": Trial(lambda: bp.StructuredBayesianPruning(per="input"), "dropout-rate")},
    "VIB": {
        "strength 1": Trial(lambda: bp.VIB(1.0, per="input"), "dropout-rate"),
        "strength 30": Trial(lambda: bp.VIB(30.0, per="input"), "dropout-rate"),
    },
    "L0 hard concrete, weights": {"price .3": Trial(lambda: bp.L0HardConcrete(0.3), "inclusion")},
}


def run(trial: Trial, splits: Any, epochs: int) -> dict[str, Any]:
    """One fit, scored and pruned, on both splits."""
    torch.manual_seed(0)
    x, y = splits.train
    model = bp.BayesianNetwork(bp.lenet_300_100(), {"*.weight": trial.make()}, data_size=len(x))
    how = (EARLIER_POINTS if trial.how.get("guide") == "map" else EARLIER) | dict(trial.how)
    fit = bp.fit(model, (x, y), epochs=epochs, learning_rate=RATE, **how)
    found: dict[str, Any] = {"seconds": fit.settings["seconds"], "path": fit.settings["execution"]["name"]}
    for part in ("validation", "test"):
        data = getattr(splits, part)
        found |= {f"{part} {name}": value for name, value in fit.score(*data).items()}
        for level in LEVELS:
            try:
                result = bp.prune(fit, sparsity=level, criterion=trial.criterion)
            except ValueError as reason:  # sparser by itself
                found[f"{part} refused at {level}"] = str(reason)
                continue
            scores = plain_scores(result.network, result.likelihood, *data)
            found |= {f"{part} {name} at {level}": value for name, value in scores.items()}
    return found


def main() -> None:
    """Fits all, chooses on validation, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/benchmarks")
    parser.add_argument("--only", action="append", help="a prior of the table; repeatable; default all")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    splits = bp.load_data("fashion-mnist")
    ledger = Ledger(f"{options.out}/prior_table.json")
    print("| prior | setting | accuracy | nll | ece | at 90 %: accuracy, nll, ece | at 95 % | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for prior, trials in PRIORS.items():
        if options.only and prior not in options.only:
            continue
        found = {
            name: ledger.run(f"{prior}, {name}", functools.partial(run, trial, splits, options.epochs))
            for name, trial in trials.items()
        }
        best = min(found, key=lambda name: found[name].get(f"validation nll at {LEVELS[0]}", float("inf")))
        row = found[best]
        cells = [_cell(row, ""), *(_cell(row, f" at {level}") for level in LEVELS)]
        averaged = cells[0].replace(", ", " | ")
        print(f"| {prior} | {best} | {averaged} | {cells[1]} | {cells[2]} | {row['seconds']:.0f} |", flush=True)
    print(f"cost: {ledger.cost()}")


def _cell(row: dict[str, Any], where: str) -> str:
    if f"test accuracy{where}" not in row:
        return "sparser by itself"
    accuracy, nll, ece = (row[f"test {name}{where}"] for name in ("accuracy", "nll", "ece"))
    return f"{100 * accuracy:.2f}, {nll:.3f}, {ece:.3f}"


if __name__ == "__main__":
    main()
