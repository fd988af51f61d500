"""`bayesprune compare`, `priors`, `recipes` and `data`: what prints a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from bayesprune.cli.options import (
    DataRoot,
    example,
    place_argument,
)

COMPARE_EXAMPLES = example("bayesprune compare runs/spike runs/halo")
PRIORS_EXAMPLES = example("bayesprune priors")
RECIPES_EXAMPLES = example("bayesprune recipes")
DATA_EXAMPLES = example("bayesprune data")


def compare(
    runs: Annotated[list[Path], place_argument("Run folders.", "RUN...")],
) -> None:
    """Compare runs in a table."""
    from bayesprune.commands.tables import compare_runs

    compare_runs(runs)


def priors() -> None:
    """List the ready priors and their settings."""
    from bayesprune.commands.tables import list_priors

    list_priors()


def recipes() -> None:
    """List the recipes of sparse training and their settings."""
    from bayesprune.commands.tables import list_recipes

    list_recipes()


def data(data_root: DataRoot = None) -> None:
    """List the data sets that have a name."""
    from bayesprune.commands.tables import list_data

    list_data(data_root)
