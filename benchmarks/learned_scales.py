"""Spike and slab whose scales are learned: LeNet-300-100, beside the fixed scales, on VALIDATION data.

The slab's sd and the inclusion probability by layer, by input and both, as points and under Normal guides, at several
KL weights. Of every fit: accuracy and negative log-likelihood of the averaged prediction, accuracy of the
median-probability model (MPM) at its means before and after a refit, weights kept, shares of probabilities in
(.05, .95), and what was learned, by layer. No test data are looked at.

    python -m benchmarks.learned_scales --data digits --epochs 100
    python -m benchmarks.learned_scales --data fashion-mnist --epochs 15 --kl-weights 1 --forms fixed "sd by layer"

It resumes; `--shard I/N` makes the I-th of N parts of the runs, and the table is of all parts that are there. Prints
the table in markdown, with the paired differences from the fixed scales over seeds, and what the runs cost.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import bayesprune as bp
from bayesprune.inference.notes.emptied_layers import collapsed_layers, emptied_layers
from benchmarks.ledger import interval, shard_of, sharded

FORMS: dict[str, dict[str, str]] = {
    "fixed": {},
    "sd by layer": {"learned_sd": "layer"},
    "sd by input": {"learned_sd": "input"},
    "pi by layer": {"learned_density": "layer"},
    "pi by input": {"learned_density": "input"},
    "both by layer": {"learned_sd": "layer", "learned_density": "layer"},
    "both by input": {"learned_sd": "input", "learned_density": "input"},
    "sd by layer, pi by input": {"learned_sd": "layer", "learned_density": "input"},
}
RATE, WARMUP = 2e-3, 0.2
"""Those of benchmarks/posterior.py."""
SHOWN = ("accuracy", "nll", "median_accuracy", "refit_accuracy", "kept", "undecided")


def settings(form: str, guide: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the prior."""
    learned = FORMS[form]
    return {**given, **learned, **({"learned_by": guide} if learned else {})}


def fitted(prior: dict[str, Any], splits: Any, seed: int, epochs: int, **how: Any) -> bp.Fit:
    """One fit of a fresh network."""
    torch.manual_seed(seed)
    network = bp.lenet_300_100(splits.train[0][0].numel())
    model = bp.BayesianNetwork(network, {"*.weight": bp.SpikeAndSlab(**prior)}, data_size=len(splits.train[0]))
    return bp.fit(model, splits.train, epochs=epochs, seed=seed, learning_rate=RATE, kl_warmup=WARMUP, **how)


def scores(fit: bp.Fit, splits: Any, refit_epochs: int) -> dict[str, Any]:
    """All that is reported of one fit, on the validation part."""
    x, y = splits.validation
    forms = bp.score_forms(fit, x, y)
    found: dict[str, Any] = dict(forms["averaged"])
    probabilities = fit.inclusion_probabilities()
    by_layer = {name: probabilities[name].values for name in probabilities}
    found["undecided"], found["kept"] = forms.undecided, forms["means"]["kept"] / forms.weights
    found["kept_by_layer"] = {name: float((one > 0.5).mean()) for name, one in by_layer.items()}
    if min(found["kept_by_layer"].values()) > 0.0:
        found["median_accuracy"] = forms["means"]["accuracy"]
        if refit_epochs:
            again = bp.refit(fit, splits.train, epochs=refit_epochs)
            found["refit_accuracy"] = bp.score_forms(again, x, y)["means"]["accuracy"]
    found["learned"] = {
        name: [float(q) for q in torch.quantile(value.double().flatten(), torch.tensor([0.0, 0.5, 1.0]).double())]
        for name, value in fit.guide.means().items()
        if name.endswith((".sd", ".pi"))
    }
    found["emptied"] = str(emptied_layers(fit, collapsed_layers(fit)))
    return found


def one_run(data: str, seed: int, weight: float, form: str, guide: str, options: argparse.Namespace) -> dict[str, Any]:
    """One fit, scored."""
    splits = _splits(data)
    prior = settings(form, guide, options.prior)
    fit = fitted(prior, splits, seed, options.epochs, kl_weight=weight, **options.fit)
    return scores(fit, splits, options.refit_epochs)


@functools.cache
def _splits(data: str) -> Any:
    return bp.load_data(data)


def table(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Means over seeds, and the paired differences of the averaged accuracy from the fixed scales, in points."""
    of: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for name, run in runs.items():
        *row, seed = name.split(" | ")
        of.setdefault(tuple(row), {})[seed] = run
    heads = ["data", "KL weight", "scales", "guide", "averaged", "nll", "MPM", "refit", "kept %", "undecided %"]
    lines = [f"| {' | '.join([*heads, 'against fixed', 'learned: least, median, largest'])} |"]
    lines.append("|" + "---|" * (len(heads) + 2))
    for row, seeds in sorted(of.items()):
        cells = [_mean([run.get(key) for run in seeds.values()], key) for key in SHOWN]
        base = of.get((*row[:2], "fixed", "-"), {})
        pairs = [100.0 * (run["accuracy"] - base[seed]["accuracy"]) for seed, run in seeds.items() if seed in base]
        learned = {k: "/".join(f"{v:.3g}" for v in q) for k, q in next(iter(seeds.values()))["learned"].items()}
        said = "; ".join(f"{k.replace('.weight.', ' ')} {v}" for k, v in learned.items())
        lines.append(f"| {' | '.join([*row, *cells, interval(pairs) if pairs else '-', said])} |")
    return "\n".join(lines)


def _mean(values: list[float | None], key: str) -> str:
    there = [value for value in values if value is not None]
    if len(there) < len(values) or not there:
        return f"empty in {len(values) - len(there)}" if key == "median_accuracy" else "-"
    return f"{(1.0 if key == 'nll' else 100.0) * statistics.mean(there):.{3 if key == 'nll' else 2}f}"


def main() -> None:
    """Fits what is asked for and is not there yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["digits"])
    parser.add_argument("--kl-weights", nargs="+", type=float, default=[0.1, 1.0])
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--guides", nargs="+", default=["point", "normal"], choices=["point", "normal"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--refit-epochs", type=int, default=5)
    parser.add_argument("--prior", type=json.loads, default={}, help="further arguments of SpikeAndSlab, as JSON")
    parser.add_argument("--fit", type=json.loads, default={}, help="further options of fit, as JSON")
    parser.add_argument("--tag", default="", help="goes with the name of the data, for runs of other --prior or --fit")
    parser.add_argument("--shard", type=shard_of, default=(1, 1), help="I/N: every N-th run, from the I-th on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    number, shards = options.shard
    ledger = sharded(options.out, "learned_scales", options.shard)
    runs = {
        f"{data}{options.tag} | {weight:g} | {form} | {guide} | {seed}": functools.partial(
            one_run, data, seed, weight, form, guide, options
        )
        for data, seed, weight, form in itertools.product(
            options.data, range(options.seeds), options.kl_weights, options.forms
        )
        for guide in (options.guides if FORMS[form] else ["-"])
    }
    for name in list(runs)[number - 1 :: shards]:
        ledger.run(name, runs[name])
    print(table(ledger.found()))
    print(f"cost: {ledger.cost()}")


if __name__ == "__main__":
    main()
