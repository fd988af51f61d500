"""`bayesprune compare`, `priors`, `recipes` and `data`: tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from inspect import Parameter
from pathlib import Path
from typing import Any

from bayesprune.commands.console import figure, percent, stdout, table
from bayesprune.runs.run_folder import read_summary

__all__ = ["compare_runs", "list_data", "list_priors", "list_recipes"]


Summary = Mapping[str, Any]

COLUMNS: dict[str, Callable[[str | Path, Summary], str]] = {
    "run": lambda run, found: str(run),
    "data": lambda run, found: Path(found["data"]).name,
    "network": lambda run, found: _short(found["network"]),
    "prior": lambda run, found: _short(found["prior"]),
    "guide": lambda run, found: str(found["guide"]),
    "accuracy": lambda run, found: percent(found["test_accuracy"]),
    "rmse": lambda run, found: figure(found["test_rmse"]),
    "nll": lambda run, found: figure(found["nll"]),
    "ece": lambda run, found: figure(found["ece"]),
    "sparsity": lambda run, found: percent(found["sparsity"], 2),
    "units": lambda run, found: "-".join(str(row["left"]) for row in (found.get("units") or {}).values()) or "-",
    "branches": lambda run, found: _branches(found),
    "median-prob.": lambda run, found: percent(found["median_probability_sparsity"], 2),
    "kind": lambda run, found: ", ".join(found["kinds"]) or "-",
    "epochs": lambda run, found: str(found["epochs"]),
    "seconds": lambda run, found: f"{found['seconds']:.0f}",
    "seeds": lambda run, found: " ".join(map(str, found["seeds"])),
    "verdict": lambda run, found: found["converged"] + (", tempered" if found["tempered"] else ""),
}
"""Columns of `compare`: a name, and the cell for a run's folder and summary."""
SCORES = ("run", "accuracy", "rmse", "nll", "sparsity")
"""Columns that are shown even where they are the same in all runs."""
NUMBERS = ("accuracy", "rmse", "nll", "ece", "sparsity", "median-prob.", "epochs", "seconds")


def compare_runs(runs: Sequence[str | Path]) -> None:
    """Prints one row a run, from their summaries.

    Raises:
        ValueError: If one is no run folder, or its summary is damaged.
    """
    summaries = [read_summary(run) for run in runs]
    cells = {
        name: [cell(run, found) for run, found in zip(runs, summaries, strict=True)] for name, cell in COLUMNS.items()
    }
    cells = {name: column for name, column in cells.items() if set(column) != {"-"}}
    alike = [n for n, column in cells.items() if len(runs) > 1 and len({*column}) == 1 and n not in SCORES]
    differing = [name for name in cells if name not in alike]
    shown = table(*differing, numbers=NUMBERS)
    for row in zip(*(cells[name] for name in differing), strict=True):
        shown.add_row(*row)
    console = stdout()
    console.print(shown)
    if alike:
        console.print(f"in all: {', '.join(f'{name} {cells[name][0]}' for name in alike)}", soft_wrap=True)
    kinds = {kind for found in summaries if found["median_probability_sparsity"] is not None for kind in found["kinds"]}
    if len(kinds) > 1:
        console.print(f"Median-probability sparsities of unlike kinds ({', '.join(sorted(kinds))}) are not comparable.")
    if len({(found["data"], found["data_seed"]) for found in summaries}) > 1:
        console.print("The runs differ in their data, or in the seed of the validation split.")


def list_priors() -> None:
    """Prints the ready priors with their settings."""
    from bayesprune.inference.rules.gate_training import Gating
    from bayesprune.models.priors.ready import PRIORS

    shown = table("prior", "what it is", "settings (--set key=value)")
    for name, entry in PRIORS.items():
        settings = [
            key if value is Parameter.empty else f"{key}={_typed(value)}" for key, value in entry.settings.items()
        ]
        shown.add_row(name, entry.summary, ", ".join(settings))
    console = stdout()
    console.print(shown)
    console.print("null leaves the choice to the prior. One of your own: --prior FILE.py:NAME")
    gating = ", ".join(f"{one.name}={_typed(one.default)}" for one in fields(Gating))
    console.print(f"unit-gates is not on weights but on units; how its gates are trained: --gating with {gating}")


def list_recipes() -> None:
    """Prints the recipes of sparse training with what sets each apart, and the settings that all of them have."""
    from bayesprune.inference.masks.scores import DROP, GROW
    from bayesprune.inference.recipes.ready_recipes import RECIPES

    shown = table("recipe", "what it is", "settings (--recipe-set key=value)")
    common: dict[str, None] = {}
    for name, entry in RECIPES.items():
        exchange = ("share", "last_share", "until", "every") if entry.settings["share"] else ()
        settings = {**entry.own, **{key: entry.settings[key] for key in exchange}}
        common |= dict.fromkeys(key for key in entry.settings if key not in entry.own)
        shown.add_row(name, entry.summary, ", ".join(f"{key}={_typed(_rounded(one))}" for key, one in settings.items()))
    console = stdout()
    console.print(shown)
    console.print("every and within are steps, or below 1 shares of the fit, as until and ends are", soft_wrap=True)
    console.print(f"in all: layout=erk or uniform, {', '.join(common)}", soft_wrap=True)
    console.print(f"drop is one of {', '.join(DROP)}; grow of {', '.join(GROW)}, or null", soft_wrap=True)


def _rounded(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def list_data(root: str | Path | None = None) -> None:
    """Prints the data sets that are known by name, and whether they are here."""
    from bayesprune.data.named_sets import DATASETS
    from bayesprune.data.sets import available

    shown = table("data", "what it is", "")
    for name, summary in DATASETS.items():
        shown.add_row(name, summary, "here" if available(name, root) else "needs a download")
    console = stdout()
    console.print(shown)
    console.print(
        "Also: a folder train/CLASS/*.png, or a FILE.npz with arrays x, y and, where there are, x_test, y_test"
    )


def _branches(found: Summary) -> str:
    """How many residual branches with a gate are left."""
    rows = (found.get("branches") or {}).values()
    return f"{sum(row['left'] for row in rows)} of {len(rows)}" if rows else "-"


def _typed(value: object) -> str:
    """A default as `--set` would take it."""
    return value if isinstance(value, str) else json.dumps(value)


def _short(reference: Any) -> str:
    """`FILE.py:NAME` without the folders; others unchanged."""
    place, colon, name = str(reference).rpartition(":")
    return f"{Path(place).name}:{name}" if colon else name
