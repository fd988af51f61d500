"""Spike and slab with its refit elsewhere: LeNet-5 on Fashion-MNIST, and bare defaults on digits and breast cancer.

LeNet-5: two seeds, 8 epochs in all, `Budget(density=0.02)`, the settings of benchmarks/posterior.py at 2 %: with draws
of the convolutions' weights (the default; only the linear layers draw their outputs), with
``local_reparameterisation="approximate"``, and gradual magnitude pruning to the same counts. Digits and breast cancer:
`SpikeAndSlab()`, `fit` and `refit` without any argument but the data, three seeds, beside the plain network trained as
long as both (benchmarks/default_cases.py). Test split, looked at once, the last iterate.

    python -m benchmarks.posterior_small               # what is missing, then the tables
    python -m benchmarks.posterior_small --only digits breast-cancer
    python -m benchmarks.posterior_small --print

It resumes, and prints what it cost.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import bayesprune as bp
from benchmarks.default_cases import CASES, train_plain
from benchmarks.ledger import shard_of, sharded
from benchmarks.magnitude import Settings, train_gradual
from benchmarks.posterior import GRADUAL, RECIPES, network_scores
from benchmarks.posterior_recipe import Recipe, forms, posterior, shortened

DENSITY = 0.02
EPOCHS = 8
"""Of LeNet-5, in all."""
LENET_5: dict[str, dict[str, Any]] = {
    "convolutions draw weights": {},
    "convolutions draw outputs (approximate)": {"local_reparameterisation": "approximate"},
}
"""Arms of LeNet-5: arguments of `fit`."""
TABLES = ("digits", "breast-cancer")
FORMS = {
    "averaged": ("fit", "averaged"),
    "MPM drawn": ("fit", "drawn"),
    "MPM at means": ("fit", "means"),
    "after refit, averaged": ("refit", "averaged"),
    "after refit, at means": ("refit", "means"),
    "network": ("network",),
}


def lenet_5(seed: int) -> torch.nn.Module:
    """A fresh LeNet-5."""
    torch.manual_seed(seed)
    return bp.lenet_5()


def convolutional(how: dict[str, Any], seed: int, epochs: int) -> dict[str, Any]:
    """An arm of LeNet-5."""
    splits, recipe = bp.load_data("fashion-mnist"), lenet_5_recipe(how, epochs)
    return posterior(recipe, lenet_5(seed), splits.train, splits.test, seed)[0]


def lenet_5_recipe(how: dict[str, Any], epochs: int) -> Recipe:
    """The recipe of LeNet-300-100 at the same density, in fewer epochs."""
    recipe = shortened(RECIPES[DENSITY], epochs)
    return dataclasses.replace(recipe, how={**recipe.how, **how})


def gradual_lenet_5(seed: int, epochs: int) -> dict[str, Any]:
    """Gradual magnitude pruning of LeNet-5 to the density."""
    splits, began = bp.load_data("fashion-mnist"), time.process_time()
    settings = Settings(epochs=epochs, seed=seed, weight_decay=GRADUAL["weight_decay"], schedule=GRADUAL["schedule"])
    trained = train_gradual(*splits.train, 1.0 - DENSITY, settings, lenet_5(seed), end=GRADUAL["end"])
    return {"seconds": time.process_time() - began, "network": network_scores(trained.network, splits.test)}


def bare(name: str, seed: int) -> dict[str, Any]:
    """Defaults on a small data set, and the plain network of as many steps."""
    case = CASES[name]
    splits, began = case.load(seed), time.process_time()
    fit = bp.fit(case.model(splits, "spike-and-slab", seed), splits.train, seed=seed)
    after = bp.refit(fit, splits.train)
    seconds = time.process_time() - began
    steps = fit.settings["steps"] + after.settings["steps"]
    plain = train_plain(case.start(splits, seed), splits, steps, seed)
    return {
        "seconds": seconds,
        "steps": [fit.settings["steps"], after.settings["steps"]],
        "kl_weight": fit.settings["kl_weight"],
        "fit": forms(fit, splits.test),
        "refit": forms(after, splits.test),
        "network": network_scores(plain, splits.test),
    }


def runs_of(options: argparse.Namespace) -> list[tuple[str, str, Callable[[], dict[str, Any]]]]:
    """Every run: the table, its name, and what makes it."""
    made: list[tuple[str, str, Callable[[], dict[str, Any]]]] = []
    for seed in range(options.seeds):
        for name, how in LENET_5.items():
            key = f"LeNet-5, {name}, seed {seed}: {lenet_5_recipe(how, options.epochs)}"
            made.append((f"LeNet-5, {name}", key, partial(convolutional, how, seed, options.epochs)))
        key = f"LeNet-5, gradual magnitude, seed {seed}: {GRADUAL}, {options.epochs} epochs"
        made.append(("LeNet-5, gradual magnitude", key, partial(gradual_lenet_5, seed, options.epochs)))
    for name in TABLES:
        made += [(name, f"{name}, seed {seed}", partial(bare, name, seed)) for seed in range(CASES[name].seeds)]
    return [one for one in made if any(one[0].startswith(wanted) for wanted in options.only)]


def main() -> None:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("LeNet-5", *TABLES), default=["LeNet-5", *TABLES])
    parser.add_argument("--seeds", type=int, default=2, help="of LeNet-5 (default 2)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of LeNet-5, in all (default 8)")
    parser.add_argument("--shard", type=shard_of, default=(1, 1), help="I/N: every N-th run, from the I-th on")
    parser.add_argument("--print", action="store_true", help="the table of what there is, without a run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/benchmarks", help="folder of the ledger")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ledger, wanted = sharded(options.out, "posterior_small", options.shard), runs_of(options)
    done, (number, count) = ledger.found(), options.shard
    mine = [run for turn, run in enumerate(wanted) if turn % count == number - 1 and run[1] not in done]
    print(f"{0 if options.print else len(mine)} of {len(wanted)} runs are to come", flush=True)
    for _, key, run in () if options.print else mine:
        ledger.run(key, run)
    done = ledger.found()
    print("| case | form | accuracy, % | nll | ece | brier | weights kept | undecided, % | seconds |\n|" + "---|" * 9)
    for case in dict.fromkeys(run[0] for run in wanted):
        found = [done[key] for name, key, _ in wanted if name == case and key in done]
        for form, place in FORMS.items():
            if found and place[0] in found[0]:
                print(f"| {case} | {form} | {cells(found, place)} |")
    print(f"\ncost: {ledger.cost()}")


def cells(runs: list[dict[str, Any]], place: tuple[str, ...]) -> str:
    """Means over seeds of what is said of a form."""
    scores = [run[place[0]] if len(place) == 1 else run[place[0]][place[1]] for run in runs]
    mean = {key: statistics.mean(one[key] for one in scores) for key in scores[0]}
    spread = statistics.stdev(100 * one["accuracy"] for one in scores) if len(scores) > 1 else 0.0
    seconds = statistics.mean(run["seconds"] + run.get("refit_seconds", 0.0) * (place[0] == "refit") for run in runs)
    undecided = f"{100 * mean['undecided']:.1f}" if mean.get("undecided") else ""
    good = " | ".join(f"{mean[key]:.3f}" for key in ("nll", "ece", "brier"))
    return f"{100 * mean['accuracy']:.2f} ({spread:.2f}) | {good} | {mean['kept']:,.0f} | {undecided} | {seconds:.0f}"


if __name__ == "__main__":
    main()
