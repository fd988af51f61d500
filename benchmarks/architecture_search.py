"""Search of architectures on digits: surrogate-assisted evolution, evolution, and random search at an equal budget.

Convolutions, pooling and linear layers stand in the genome. All three methods of a seed share their first ten random
genomes, the data and the seeds of trainings; the budget is counted in trainings. The score of a training is the
accuracy on 30 % of the training data; the winner of each search is then trained longer, once on the same data, and the
test data are looked at once, for that network. Differences to random search are paired by seed, with 95 % intervals by
Student's t.

* ``search``: runs what is not there yet (``--shard i/n`` of the runs), and prints runs x minutes.
* ``table``: prints the tables from the file, and draws the figure with ``--figure``.

    python -m benchmarks.architecture_search search --trainings 40
    python -m benchmarks.architecture_search table --figure runs/benchmarks/architecture_search.svg
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from typing import Any

import scipy.stats
import torch

import bayesprune as bp
from bayesprune.inference.search.evaluation import FitTraining
from bayesprune.inference.search.search import search
from bayesprune.models.genomes.search_space import SearchSpace
from benchmarks.ledger import Ledger

METHODS = ("surrogate", "evolution", "random")
EPOCHS, LONGER = 8, 30
MINUTES = 0.5
"""Of a run of 40 trainings, by the pilot; that of the longer training of the winner is in it."""
OPERATIONS = ("conv3x3", "conv1x1", "conv3x3-bn", "max-pool", "average-pool", "global-pool", "linear", "identity")
BATCH = 64


def splits_of_seed(seed: int) -> Any:
    """Digits with 30 % of the training data held out for validation, which the seed chooses."""
    return bp.load_data("digits", validation_fraction=0.3, seed=seed)


def measured(method: str, seed: int, trainings: int) -> dict[str, Any]:
    """What one search came to, and its winner on the test data."""
    splits = splits_of_seed(seed)
    space = SearchSpace(splits.input_shape, splits.classes, OPERATIONS)
    found = search(
        splits.train,
        space,
        validation=splits.validation,
        trainings=trainings,
        strategy="random" if method == "random" else "evolution",
        surrogate=bp.PerformancePredictor() if method == "surrogate" else None,
        epochs=EPOCHS,
        seed=1000 * seed,
        batch_size=BATCH,
    )
    longer = FitTraining(splits.train, splits.test, LONGER, how={"batch_size": BATCH})
    short = FitTraining(splits.train, splits.test, EPOCHS, how={"batch_size": BATCH})
    return {
        "scores": [training.score for training in found.trainings],
        "best": list(found.best_so_far),
        "accuracy": found.best.score,
        "test": longer(found.network(seed), seed),
        "test as searched": short(found.network(1000 * seed + found.best.number), 1000 * seed + found.best.number),
        "parameters": found.best.parameters,
        "rank correlation": found.rank_correlation,
        "genome": found.genome.as_dict(),
        "operators": [training.operator for training in found.trainings],
        "seconds": [training.seconds for training in found.trainings],
    }


def interval(differences: Sequence[float], digits: int = 2) -> str:
    """Mean difference with its 95 % interval, in points."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.{digits}f}"
    half = scipy.stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]"


def by_method(ledger: Ledger, trainings: int) -> dict[str, dict[int, dict[str, Any]]]:
    """The runs of a budget, by method and seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {method: {} for method in METHODS}
    for key, run in ledger.runs.items():
        method, seed, budget = key.split("|")
        if int(budget) == trainings:
            found[method][int(seed)] = run
    return {method: dict(sorted(runs.items())) for method, runs in found.items() if runs}


def tables(ledger: Ledger, trainings: int) -> str:
    """The winners, and the best validation accuracy against trainings."""
    runs = by_method(ledger, trainings)
    random = runs.get("random", {})
    lines = [
        "| method | seeds | validation, % | less random [95 %] | seeds with at least random's | "
        f"test after {LONGER} epochs, % | less random [95 %] | test as searched, % | parameters, median | "
        "rank correlation, median |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method, own in runs.items():
        both = [seed for seed in own if seed in random]
        cells = [method, str(len(own))]
        for name in ("accuracy", "test"):
            values = [100 * run[name] for run in own.values()]
            spread = statistics.stdev(values) if len(values) > 1 else math.nan
            apart = [100 * (own[seed][name] - random[seed][name]) for seed in both]
            cells += [f"{statistics.mean(values):.2f} +- {spread:.2f}"]
            cells += [interval(apart) if apart and method != "random" else ""]
            if name == "accuracy":
                at_least = sum(own[seed][name] >= random[seed][name] for seed in both)
                cells += [f"{at_least} of {len(both)}" if method != "random" else ""]
        cells += [f"{100 * statistics.mean(run['test as searched'] for run in own.values()):.2f}"]
        cells += [f"{statistics.median(run['parameters'] for run in own.values()):,.0f}"]
        ranks = [run["rank correlation"] for run in own.values() if run["rank correlation"] is not None]
        cells += [f"{statistics.median(ranks):.2f}" if ranks else ""]
        lines.append("| " + " | ".join(cells) + " |")
    places = [place for place in (10, 15, 20, 25, 30, 35, 40, 50, 60) if place <= trainings]
    lines += ["", f"| best validation accuracy, %, after | {' | '.join(map(str, places))} |"]
    lines += ["|---|" + "---|" * len(places)]
    for method, own in runs.items():
        means = [100 * statistics.mean(run["best"][place - 1] or 0.0 for run in own.values()) for place in places]
        lines.append(f"| {method} | {' | '.join(f'{mean:.2f}' for mean in means)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is not there yet, and prints the tables."""
    parser = argparse.ArgumentParser(description="Search of architectures on digits at an equal budget.")
    parser.add_argument("mode", choices=("search", "table"))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(10)))
    parser.add_argument("--trainings", type=int, default=40)
    parser.add_argument("--only", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th run from the i-th on; a file --out for each")
    parser.add_argument("--out", nargs="*", default=["runs/benchmarks/architecture_search.json"])
    parser.add_argument("--figure", help="file of a figure: .svg, .pdf or .png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ledger = Ledger(options.out[0])
    for other in options.out[1:]:
        ledger.runs |= Ledger(other).runs
    if options.mode == "search":
        part, parts = map(int, options.shard.split("/"))
        wanted = [(method, seed) for seed in options.seeds for method in options.only][part::parts]
        keys = {f"{method}|{seed}|{options.trainings}": (method, seed) for method, seed in wanted}
        minutes = MINUTES * options.trainings / 40
        missing = sum(key not in ledger.runs for key in keys)
        print(f"{missing} runs x {minutes:.2f} minutes = {minutes * missing:.0f} minutes are to come", flush=True)
        for key, (method, seed) in keys.items():
            ledger.run(key, lambda method=method, seed=seed: measured(method, seed, options.trainings))
    print(tables(ledger, options.trainings))
    print(ledger.cost())
    if options.figure:
        runs = by_method(ledger, options.trainings)
        bp.plot_search({method: [run["best"] for run in own.values()] for method, own in runs.items()}, options.figure)


if __name__ == "__main__":
    main()
