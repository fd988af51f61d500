"""Fronts of HALO and of a spike and slab: LeNet-300-100 on Fashion-MNIST, each prior along the values of its knob.

HALO by MAP along kappa, pruned by magnitude to a ladder of sparsities; spike and slab with the paired guide along
expected_density, pruned by inclusion to its median-probability model and to the part of the ladder that is sparser.
Every value is fitted from the one before, three restarts each: 10 epochs at the first, 4 at each further value, nothing
fine-tuned. The points of a front are chosen on the
validation split and reported on the test split.

Run ``python -m benchmarks.front``; it resumes after the last finished value, prints the tables and what it cost, and
writes docs/images/front.png. ``--part halo`` and ``--part spike`` may run side by side; without it what is left of both
is run and the picture drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import bayesprune as bp
from benchmarks.earlier_defaults import EARLIER
from benchmarks.ledger import Ledger

PATHS: dict[str, dict[str, Any]] = {
    "halo": {"values": (0.3, 1.0, 3.0, 10.0), "knob": "kappa", "guide": "map", "kl_warmup": 0.6, "kl_weight": 1.0},
    "spike": {
        "values": (0.6, 0.2, 0.05),
        "knob": "expected_density",
        "guide": "paired",
        "learning_rate": 2e-3,
        **EARLIER,
        "prunings": ({"min_inclusion": 0.5}, *({"sparsity": level} for level in (0.8, 0.9, 0.95, 0.98, 0.99))),
    },
}
LABELS = {"halo": "HALO, MAP, by magnitude", "spike": "spike and slab, by inclusion"}
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "front.png"


def model_at(part: str, data_size: int) -> Callable[[float], bp.BayesianNetwork]:
    """The model of a part at a value of its knob."""
    priors: dict[str, Callable[[float], bp.Hierarchy]] = {
        "halo": lambda value: bp.HALO(kappa=value),
        "spike": lambda value: bp.SpikeAndSlab(expected_density=value),
    }

    def model(value: float) -> bp.BayesianNetwork:
        torch.manual_seed(0)
        return bp.BayesianNetwork(bp.lenet_300_100(), {"*.weight": priors[part](value)}, data_size=data_size)

    return model


def followed(part: str, ledger: Ledger, splits: Any, options: argparse.Namespace) -> bp.SparsityPath:
    """Follows the path of a part; each further value is a run of the ledger, so that its cost is counted."""
    folder = Path(options.out) / f"front_{part}"
    settings = PATHS[part]
    model = model_at(part, len(splits.train[0]))

    def go_on(values: Sequence[float]) -> bp.SparsityPath:
        return bp.sparsity_path(
            model,
            splits.train,
            values,
            validation=splits.validation,
            test=splits.test,
            first_epochs=options.first_epochs,
            epochs=options.epochs,
            restarts=options.restarts,
            folder=folder,
            **{name: value for name, value in settings.items() if name != "values"},
        )

    def point(values: Sequence[float]) -> dict[str, Any]:
        table = go_on(values).table.isel(value=-1).sel(split="test")
        return {"sparsity": float(table.sparsity.mean()), "accuracy": float(table.accuracy.max())}

    for number, value in enumerate(settings["values"], start=1):
        ledger.run(f"{part} {settings['knob']} {value:g}", lambda n=number: point(settings["values"][:n]))
    return bp.SparsityPath.load(folder, model)


def main() -> None:
    """Follows the paths, prints their tables and fronts, and draws the picture."""
    parser = argparse.ArgumentParser(description="Fronts of two priors on Fashion-MNIST.")
    parser.add_argument("--first-epochs", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--part", choices=(*PATHS, "all"), default="all")
    parser.add_argument("--out", default="runs/benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    splits = bp.load_data("fashion-mnist")
    parts = list(PATHS) if options.part == "all" else [options.part]
    ledgers = {part: Ledger(f"{options.out}/front_{part}.json") for part in parts}
    paths = {part: followed(part, ledgers[part], splits, options) for part in parts}
    for part, path in paths.items():
        print(f"{LABELS[part]}\n{path}\ncost: {ledgers[part].cost()}\n")
    if options.part == "all":
        bp.plot_front({LABELS[part]: path for part, path in paths.items()}, worst=0.6, path=PICTURE)
        print(f"written: {PICTURE}")


if __name__ == "__main__":
    main()
