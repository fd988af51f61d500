"""Soft thresholds beside gradual magnitude pruning, HALO and spike and slab, at the same numbers of weights.

LeNet-300-100 on Fashion-MNIST, 10 epochs, batch 128, last iterate, no fine-tuning; methods of one seed start from the
same weights. `SoftThreshold`, `HALO` and `SpikeAndSlab` are asked for a density by `Budget(density=)`. Deployed
is the plain network that `prune` makes of what is counted. All else is at its default, but for the learning rate 2e-3
of HALO and of spike and slab, chosen in benchmarks/budget.py. Gradual magnitude pruning (benchmarks/magnitude.py,
global) has the settings chosen for it in benchmarks/fashion_halo.py, and exactly the same counts. ``--network lenet-5``
is the second network: 6 epochs, 2 %, without spike and slab.

Settings are chosen on the validation split; ``--split test`` is looked at once.

Run ``python -m benchmarks.soft_threshold``; it prints runs x minutes before it starts, resumes, and appends a line of
JSON for each run.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import bayesprune as bp
from benchmarks.budget import GRADUAL, HOW
from benchmarks.magnitude import Settings, train_gradual

PRIORS = {"soft threshold": bp.SoftThreshold, "HALO": bp.HALO, "spike and slab": bp.SpikeAndSlab}
GRADUALLY = "gradual magnitude"
DENSITIES = (0.02, 0.01, 0.005, 0.05, 0.1)
EPOCHS = {"lenet-300-100": 10, "lenet-5": 6}
NETWORKS = {"lenet-300-100": bp.lenet_300_100, "lenet-5": bp.lenet_5}
MINUTES = 0.5
"""Of a run, on one core."""


def runs(network: str, seeds: int) -> list[tuple[str, float, int]]:
    """Every method, density and seed, the most interesting first."""
    if network == "lenet-5":
        return [(method, 0.02, 0) for method in ("soft threshold", GRADUALLY, "HALO")]
    methods = (GRADUALLY, *PRIORS)
    return [(method, density, seed) for seed in range(seeds) for density in DENSITIES for method in methods]


def measured(network: str, method: str, asked: float, seed: int, splits: Any, split: str) -> dict[str, Any]:
    """What one run came to."""
    x, y = getattr(splits, split)
    began, epochs = time.process_time(), EPOCHS[network]
    torch.manual_seed(seed)
    start = NETWORKS[network]()
    if method == GRADUALLY:
        settings = Settings(epochs=epochs, optimizer="sgd", learning_rate=0.1, momentum=0.9, seed=seed, **GRADUAL)
        trained = train_gradual(*splits.train, 1.0 - asked, settings, end=0.7, network=start)
        densities = {name: float(mask.double().mean()) for name, mask in trained.masks.items()}
        found = {"before": None, "reached": 1.0 - trained.sparsity, "accuracy": trained.accuracy(x, y)}
        return {**found, "densities": densities, "seconds": time.process_time() - began}
    data = splits.train
    model = bp.BayesianNetwork(start, {"*.weight": PRIORS[method]()}, data_size=len(data[0]))
    fit = bp.fit(model, data, epochs=epochs, rules=[bp.Budget(density=asked)], seed=seed, **HOW.get(method, {}))
    (said,) = fit.settings["budget"]
    if method == "HALO":
        pruned = bp.prune(fit, sparsity=1.0 - said["reached"]).network  # no atom: the smallest weights go
    else:
        pruned = bp.prune(fit, min_inclusion=0.5).network
    with torch.no_grad():
        accuracy = float((pruned(x).argmax(1) == y).double().mean())
    weights = {name: weight for name, weight in pruned.named_parameters() if weight.ndim > 1}
    return {
        "before": said["landing"]["before"] / said["whole"],
        "reached": sum(int((w != 0).sum()) for w in weights.values()) / sum(w.numel() for w in weights.values()),
        "accuracy": accuracy,
        "densities": {name: float((weight != 0).double().mean()) for name, weight in weights.items()},
        "knobs": {key: one["end"] for key, one in said["knobs"].items()},
        "seconds": time.process_time() - began,
    }


def table(done: list[dict[str, Any]]) -> str:
    """Means over seeds, and the paired difference to gradual magnitude pruning with its standard error, in points."""
    lines = [
        "| density, % | method | seeds | by the controller, % | accuracy, % | less gradual | by layer, % |",
        "|---|---|---|---|---|---|---|",
    ]
    gradual = {(one["asked"], one["seed"]): one["accuracy"] for one in done if one["method"] == GRADUALLY}
    for asked in sorted({one["asked"] for one in done}, reverse=True):
        for method in (GRADUALLY, *PRIORS):
            own = [one for one in done if (one["method"], one["asked"]) == (method, asked)]
            if not own:
                continue
            accuracy = statistics.mean(100 * one["accuracy"] for one in own)
            before = [100 * one["before"] for one in own if one["before"] is not None]
            pairs = [(one["accuracy"], gradual.get((asked, one["seed"]))) for one in own]
            apart = [100 * (mine - other) for mine, other in pairs if other is not None]
            shown = ""
            if method != GRADUALLY and apart:
                spread = f" ± {statistics.stdev(apart) / math.sqrt(len(apart)):.2f}" if len(apart) > 1 else ""
                shown = f"{statistics.mean(apart):+.2f}{spread}"
            layers = ", ".join(
                f"{100 * statistics.mean(one['densities'][name] for one in own):.2f}" for name in own[0]["densities"]
            )
            reached = f"{statistics.mean(before):.2f}" if before else ""
            lines.append(
                f"| {100 * asked:g} | {method} | {len(own)} | {reached} | {accuracy:.2f} | {shown} | {layers} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Runs what is not there yet, and prints the table."""
    parser = argparse.ArgumentParser(description="Soft thresholds on Fashion-MNIST.")
    parser.add_argument("--network", choices=tuple(NETWORKS), default="lenet-300-100")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of methods; default all")
    parser.add_argument("--out", default="runs/benchmarks/soft_threshold.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    file = Path(options.out)
    file.parent.mkdir(parents=True, exist_ok=True)
    wanted = [one for one in runs(options.network, options.seeds) if not options.only or one[0] in options.only]
    key = ("method", "asked", "seed")

    def there() -> dict[tuple[Any, ...], dict[str, Any]]:
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        mine = [one for one in lines if (one["split"], one["network"]) == (options.split, options.network)]
        return {tuple(one[name] for name in key): one for one in mine}

    missing = [one for one in wanted if one not in there()]
    print(f"{len(missing)} runs x {MINUTES} minutes = {MINUTES * len(missing):.0f} minutes are to come", flush=True)
    splits = bp.load_data("fashion-mnist")
    for run in missing:
        found = measured(options.network, *run, splits, options.split)
        line = {**dict(zip(key, run, strict=True)), "split": options.split, "network": options.network, **found}
        with file.open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    print(table([one for one in there().values()]))


if __name__ == "__main__":
    main()
