"""`bayesprune search`: an architecture for a data set, in a folder that a second call goes on with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bayesprune.analysis.structure.performance_predictor import PerformancePredictor
from bayesprune.analysis.structure_plots.search import plot_search
from bayesprune.commands.console import print_lines, stdout
from bayesprune.data.sets import load_data
from bayesprune.inference.search.history import SEARCH_FILE, Training
from bayesprune.inference.search.search import search
from bayesprune.inference.search.searched import Searched
from bayesprune.inference.search.surrogate import Surrogate
from bayesprune.models.files.places import expanded
from bayesprune.models.genomes.search_space import SearchSpace

__all__ = ["SURROGATES", "is_search", "print_search", "search_architecture", "show_search"]

SURROGATES: dict[str, Callable[[int], Surrogate | None]] = {
    "random-forest": lambda seed: PerformancePredictor("random-forest", seed),
    "gaussian-process": lambda seed: PerformancePredictor("gaussian-process", seed),
    "bayesian-ridge": lambda seed: PerformancePredictor("bayesian-ridge", seed),
    "none": lambda seed: None,
}
"""Surrogates of a seed, by name."""
FIGURE_FILE = "search.png"


def search_architecture(
    out: str | Path,
    data: str,
    trainings: int = 40,
    strategy: str = "evolution",
    surrogate: str | None = None,
    operations: Sequence[str] | None = None,
    widths: Sequence[int] = (8, 16, 32),
    most_vertices: int = 7,
    most_edges: int = 14,
    most_parameters: int = 1_000_000,
    data_root: str | Path | None = None,
    seed: int = 0,
    progress: bool = False,
    **how: Any,
) -> Searched:
    """Searches for an architecture, or goes on with the search in the folder, and draws its course.

    Args:
        out: The folder.
        data: A data set by name, a folder or a file, with labels.
        trainings: How many in all.
        strategy: ``"evolution"`` or ``"random"``.
        surrogate: A name in `SURROGATES`; default None: a random forest for evolution, none for random search.
        operations: Of the space (`SearchSpace`); default None: by kind of the inputs.
        widths: Of the space.
        most_vertices: Of the space.
        most_edges: Of the space.
        most_parameters: Of the space.
        data_root: Folder where a named data set is looked for first.
        seed: Of the search and of the validation split.
        progress: Whether a line on standard error tells how far it is.
        **how: Further arguments of `search`: population, workers, epochs, ...

    Returns:
        What was found.

    Raises:
        ValueError: For bad input, before training starts; if the folder holds something else.
        OSError: If the folder cannot be written.
    """
    name = surrogate if surrogate is not None else ("none" if strategy == "random" else "random-forest")
    if name not in SURROGATES:
        raise ValueError(f"surrogate {name!r} is unknown: expected one of {', '.join(SURROGATES)}")
    splits = load_data(data, seed=seed, root=data_root)
    if splits.classes is None:
        raise ValueError(f"the targets of {splits.name} are numbers, but bayesprune search looks for classifiers")
    if not len(splits.validation[0]):
        raise ValueError(f"{data} has no validation data, on which genomes are chosen: give more examples")
    space = SearchSpace(
        splits.input_shape, splits.classes, None if operations is None else tuple(operations), tuple(widths),
        most_vertices, most_edges, most_parameters,
    )  # fmt: skip
    try:
        with _progress(trainings, progress) as callback:
            found = search(
                splits.train, space, validation=splits.validation, trainings=trainings, strategy=strategy,
                surrogate=SURROGATES[name](seed), seed=seed, folder=out, callback=callback, **how,
            )  # fmt: skip
    except ValueError:
        raise
    except BaseException as stop:
        stop.add_note(f"the same command goes on with what is finished in {out}")
        raise
    if any(one is not None for one in found.best_so_far):
        plot_search(found, expanded(out) / FIGURE_FILE)
    return found


def is_search(folder: Path) -> bool:
    """Whether a folder is that of a search."""
    return (folder / SEARCH_FILE).is_file()


def show_search(folder: Path) -> None:
    """Prints the trainings of a folder, of a search that is still running too.

    Raises:
        ValueError: If it is damaged.
    """
    print_lines(stdout(), str(Searched.load(folder)))


def print_search(out: Path, found: Searched, data: str) -> None:
    """Prints the table of a search, and what may be done next."""
    console = stdout()
    print_lines(console, str(found))
    console.print(f"written to {out}: {SEARCH_FILE}, {FIGURE_FILE}", soft_wrap=True)
    console.print(
        f"next: bayesprune fit --data {data} --network genome --network-set genome={out} --prior spike-and-slab "
        f"--out {out}-fit",
        soft_wrap=True,
    )


@contextlib.contextmanager
def _progress(trainings: int, is_wanted: bool) -> Iterator[Callable[[Training], None] | None]:
    """A bar on standard error, and the callback that moves it."""
    if not is_wanted:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("search"), BarColumn(bar_width=20), MofNCompleteColumn(),
        TextColumn("{task.fields[report]}", markup=False), TimeElapsedColumn(),
    )  # fmt: skip
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("search", total=trainings, report="")
    best: list[float] = []

    def moved(training: Training) -> None:
        bar.start()  # not before: what is refused is refused in one line
        if training.score is not None:
            best[:] = [max([training.score, *best])]
        told = "failed" if training.score is None else f"score {training.score:.4f}"
        bar.update(task, completed=training.number + 1, report=f"{told}  best {best[0]:.4f}" if best else told)

    try:
        yield moved
    finally:
        if bar.live.is_started:
            bar.stop()
