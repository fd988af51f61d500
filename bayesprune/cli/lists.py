"""`bayesprune compare`, `priors` and `data`: what prints a table."""

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


def data(data_root: DataRoot = None) -> None:
    """List the data sets that have a name."""
    from bayesprune.commands.tables import list_data

    list_data(data_root)
