"""`bayesprune compare`, `priors` and `data`: tables."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import Parameter
from pathlib import Path

from bayesprune.commands.console import figure, percent, stdout, table
from bayesprune.run_folder import read_summary

__all__ = ["compare_runs", "list_data", "list_priors"]


def compare_runs(runs: Sequence[str | Path]) -> None:
    """Prints one row a run, from their summaries.

    Raises:
        ValueError: If one is no run folder, or its summary is damaged.
    """
    summaries = [read_summary(run) for run in runs]
    columns = ("run", "data", "network", "prior", "guide", "accuracy", "rmse", "nll", "ece", "sparsity", "median-prob.", "kind")
    columns += ("epochs", "seconds", "seeds", "converged")
    shown = table(*columns, numbers=("accuracy", "rmse", "nll", "ece", "sparsity", "median-prob.", "epochs", "seconds"))
    for run, found in zip(runs, summaries, strict=True):
        shown.add_row(
            str(run), Path(found["data"]).name, _short(found["network"]), _short(found["prior"]), str(found["guide"]),
            percent(found["test_accuracy"]), figure(found["test_rmse"]), figure(found["nll"]), figure(found["ece"]),
            percent(found["sparsity"], 2), percent(found["median_probability_sparsity"], 2), ", ".join(found["kinds"]) or "-",
            str(found["epochs"]), f"{found['seconds']:.0f}", " ".join(map(str, found["seeds"])),
            found["converged"] + (", tempered" if found["tempered"] else ""),
        )  # fmt: skip
    console = stdout()
    console.print(shown)
    kinds = {kind for found in summaries if found["median_probability_sparsity"] is not None for kind in found["kinds"]}
    if len(kinds) > 1:
        console.print(f"Median-probability sparsities of unlike kinds ({', '.join(sorted(kinds))}) are not comparable.")
    if len({(found["data"], found["data_seed"]) for found in summaries}) > 1:
        console.print("The runs differ in their data, or in the seed of the validation split.")


def list_priors() -> None:
    """Prints the ready priors with their settings."""
    from bayesprune.models.priors import PRIORS

    shown = table("prior", "what it is", "settings (--set key=value)")
    for name, entry in PRIORS.items():
        settings = [key if value is Parameter.empty else f"{key}={_plain(value)}" for key, value in entry.settings.items()]
        shown.add_row(name, entry.summary, ", ".join(settings))
    console = stdout()
    console.print(shown)
    console.print("None leaves the choice to the prior. One of your own: --prior FILE.py:NAME")


def list_data(root: str | Path | None = None) -> None:
    """Prints the data sets that are known by name, and whether they are here."""
    from bayesprune.data import DATASETS, available

    shown = table("data", "what it is", "")
    for name, summary in DATASETS.items():
        shown.add_row(name, summary, "here" if available(name, root) else "needs a download")
    console = stdout()
    console.print(shown)
    console.print("Also: a folder train/CLASS/*.png, or a FILE.npz with arrays x, y and, if there is one, x_test, y_test")


def _plain(value: object) -> str:
    return value if isinstance(value, str) else f"{value}".lower() if isinstance(value, bool) else str(value)


def _short(reference: str) -> str:
    """`FILE.py:NAME` without the folders; others unchanged."""
    place, colon, name = reference.rpartition(":")
    return f"{Path(place).name}:{name}" if colon else reference
