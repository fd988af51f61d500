"""What predicts deletion: LeNet-300-100 on Fashion-MNIST under a spike and slab, by weight, unit, input and set.

Things are deleted one at a time from one plain network, and the change of the mean loss on held-out images is compared
with scores: the posterior inclusion probability (of a unit or an input the mean over its weights, which ranks as their
sum does), the norm of its weights, |mean| over sd, and what `deletion_scores` predicts from 10,000 training images, at
the network that is deleted from, averaged over draws of the posterior, and its parts alone. Beside them the ceiling:
the very same deletions measured on 2,000 training images. Units and inputs go from the median-probability model at its
means; weights and sets, stratified by probability, from the network of E[weight], where all of them are there.

    python -m benchmarks.deletion                             # fits (15 epochs), deletes, prints the tables
    python -m benchmarks.deletion --seeds 2 --shard 1/2       # a part of the runs
    python -m benchmarks.deletion --fit PATH                  # of a fit that is saved already
    python -m benchmarks.deletion --print                     # the tables of what there is
    python -m benchmarks.deletion --data digits --epochs 20   # a pilot of a minute

A run is one kind of deletion from one fit; it resumes, and prints runs x minutes. Deletions are measured on the test
split (--split validation for choices); no score has seen it.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor

import bayesprune as bp
from bayesprune.analysis.deletion.set_deletion import BANDS
from bayesprune.inference.deletion.what_is_deleted import base_weights
from benchmarks.ledger import Ledger, shard_of, sharded

HOW: dict[str, Any] = {"learning_rate": 2e-3, "kl_warmup": 0.2, "kl_weight": 0.1}
DENSITY = 0.02
SIZES = (10, 100, 1000)
PROBABILITY = 0.95
NAMES = ("PIP", "norm", "mean over sd", "deletion", "deletion, over draws", "deletion, labels", "Fisher", "derivative")


@dataclass(frozen=True)
class Kind:
    """One kind of deletion: what goes, of which tensor, from which network, and how many times by default."""

    per: str
    tensor: int | None
    base: str
    count: int


KINDS: dict[str, Kind] = {
    "input": Kind("input", 0, "median", 784),
    "unit of layer 1": Kind("output", 0, "median", 300),
    "unit of layer 2": Kind("output", 1, "median", 100),
    "weight": Kind("weight", None, "mean", 600),
    "set": Kind("weight", None, "mean", 50),
}
"""Of sets the count is that of each band and size."""


def model_of(data: str, seed: int, examples: int) -> bp.BayesianNetwork:
    """The declaration: a fresh network under a spike and slab at an expected density of .02."""
    torch.manual_seed(seed)
    if data == "digits":
        network: torch.nn.Module = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 40), torch.nn.ReLU(),
            torch.nn.Linear(40, 10),
        )  # fmt: skip
    else:
        network = bp.lenet_300_100()
    return bp.BayesianNetwork(network, {"*.weight": bp.SpikeAndSlab(DENSITY)}, data_size=examples)


def fitted(options: argparse.Namespace, seed: int, splits: Any) -> bp.Fit:
    """The fit of a seed: from its folder where it is there, else by fitting."""
    given = options.fit is not None
    folder = Path(options.fit) if given else Path(options.out, f"deletion_{options.data}_{options.epochs}_{seed}")
    if given or folder.exists():
        return bp.Fit.load(folder, model=model_of(options.data, seed, len(splits.train[0])))
    fit = bp.fit(
        model_of(options.data, seed, len(splits.train[0])), splits.train, seed=seed, epochs=options.epochs, **HOW
    )
    fit.save(folder)
    return fit


def made(options: argparse.Namespace, seed: int, splits: Any) -> dict[str, Any]:
    """A run: the fit alone, so that its minutes are counted apart."""
    fit = fitted(options, seed, splits)
    forms = bp.score_forms(fit, *splits.validation)
    averaged, means = forms["averaged"], forms["means"]
    return {
        "averaged": averaged["accuracy"], "median": means["accuracy"], "kept": means["kept"] / forms.weights
    }  # fmt: skip


def scores_of(fit: bp.Fit, kind: Kind, train: tuple[Tensor, Tensor], tensors: list[str], draws: int) -> dict[str, Any]:
    """All scores of one kind of deletion, by name."""
    how: dict[str, Any] = {"per": kind.per, "base": kind.base, "tensors": tensors}
    centre = bp.deletion_scores(fit, train, **how)
    weights = base_weights(fit, 0, kind.base)
    found = {
        "PIP": None,
        "norm": {name: weights[name].detach().square() for name in tensors},
        "mean over sd": "signal-to-noise",
        "deletion": centre,
        "deletion, over draws": bp.deletion_scores(fit, train, draws=draws, **how),
        "deletion, labels": bp.deletion_scores(fit, train, curvature="empirical", **how),
        "Fisher": replace(centre, change={name: one / 2 for name, one in centre.curvature.items()}),
        "derivative": replace(centre, change={name: -one for name, one in centre.slope.items()}),
    }
    assert tuple(found) == NAMES
    return found


def deleted(options: argparse.Namespace, name: str, seed: int, splits: Any) -> dict[str, Any]:
    """A run: one kind of deletion from one fit, and the correlations of every score."""
    kind, fit = KINDS[name], fitted(options, seed, splits)
    every = list(fit.model.priors)
    tensors = every if kind.tensor is None else [every[kind.tensor]]
    train = tuple(part[: options.train] for part in splits.train)
    others = tuple(part[: options.ceiling] for part in splits.train)
    held_out = getattr(splits, options.split)
    count = options.deletions or kind.count
    how: dict[str, Any] = {"per": kind.per, "base": kind.base, "tensors": tensors, "ceiling": others, "train": train}
    how |= {"probability": PROBABILITY, "precision": options.precision}
    if name == "set":
        # the score of a set adds up those of its members, but for "deletion": one gate on all of it
        scores = {
            key: one for key, one in scores_of(fit, kind, train, tensors, options.draws).items() if key != "deletion"
        }
        scores["deletion, added up"] = bp.deletion_scores(fit, train, per="weight", base=kind.base, tensors=tensors)
        found: Any = bp.set_deletion(
            fit, held_out, sizes=SIZES, bands=BANDS, sets=count, scores={**scores, "deletion": "deletion"}, **how
        )
    else:
        found = bp.deletion_calibration(
            fit, held_out, n=count, scores=scores_of(fit, kind, train, tensors, options.draws), **how
        )
    print(f"\n{name}, seed {seed}\n{found}", flush=True)
    return {"loss": found.loss, "comparison": found.comparison.to_dict()}


def runs_of(options: argparse.Namespace, splits: Any) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every run by name."""
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    of = options.fit or f"{options.data}, {options.epochs} epochs"
    for seed in range(options.seeds):
        if options.fit is None:
            found[f"{of}, fit {seed}"] = functools.partial(made, options, seed, splits)
        for name in options.kinds:
            label = f"{of}, {name} {seed}, {options.split}"
            found[label] = functools.partial(deleted, options, name, seed, splits)
    return found


