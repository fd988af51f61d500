"""Sparse training in the regime where layers have fewer weights than channels, on Fashion-MNIST.

Two experiments, batch 128, SGD 0.1 along a cosine, weight decay 1e-4 per datum, last epoch, the same starting weights
for all methods of a seed, exactly the same numbers of weights:

* ``resnet``: ResNet-20 (three blocks a stage, a stem of stride 2), 12,800 training images, bfloat16, at 0.5 and 0.2 %:
  static masks (Erdos-Renyi-kernel, and uniform), RigL-ITOP, gradual magnitude, soft thresholds (STR), EAST; at 0.2 %
  EAST without each of its parts, too. EAST's density counts the network without sharing. Gradients are clipped to a
  norm of 1 where weights come by them (RigL-ITOP, EAST), as by default; RigL-ITOP without that, and two with it, too.
* ``lenet``: LeNet-300-100, all training images, at 1, 0.5 and 0.1 %: RigL-ITOP, cyclic density, GraNet, gradual
  magnitude; gradients are not clipped.

Settings are chosen on validation data (``--split validation``); ``--split test`` is looked at once. Differences to
RigL-ITOP (``resnet``) or gradual magnitude (``lenet``) are paired by seed, with 95 % intervals by Student's t.

Run ``python -m benchmarks.extreme_sparsity resnet``; it prints runs x minutes, and resumes.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import scipy.stats
import torch

import bayesprune as bp
from benchmarks.ledger import Ledger

IMAGES = {"resnet": 12_800, "lenet": 54_000}
EPOCHS = {"resnet": 12, "lenet": 10}
DENSITIES = {"resnet": (0.002, 0.005), "lenet": (0.001, 0.005, 0.01)}
MINUTES = {"resnet": 1.2, "lenet": 0.25}
REFERENCE = {"resnet": "rigl-itop", "lenet": "gradual-magnitude"}
PARTS = {"DyReLU": {"dyrelu": False}, "sharing": {"shared": None}, "cycles": {"cyclic": False}}
METHODS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "resnet": {
        "static ERK": ("static", {}),
        "static uniform": ("static", {"layout": "uniform"}),
        "rigl-itop": ("rigl-itop", {}),
        "gradual-magnitude": ("gradual-magnitude", {}),
        "static ERK clipped": ("static", {"clip": 1.0}),
        "rigl-itop unclipped": ("rigl-itop", {"clip": None}),
        "gradual-magnitude clipped": ("gradual-magnitude", {"clip": 1.0}),
        "STR": ("STR", {}),
        "east": ("east", {}),
        **{f"east without {part}": ("east", how) for part, how in PARTS.items()},
    },
    "lenet": {name: (name, {"clip": None}) for name in ("rigl-itop", "cyclic", "granet", "gradual-magnitude")},
}


def runs(experiment: str, seeds: Sequence[int]) -> list[tuple[str, float, int]]:
    """Method, density and seed of every run, a seed at a time."""
    lowest = min(DENSITIES[experiment])
    return [
        (method, density, seed)
        for seed in seeds
        for density in DENSITIES[experiment]
        for method in METHODS[experiment]
        if "without" not in method or density == lowest
    ]


def starting_network(experiment: str, seed: int) -> torch.nn.Module:
    """The network with the weights of a seed."""
    torch.manual_seed(seed)
    if experiment == "lenet":
        return bp.lenet_300_100()
    return bp.resnet_20(in_channels=1, stem_stride=2)


def measured(experiment: str, method: str, density: float, seed: int, splits: Any, split: str) -> dict[str, Any]:
    """What one run came to."""
    count = IMAGES[experiment]
    data = splits.train[0][:count], splits.train[1][:count]
    network = starting_network(experiment, seed)
    name, settings = METHODS[experiment][method]
    if name == "STR":
        rules: tuple[Any, ...] = (bp.Budget(density=density),)
        patterns = {weight: bp.SoftThreshold() for weight in bp.weight_names(network)}
        model = bp.BayesianNetwork(network, patterns, data_size=len(data[0]))
    else:
        recipe = bp.recipe(name, density=density, **settings)
        rules = recipe.rules
        torch.manual_seed(1000 + seed)
        model = recipe.model(network, data_size=len(data[0]), example_input=data[0][:2])
    precision = "bfloat16" if experiment == "resnet" else "float32"
    how = {"epochs": EPOCHS[experiment], "seed": seed, "precision": precision, "execution": "plain"}
    fit = bp.fit(model, data, guide="map", rules=rules, **how)
    pruned = bp.prune(fit) if name != "STR" else bp.prune(fit, min_inclusion=0.5)
    x, y = getattr(splits, split)
    with torch.no_grad():
        outputs = torch.cat([pruned.network(part) for part in x.split(1000)])
    layers = {name: int((weight != 0).sum()) for name, weight in pruned.network.named_parameters() if weight.ndim > 1}
    return {
        "accuracy": float((outputs.argmax(1) == y).double().mean()),
        "nll": float(torch.nn.functional.cross_entropy(outputs, y)),
        "weights": sum(layers.values()),
        "layers": layers,
        **(
            {"dead outputs": float(fit.trace["dead_outputs"].isel(epoch=-1).mean())}
            if "dead_outputs" in fit.trace
            else {}
        ),
    }


def interval(differences: Sequence[float]) -> str:
    """Mean difference with its 95 % interval, in points."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.2f}"
    half = scipy.stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def table(experiment: str, ledger: Ledger, split: str) -> str:
    """Accuracies by seed, and paired differences to the reference."""
    reference = REFERENCE[experiment]
    lines = [
        f"| density, % | method | weights | accuracy by seed, % | mean | less {reference} [95 %] |",
        "|---|---|---|---|---|---|",
    ]
    for density in DENSITIES[experiment]:
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for key, run in ledger.runs.items():
            where, method, asked, seed, on = key.split("|")
            if (where, float(asked), on) == (experiment, density, split):
                found.setdefault(method, {})[int(seed)] = run
        for method in METHODS[experiment]:
            own = found.get(method, {})
            if not own:
                continue
            accuracies = {seed: 100 * run["accuracy"] for seed, run in sorted(own.items())}
            others = {seed: 100 * run["accuracy"] for seed, run in found.get(reference, {}).items()}
            apart = [accuracies[seed] - others[seed] for seed in accuracies if seed in others]
            shown = interval(apart) if apart and method != reference else ""
            by_seed = ", ".join(f"{one:.2f}" for one in accuracies.values())
            weights = sorted({run["weights"] for run in own.values()})
            counts = f"{weights[0]:,}" if len(weights) == 1 else f"{weights[0]:,} to {weights[-1]:,}"
            mean = statistics.mean(accuracies.values())
            lines.append(f"| {100 * density:g} | {method} | {counts} | {by_seed} | {mean:.2f} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is not there yet, and prints the table."""
    parser = argparse.ArgumentParser(description="Sparse training at extreme densities.")
    parser.add_argument("experiment", choices=tuple(METHODS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--only", nargs="*", help="names of methods; default all")
    parser.add_argument("--densities", type=float, nargs="*", help="default all")
    parser.add_argument("--out", default="runs/benchmarks/extreme_sparsity.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ledger = Ledger(options.out)
    wanted = [
        run
        for run in runs(options.experiment, options.seeds)
        if (not options.only or run[0] in options.only) and (not options.densities or run[1] in options.densities)
    ]
    keys = {run: "|".join(map(str, (options.experiment, *run, options.split))) for run in wanted}
    missing = sum(key not in ledger.runs for key in keys.values())
    minutes = MINUTES[options.experiment]
    print(f"{missing} runs x {minutes} minutes = {minutes * missing:.0f} minutes are to come", flush=True)
    splits = bp.load_data("fashion-mnist")
    for run, key in keys.items():
        ledger.run(key, lambda run=run: measured(options.experiment, *run, splits, options.split))
    print(table(options.experiment, ledger, options.split))
    print(ledger.cost())


if __name__ == "__main__":
    main()
