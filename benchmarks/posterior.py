"""Spike and slab beside magnitude pruning, at the very same counts: LeNet-300-100 on Fashion-MNIST, last epoch.

At each density, 20 epochs in all, batch 128, Adam at 2e-3 but for the baseline:

* tempered: spike and slab with `Budget(density=)` at a KL weight below 1, then `refit`, the slabs trained on with the
  gates fixed. Reported apart: averaged over draws, the median-probability model (MPM) with drawn weights and at its
  means, before; given the structure averaged over draws and at the means, after.
* gradual: gradual magnitude pruning (benchmarks/magnitude.py) to as many weights as the MPM of that seed has.
* halo: HALO by MAP with `Budget(density=)`, pruned to the budget.
* elbo: spike and slab at KL weight 1, and refit at 1.

    python -m benchmarks.posterior --choose 0.02      # candidates on the validation split, one seed
    python -m benchmarks.posterior                    # 5 seeds on the test split, the tables
    python -m benchmarks.posterior --shard 1/2        # a part of the runs
    python -m benchmarks.posterior --print            # the tables of what there is

`RECIPES`, `ELBO` and `GRADUAL` were chosen on validation, by nll of the MPM at its means after refit, and accuracy. It
resumes (a run whose recipe has changed is another one), prints runs x minutes, and keeps the fits of seed 0.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.predictions import metrics
from benchmarks.ledger import Ledger, interval, shard_of, sharded
from benchmarks.magnitude import Settings, train_gradual
from benchmarks.posterior_recipe import WHOLE, Recipe, Split, lenet, posterior, shortened

RECIPES: dict[float, Recipe] = {
    0.05: Recipe(
        {"expected_density": 0.02}, kl_weight=0.03, epochs=14, refit_epochs=6, refit_kl_weight=0.2, budget=0.05
    ),
    0.02: Recipe(
        {"expected_density": 0.02}, kl_weight=0.05, epochs=14, refit_epochs=6, refit_kl_weight=0.5, budget=0.02
    ),
    0.01: Recipe(
        {"expected_density": 0.02}, kl_weight=0.1, epochs=14, refit_epochs=6, refit_kl_weight=0.3, budget=0.01
    ),
    0.005: Recipe(
        {"expected_density": 0.02}, kl_weight=0.3, epochs=14, refit_epochs=6, refit_kl_weight=0.1, budget=0.005
    ),
}
"""Of the tempered arm, by density."""
ELBO = Recipe({"expected_density": 0.1}, kl_weight=1.0)
_SOON: dict[str, Any] = {"kl_warmup": 0.2}
CANDIDATES: dict[float, list[Recipe]] = {
    0.05: [
        RECIPES[0.05],
        Recipe({"expected_density": 0.02}, kl_weight=0.03, refit_kl_weight=0.02, budget=0.05, how=_SOON),
        Recipe({"expected_density": 0.02}, kl_weight=0.05, refit_kl_weight=0.02, budget=0.05, how=_SOON),
    ],
    0.02: [
        RECIPES[0.02],
        *(
            Recipe(
                {"expected_density": 0.02}, kl_weight=0.05, epochs=14, refit_epochs=6, refit_kl_weight=one, budget=0.02
            )
            for one in (0.1, 0.3, 1.0)
        ),
        Recipe({"expected_density": 0.02}, kl_weight=0.1, epochs=14, refit_epochs=6, budget=0.02),
        Recipe({"expected_density": 0.02}, kl_weight=0.1, epochs=14, refit_epochs=6, budget=0.02, how=_SOON),
        Recipe({"expected_density": 0.02}, kl_weight=0.05, epochs=14, refit_epochs=6, budget=0.02, how=_SOON),
        Recipe({"expected_density": 0.02}, kl_weight=0.03, epochs=14, refit_epochs=6, budget=0.02, how=_SOON),
        Recipe({"expected_density": 0.02}, kl_weight=0.1, refit_kl_weight=0.02, budget=0.02, how=_SOON),
    ],
    0.01: [
        RECIPES[0.01],
        Recipe({"expected_density": 0.02}, kl_weight=0.2, epochs=14, refit_epochs=6, budget=0.01, how=_SOON),
        Recipe({"expected_density": 0.02}, kl_weight=0.2, refit_kl_weight=0.02, budget=0.01, how=_SOON),
        Recipe(
            {"expected_density": 0.02},
            kl_weight=0.2,
            refit_kl_weight=0.02,
            budget=0.01,
            how={**_SOON, "learning_rate": 4e-3},
        ),
    ],
    0.005: [
        RECIPES[0.005],
        Recipe({"expected_density": 0.02}, kl_weight=0.4, refit_kl_weight=0.02, budget=0.005, how=_SOON),
    ],
    1.0: [
        ELBO,
        Recipe({"expected_density": 0.1}, kl_weight=1.0, how=_SOON),
        Recipe({"expected_density": 0.3}, kl_weight=1.0, how=_SOON),
        Recipe({"expected_density": 0.1, "learned_density": "input", "learned_by": "point"}, kl_weight=1.0, how=_SOON),
        Recipe({"expected_density": 0.02, "learned_density": "input", "learned_by": "point"}, kl_weight=1.0, how=_SOON),
    ],
}
"""What `--choose` tries; under 1: of the arm at KL weight 1."""
GRADUAL: dict[str, Any] = {"weight_decay": 1e-4, "schedule": "cosine", "end": 0.7}
GRADUAL_CANDIDATES: list[dict[str, Any]] = [
    GRADUAL,
    {"weight_decay": 2e-4, "schedule": "cosine", "end": 0.6},
    {"weight_decay": 5e-4, "schedule": "cosine", "end": 0.5},
    {"weight_decay": 5e-4, "schedule": "cosine", "end": 0.7},
]
HALO: dict[str, Any] = {"learning_rate": 2e-3}
EPOCHS = 20
ARMS = ("tempered", "gradual", "halo", "elbo")
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "tempered, averaged": ("tempered", ("fit", "averaged")),
    "tempered, MPM drawn": ("tempered", ("fit", "drawn")),
    "tempered, MPM at means": ("tempered", ("fit", "means")),
    "refit, drawn and averaged": ("tempered", ("refit", "averaged")),
    "refit, at means": ("tempered", ("refit", "means")),
    "gradual magnitude": ("gradual", ("network",)),
    "HALO": ("halo", ("network",)),
}
"""Rows of the table: the arm, and where in a run its scores are."""
ELBO_ROWS = {
    name.replace("tempered", "KL weight 1"): ("elbo", place) for name, (arm, place) in ROWS.items() if arm == "tempered"
}
SCORES = {"accuracy": (100.0, "{:.2f}"), "nll": (1.0, "{:.3f}"), "ece": (1.0, "{:.3f}"), "brier": (1.0, "{:.3f}")}


def network_scores(network: nn.Module, split: Split) -> dict[str, float]:
    """Scores of one plain network, and how many weights it has left."""
    with torch.no_grad():
        probabilities = network.eval()(split[0]).softmax(dim=1)
    return {
        "accuracy": metrics.accuracy(probabilities, split[1]),
        "nll": metrics.negative_log_likelihood(probabilities, split[1]),
        "ece": metrics.expected_calibration_error(probabilities, split[1]),
        "brier": metrics.brier_score(probabilities, split[1]),
        "kept": float(sum(int((w != 0).sum()) for w in network.parameters() if w.ndim > 1)),
    }


def gradual(how: dict[str, Any], count: int, data: Split, split: Split, seed: int, epochs: int) -> dict[str, Any]:
    """Gradual magnitude pruning to so many weights."""
    began = time.process_time()
    settings = Settings(epochs=epochs, seed=seed, weight_decay=how["weight_decay"], schedule=how["schedule"])
    trained = train_gradual(*data, 1.0 - count / WHOLE, settings, end=how["end"])
    seconds = time.process_time() - began
    return {"recipe": str(how), "seconds": seconds, "network": network_scores(trained.network, split)}


def halo(density: float, data: Split, split: Split, seed: int, epochs: int) -> dict[str, Any]:
    """HALO by MAP with a budget, pruned to it: it has no atom, the smallest weights go."""
    began = time.process_time()
    model = bp.BayesianNetwork(lenet(seed), {"*.weight": bp.HALO()}, data_size=len(data[0]))
    fit = bp.fit(model, data, epochs=epochs, seed=seed, rules=[bp.Budget(density=density)], **HALO)
    seconds = time.process_time() - began
    (said,) = fit.settings["budget"]
    network = bp.prune(fit, sparsity=1.0 - said["reached"]).network
    return {"recipe": str(HALO), "seconds": seconds, "budget": said, "network": network_scores(network, split)}


@dataclass(frozen=True)
class Run:
    """A run of the tables: what makes it, and where it belongs."""

    arm: str
    density: float
    seed: int
    recipe: object
    make: Callable[[], dict[str, Any]]

    @property
    def name(self) -> str:
        """In the ledger: a run of another recipe is another one."""
        return label(self.arm, self.density, self.seed, self.recipe)


def runs_of(options: argparse.Namespace, splits: Any, ledger: Ledger) -> Iterator[Run]:
    """Every run of the tables that is asked for, those of one density and seed together."""
    data, split = splits.train, splits.test

    def ours(recipe: Recipe, seed: int, kept: str | None) -> dict[str, Any]:
        found, fit, after = posterior(recipe, lenet(seed), data, split, seed)
        for name, one in (("fit", fit), ("refit", after)):
            if kept is not None and one is not None:
                one.save(Path(options.out, f"posterior_{name}_{kept}"), overwrite=True)
        return found

    def baseline(density: float, seed: int, recipe: Recipe) -> dict[str, Any]:
        run = ledger.found().get(label("tempered", density, seed, recipe))
        count = round(density * WHOLE) if run is None else round(run["fit"]["means"]["kept"])
        return gradual(GRADUAL, count, data, split, seed, options.epochs)

    made: list[Run] = []
    pruned, penalised = (f"{how}, {options.epochs} epochs" for how in (GRADUAL, HALO))
    for density, seed in itertools.product(options.densities, range(options.seeds)):
        recipe, kept = shortened(RECIPES[density], options.epochs), f"{100 * density:g}_percent"
        made += [
            Run("tempered", density, seed, recipe, partial(ours, recipe, seed, kept if seed == 0 else None)),
            Run("gradual", density, seed, pruned, partial(baseline, density, seed, recipe)),
            Run("halo", density, seed, penalised, partial(halo, density, data, split, seed, options.epochs)),
        ]
    recipe = shortened(ELBO, options.epochs)
    made += [Run("elbo", 1.0, seed, recipe, partial(ours, recipe, seed, None)) for seed in range(options.seeds)]
    return (run for run in made if run.arm in options.arms)


def label(arm: str, density: float, seed: int, recipe: object) -> str:
    """Name of a run in the ledger."""
    return f"{arm} at {density:g}, seed {seed}: {recipe}"


def found_at(run: dict[str, Any], place: tuple[str, ...]) -> dict[str, float] | None:
    """Scores of a run at a place, None where there are none."""
    for name in place:
        if name not in run:
            return None
        run = run[name]
    return run


def seconds_of(run: dict[str, Any], place: tuple[str, ...]) -> float:
    """Processor seconds of training up to a form."""
    return float(run["seconds"] + (run["refit_seconds"] if place[0] == "refit" else 0.0))


def row(name: str, found: Sequence[dict[str, float]], seconds: Sequence[float]) -> str:
    """A row of a table: means over seeds, and their standard deviations."""
    cells = []
    for key, (factor, shown) in SCORES.items():
        values = [factor * one[key] for one in found]
        spread = f" ({shown.format(statistics.stdev(values))})" if len(values) > 1 else ""
        cells.append(shown.format(statistics.mean(values)) + spread)
    kept = [one["kept"] for one in found]
    share = 100 * statistics.mean(kept) / WHOLE
    counts = f"{min(kept):,.0f}" if min(kept) == max(kept) else f"{min(kept):,.0f} to {max(kept):,.0f}"
    cells.append(f"{counts} ({share:.2f} %)")
    # given the structure, nothing is left to be undecided about
    undecided = [100 * one["undecided"] for one in found if one.get("undecided")]
    cells.append(f"{statistics.mean(undecided):.1f}" if undecided else "")
    cells.append(f"{statistics.mean(seconds):.0f}")
    return f"| {name} | {' | '.join(cells)} |"


def paired(ours: dict[int, dict[str, Any]], theirs: dict[int, dict[str, Any]], place: tuple[str, ...]) -> list[float]:
    """Differences of accuracy in points, seed by seed."""
    pairs = ((found_at(ours[seed], place), found_at(theirs[seed], ("network",))) for seed in ours if seed in theirs)
    return [100 * (a["accuracy"] - b["accuracy"]) for a, b in pairs if a is not None and b is not None]


def tables(by_arm: dict[tuple[str, float], dict[int, dict[str, Any]]]) -> None:
    """Prints the tables of what there is."""
    head = "| form | accuracy, % | nll | ece | brier | weights kept | undecided, % | seconds |\n|" + "---|" * 8
    for density in sorted({density for _, density in by_arm}, reverse=True):
        print(f"\n**{'KL weight 1' if density == 1.0 else f'{100 * density:g} %'}**\n\n{head}")
        for name, (arm, place) in (ELBO_ROWS if density == 1.0 else ROWS).items():
            runs = [run for _, run in sorted(by_arm.get((arm, density), {}).items())]
            shown = [(scores, seconds_of(run, place)) for run in runs if (scores := found_at(run, place)) is not None]
            if shown:
                print(row(name, *zip(*shown, strict=True)))
    print("\n| density, % | against | form | difference of accuracy, points (95 %) | seeds |\n|" + "---|" * 5)
    for density in sorted({density for _, density in by_arm if density < 1.0}, reverse=True):
        for other in ("gradual", "halo"):
            for name, (arm, place) in ROWS.items():
                mine, theirs = by_arm.get((arm, density), {}), by_arm.get((other, density), {})
                if arm == "tempered" and (differences := paired(mine, theirs, place)):
                    shown = f"{interval(differences)} | {len(differences)}"
                    print(f"| {100 * density:g} | {other} | {name} | {shown} |")


def tried_on(splits: Any, recipe: Recipe, seed: int) -> dict[str, Any]:
    """A recipe on validation."""
    return posterior(recipe, lenet(seed), splits.train, splits.validation, seed)[0]


def choose(options: argparse.Namespace, splits: Any, ledger: Ledger) -> None:
    """Runs the candidates on validation, and prints them."""
    number, count = options.shard
    turn, seed = 0, options.choose_seed
    said = "" if seed == 0 else f", seed {seed}"
    rows: dict[float, list[tuple[str, dict[str, Any]]]] = {}
    for density in options.choose:
        made: list[tuple[str, Callable[[], dict[str, Any]]]] = []
        if "tempered" in options.arms or density == 1.0:
            recipes = [shortened(one, options.epochs) for one in CANDIDATES[density]]
            made += [
                (f"validation at {density:g}{said}: {one}", partial(tried_on, splits, one, seed)) for one in recipes
            ]
        if "gradual" in options.arms and density < 1.0:
            more = (round(density * WHOLE), splits.train, splits.validation, seed, options.epochs)
            pruned = {f"{how}, {options.epochs} epochs": partial(gradual, how, *more) for how in GRADUAL_CANDIDATES}
            made += [(f"validation at {density:g}, gradual{said}: {name}", run) for name, run in pruned.items()]
        for name, run in made:
            if turn % count == number - 1 or name in ledger.found():
                rows.setdefault(density, []).append((name, ledger.run(name, run)))
            turn += 1
    print("| candidate | averaged: accuracy, nll | MPM at means | after refit | kept | undecided, % | minutes |")
    print("|" + "---|" * 7)
    for tried in rows.values():
        for name, one in tried:
            places: list[tuple[str, ...]] = [("fit", "averaged"), ("fit", "means"), ("refit", "means")]
            places = [("network",)] if "network" in one else places
            found = [scores for place in places if (scores := found_at(one, place)) is not None]
            shown = [f"{100 * scores['accuracy']:.2f}, {scores['nll']:.3f}" for scores in found]
            shown += [""] * (3 - len(shown))
            undecided = f"{100 * found[0]['undecided']:.1f}" if "undecided" in found[0] else ""
            print(f"| {name} | {' | '.join(shown)} | {found[-1]['kept']:.0f} | {undecided} | {one['minutes']:.1f} |")


def main() -> None:
    """Chooses, or runs what is missing, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", nargs="+", type=float, choices=tuple(CANDIDATES), help="densities; 1: KL weight 1")
    parser.add_argument("--choose-seed", type=int, default=0, help="of what --choose runs; default 0")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--densities", nargs="+", type=float, choices=tuple(RECIPES), default=list(RECIPES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="in all (default 20); fewer for a try")
    parser.add_argument("--shard", type=shard_of, default=(1, 1), help="I/N: every N-th run, from the I-th on")
    parser.add_argument("--print", action="store_true", help="the tables of what there is, without a run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/benchmarks", help="folder of the ledger and of the fits that are kept")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    splits, ledger = bp.load_data("fashion-mnist"), sharded(options.out, "posterior", options.shard)
    if options.choose:
        choose(options, splits, ledger)
    else:
        number, count = options.shard
        wanted = list(runs_of(options, splits, ledger))
        groups = list(dict.fromkeys((run.density, run.seed) for run in wanted))
        done = ledger.found()
        mine = [run for run in wanted if groups.index((run.density, run.seed)) % count == number - 1]
        missing = [] if options.print else [run for run in mine if run.name not in done]
        print(f"{len(missing)} of {len(wanted)} runs are to come", flush=True)
        for run in missing:
            ledger.run(run.name, run.make)
        done = ledger.found()
        by_arm: dict[tuple[str, float], dict[int, dict[str, Any]]] = {}
        for run in wanted:
            if run.name in done:
                by_arm.setdefault((run.arm, run.density), {})[run.seed] = done[run.name]
        tables(by_arm)
    print(f"\ncost: {ledger.cost()}")


if __name__ == "__main__":
    main()