def cell(table: Mapping[str, list[float]]) -> str:
    """Mean over seeds, with the interval of one seed or the spread of several."""
    values = table["spearman"]
    if len(values) > 1:
        return f"{statistics.mean(values):+.2f} +- {statistics.stdev(values):.2f}"
    return f"{values[0]:+.2f} ({table['lower'][0]:+.2f} to {table['upper'][0]:+.2f})"


def below(table: Mapping[str, list[float]]) -> str:
    """How far a score is below the ceiling."""
    values = table["below"]
    if len(values) > 1:
        return f"{statistics.mean(values):+.2f} +- {statistics.stdev(values):.2f}"
    return f"{values[0]:+.2f} ({table['below_lower'][0]:+.2f} to {table['below_upper'][0]:+.2f})"


def tables(options: argparse.Namespace, ledger: Ledger, labels: Mapping[str, Any]) -> None:
    """Prints a table in markdown for each kind of deletion that there is."""
    found = ledger.found()
    for name in options.kinds:
        runs = [found[label] for label in labels if f", {name} " in label and label in found]
        if not runs:
            continue
        comparisons = [xr.Dataset.from_dict(run["comparison"]) for run in runs]
        layers = [str(layer) for layer in comparisons[0].layer.values]
        shared = [layer for layer in layers if all(layer in one.layer.values for one in comparisons)]
        shown = shared[1:] if len(layers) == 2 else shared
        predictors = [str(one) for one in comparisons[0].predictor.values]
        losses = ", ".join(f"{run['loss']:.3f}" for run in runs)
        print(f"\n**{name}** ({KINDS[name].base} network, loss {losses}; seeds: {len(runs)})\n")

        def of(predictor: str, layer: str, comparisons: list[xr.Dataset] = comparisons) -> dict[str, list[float]]:
            each = [one.sel(predictor=predictor, layer=layer) for one in comparisons]
            return {str(key): [float(one[key]) for one in each] for key in each[0].data_vars}

        if len(shown) > 1:  # a row a layer, or a band and size of sets
            print("| deleted | " + " | ".join(predictors) + " |")
            print("|---|" + "---|" * len(predictors))
            for layer in shown:
                print(f"| {layer} | " + " | ".join(cell(of(one, layer)) for one in predictors) + " |")
            continue
        print("| score | rank correlation | below the ceiling |\n|---|---|---|")
        for predictor in predictors:
            found_of = of(predictor, shown[0])
            print(f"| {predictor} | {cell(found_of)} | {below(found_of)} |")
    print(f"\ncost: {ledger.cost()}")


def main() -> None:
    """Fits, deletes and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist", choices=["fashion-mnist", "digits"])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--fit", help="folder of a saved fit of LeNet-300-100, in place of fitting")
    parser.add_argument("--split", default="test", choices=["test", "validation"], help="where deletions are measured")
    parser.add_argument("--train", type=int, default=10_000, help="training examples that derivatives are taken on")
    parser.add_argument("--ceiling", type=int, default=2_000, help="training examples that deletions are measured on")
    parser.add_argument("--draws", type=int, default=10, help="of the posterior, for the averaged score")
    parser.add_argument("--deletions", type=int, help="of each kind, in place of all units and inputs and 600 weights")
    parser.add_argument("--precision", default="float32", choices=["float64", "float32"])
    parser.add_argument("--shard", type=shard_of, default=(1, 1), help="I/N: every N-th run, from the I-th on")
    parser.add_argument("--print", action="store_true", dest="only_print", help="the tables of what there is")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    splits, ledger = bp.load_data(options.data), sharded(options.out, "deletion", options.shard)
    runs = runs_of(options, splits)
    if not options.only_print:
        number, count = options.shard
        for label in list(runs)[number - 1 :: count]:
            ledger.run(label, runs[label])
    tables(options, ledger, runs)


if __name__ == "__main__":
    main()
