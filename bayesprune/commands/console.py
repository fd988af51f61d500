"""How the commands print: tables of rich on standard output, figures to a few digits."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

__all__ = ["figure", "percent", "stdout", "table"]

WIDTH = 1000
"""Columns where the output is no terminal: a table in a file or pipe is as wide as it needs to be."""


def stdout() -> Console:
    """A console on standard output that leaves brackets and numbers as they are."""
    console = Console(markup=False, highlight=False, emoji=False)
    return console if console.is_terminal else Console(markup=False, highlight=False, emoji=False, width=WIDTH)


def table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """An empty table; the columns in `numbers` are set flush right."""
    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in per cent; a dash for None."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def figure(value: Any) -> str:
    """A number to four digits, a dash for None, anything else as text."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
