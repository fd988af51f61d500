"""How the commands print: tables of rich on standard output, figures to a few digits.

Everything is printed by the console of `stdout`, which writes out what a terminal would obey: names of data sets,
tensors and folders come out of files that others may have written.
"""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bayesprune.commands.plain_text import neutral

__all__ = ["figure", "percent", "print_lines", "stdout", "table"]

WIDTH = 1000
"""Columns where the output is no terminal: a table in a file or pipe is as wide as it needs to be."""


class _PlainConsole(Console):
    """A console for which text is text: no markup, no colours of numbers, and nothing that a terminal obeys."""

    def __init__(self, width: int | None = None) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, width=width)

    def render_str(self, text: str, **how: Any) -> Text:
        """A text, be it printed or the cell of a table, as rich will set it."""
        return super().render_str(neutral(text), **how)


def stdout() -> Console:
    """A console on standard output; a text is one line of it, and what a terminal would obey is written out."""
    console = _PlainConsole()
    return console if console.is_terminal else _PlainConsole(WIDTH)


def print_lines(console: Console, text: str) -> None:
    """Prints a text of several lines, whose line breaks are ours."""
    for line in text.split("\n"):
        console.print(line, soft_wrap=True)


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
