"""A bar on standard error that counts jobs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

__all__ = ["job_bar"]


@contextlib.contextmanager
def job_bar(name: str, total: int, is_wanted: bool) -> Iterator[Callable[[], None]]:
    """A bar on standard error.

    Args:
        name: What is counted.
        total: How many there are.
        is_wanted: Whether it is shown.

    Returns:
        A context manager of a function that counts one more.
    """
    if not is_wanted:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total)
        yield lambda: bar.advance(task)
