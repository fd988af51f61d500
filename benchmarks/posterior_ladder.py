"""What each ingredient of the posterior is worth: one row for each switched on alone, and off alone.

LeNet-300-100 on Fashion-MNIST, validation split, `--epochs` in all (default 10), the last iterate. The base is what the
package did before: gradients by one draw of the weights, prior inclusion .1, KL weight 1, no refit, no budget. The full
recipe has all of `INGREDIENTS`; `VARIANTS` are changes to both. Where there is no refit the fit has all the epochs.

    python -m benchmarks.posterior_ladder                  # one seed
    python -m benchmarks.posterior_ladder --seeds 2 --shard 1/2
    python -m benchmarks.posterior_ladder --print

It resumes, and prints what it cost.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

import bayesprune as bp
from benchmarks.ledger import shard_of, sharded
from benchmarks.posterior_recipe import WHOLE, Recipe, lenet, posterior, shortened

Change = Mapping[str, Any]
"""Fields of a `Recipe`; those of `prior` and `how` are joined to what is there."""
INGREDIENTS: dict[str, tuple[Change, Change]] = {
    "local reparameterisation": (
        {"how": {"local_reparameterisation": None}},
        {"how": {"local_reparameterisation": False}},
    ),
    "KL weight .1": ({"kl_weight": 0.1}, {"kl_weight": 1.0}),
    "prior inclusion .02": ({"prior": {"expected_density": 0.02}}, {"prior": {"expected_density": 0.1}}),
    "refit": ({"refit_epochs": 4}, {"refit_epochs": 0}),
    "budget 2 %": ({"budget": 0.02}, {"budget": None}),
}
"""On and off."""
VARIANTS: dict[str, Change] = {
    "slab sd .05": {"prior": {"slab_sd": 0.05}},
    "slab sd .2": {"prior": {"slab_sd": 0.2}},
    "start at inclusion .5": {"prior": {"initial_inclusion": 0.5}},
    "slab sd learned by layer": {"prior": {"learned_sd": "layer"}},
    "inclusion learned by layer": {"prior": {"learned_density": "layer", "learned_by": "point"}},
    "inclusion learned by input": {"prior": {"learned_density": "input", "learned_by": "point"}},
}
"""What is changed alone, in the base and in the full recipe."""
FORMS = {
    "averaged": ("fit", "averaged"),
    "MPM at means": ("fit", "means"),
    "after refit, averaged": ("refit", "averaged"),
    "after refit, at means": ("refit", "means"),
}


def changed(recipe: Recipe, change: Change) -> Recipe:
    """The recipe with some fields changed."""
    joined = {name: {**getattr(recipe, name), **change[name]} for name in ("prior", "how") if name in change}
    return dataclasses.replace(recipe, **{**change, **joined})


def ladder(epochs: int) -> Iterator[tuple[str, Recipe]]:
    """The rows of the table, each with what makes it."""
    base = full = Recipe(epochs=6, refit_epochs=4)
    for on, off in INGREDIENTS.values():
        base, full = changed(base, off), changed(full, on)
    alone: dict[str, tuple[Change, Change]] = {name: (one, one) for name, one in VARIANTS.items()}
    rows = [("base", base)]
    rows += [(f"base, {name}", changed(base, on)) for name, (on, _) in (INGREDIENTS | alone).items()]
    rows += [("full", full)]
    rows += [(f"full, without {name}", changed(full, off)) for name, (_, off) in INGREDIENTS.items()]
    rows += [(f"full, {name}", changed(full, one)) for name, one in VARIANTS.items()]
    for name, recipe in rows:
        yield name, shortened(recipe, epochs)


def main() -> None:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10, help="in all (default 10)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="rows by their names; default all")
    parser.add_argument("--shard", type=shard_of, default=(1, 1), help="I/N: every N-th run, from the I-th on")
    parser.add_argument("--print", action="store_true", help="the table of what there is, without a run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/benchmarks", help="folder of the ledger")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = {name: recipe for name, recipe in ladder(options.epochs) if not options.only or name in options.only}
    if not rows:
        parser.error(f"no row has that name: expected some of {', '.join(n for n, _ in ladder(options.epochs))}")
    splits, ledger = bp.load_data("fashion-mnist"), sharded(options.out, "posterior_ladder", options.shard)

    def run(recipe: Recipe, seed: int) -> dict[str, Any]:
        return posterior(recipe, lenet(seed), splits.train, splits.validation, seed)[0]

    wanted = [(f"{name}, seed {seed}: {rows[name]}", name, seed) for name in rows for seed in range(options.seeds)]
    done, (number, count) = ledger.found(), options.shard
    mine = [one for turn, one in enumerate(wanted) if turn % count == number - 1 and one[0] not in done]
    print(f"{0 if options.print else len(mine)} of {len(wanted)} runs are to come", flush=True)
    for key, name, seed in () if options.print else mine:
        ledger.run(key, partial(run, rows[name], seed))
    done = ledger.found()
    print(f"| row | {' | '.join(f'{name}: accuracy, nll' for name in FORMS)} | kept, % | undecided, % |")
    print("|" + "---|" * (3 + len(FORMS)))
    for name in rows:
        found = [done[key] for key, other, _ in wanted if other == name and key in done]
        if found:
            print(f"| {name} | {' | '.join(shown(found, *place) for place in FORMS.values())} | {ending(found)} |")
    print(f"\ncost: {ledger.cost()}")


def shown(runs: list[dict[str, Any]], part: str, form: str) -> str:
    """Accuracy in % and nll of a form, means over seeds."""
    scores = [run[part][form] for run in runs if part in run]
    if not scores:
        return ""
    accuracy, nll = (statistics.mean(one[key] for one in scores) for key in ("accuracy", "nll"))
    return f"{100 * accuracy:.2f}, {nll:.3f}"


def ending(runs: list[dict[str, Any]]) -> str:
    """Weights that the median-probability model keeps, and what is undecided, of the fit."""
    kept, undecided = (statistics.mean(run["fit"]["means"][key] for run in runs) for key in ("kept", "undecided"))
    return f"{100 * kept / WHOLE:.2f} | {100 * undecided:.1f}"


if __name__ == "__main__":
    main()
