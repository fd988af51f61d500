"""One look for every figure: colours, sizes and file formats. Matplotlib is imported on first use."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayesprune.models.files.new_file import written_over
from bayesprune.models.files.places import expanded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that stay apart for colour-blind readers (Okabe & Ito 2008), less yellow, lost on white."""
POSTERIOR, PRIOR = COLOURS[0], "#8A8A8A"
SEQUENTIAL = "cividis"
"""Colour map of probabilities and counts."""
PANEL = (3.4, 2.6)
"""Width and height of a panel in inches."""
TITLE_LETTERS = 11.5
"""Letters of a figure's title on an inch."""
LEGEND_LINE = 0.21
"""Height in inches of a line of a legend."""
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (3, 1, 1, 1)),
    (0, (1, 1)),
    (0, (8, 2)),
    (0, (5, 1, 1, 1, 1, 1)),
    "-",
)
"""Dashes of lines, one for each of `COLOURS`: those are alike in grey."""
SUFFIXES = (".svg", ".pdf", ".png")
_SETTINGS: dict[str, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.formatter.useoffset": False,
    "figure.titlesize": 10.5,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "lines.linewidth": 1.1,
    "savefig.dpi": 150,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "bayesprune",  # the same figure gives the same file
    "pdf.fonttype": 42,
}


@contextmanager
def styled() -> Iterator[None]:
    """Sets the look for the figures made inside, and puts the user's settings back."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        yield


def new_figure(
    rows: int, columns: int, title: str, panel: tuple[float, float] = PANEL, **layout: Any
) -> tuple[Figure, list[Any]]:
    """A figure of panels that belongs to no window and no global state.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        title: Title of the figure; lines that are wider than it are broken.
        panel: Width and height of a panel in inches; default `PANEL`.
        layout: Further arguments of `Figure.subplots`, such as ``width_ratios``; default: equal panels.

    Returns:
        The figure and its axes, row by row.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * panel[0], rows * panel[1] + 0.4), layout="constrained")
    letters = int(TITLE_LETTERS * columns * panel[0])
    figure.suptitle("\n".join(textwrap.fill(line, letters) for line in title.split("\n")), x=0.01, ha="left")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **layout).flat)


def check_path(path: str | Path | None) -> None:
    """Refuses a file name of an unknown format before any work is done.

    Raises:
        ValueError: If the suffix is none of `SUFFIXES`, or the folder does not exist, or the file is a folder.
    """
    if path is None:
        return
    path = expanded(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} has no format that a figure can be written in: end it in {', '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"the folder of {path} does not exist: make it first")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file to write the figure to")


def finished(figure: Figure, path: str | Path | None) -> Figure:
    """Makes room for legends, writes the figure if there is a path, its suffix saying the format, and returns it.

    A file that is there is replaced, once the new one is complete; a link stays, and what it leads to is replaced.

    Raises:
        OSError: If it cannot be written.
    """
    _room_for_legends(figure)
    if path is not None:
        metadata = {"Date": None} if Path(path).suffix.lower() == ".svg" else None
        with written_over(os.path.realpath(expanded(path)), lambda _: True, "a file") as staged:
            figure.savefig(staged, format=Path(path).suffix[1:].lower(), metadata=metadata)
    return figure


def legend_below(axis: Any, below: float | None = None) -> None:
    """Puts the legend of an axis under it, where it cannot lie on the data; nothing where no line has a label.

    Args:
        axis: The axis, its labels set.
        below: Distance from the axis in inches; default None: room for the numbers and the label of its lower side.
    """
    from matplotlib.transforms import ScaledTranslation

    handles, labels = axis.get_legend_handles_labels()
    if not handles:
        return
    if below is None:
        below = 0.48 if axis.get_xlabel() else 0.25
    axis.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(0.0, 0.0),
        bbox_transform=axis.transAxes + ScaledTranslation(0.0, -below, axis.figure.dpi_scale_trans),
        ncols=_columns(axis, labels),
        borderaxespad=0.0,
        handlelength=1.6,
        columnspacing=1.0,
    )


def _columns(axis: Any, labels: list[str]) -> int:
    """Columns of a legend under an axis that are not wider than its panel."""
    width = axis.figure.get_size_inches()[0] / axis.get_subplotspec().get_gridspec().ncols - 0.3
    entry = 0.4 + 0.064 * max(map(len, labels))  # inches of handle and text
    return max(1, min(len(labels), int(width // entry)))


def _room_for_legends(figure: Figure) -> None:
    """Makes a figure higher by the legends under its panels, so that the panels keep their size."""
    lines: dict[int, int] = {}
    for axis in figure.axes:
        legend, place = axis.get_legend(), axis.get_subplotspec()
        if legend is not None and place is not None:
            labels = [text.get_text() for text in legend.get_texts()]
            row = place.rowspan.start
            lines[row] = max(lines.get(row, 0), -(-len(labels) // _columns(axis, labels)))
    extra = sum(LEGEND_LINE * count + 0.08 for count in lines.values())
    figure.set_figheight(figure.get_figheight() + extra)


def narrow_log_axis(axis: Any, low: float, high: float) -> None:
    """Numbers between the powers of ten of a logarithmic x axis that spans less than two of them.

    Args:
        axis: The axis, logarithmic.
        low: Its lower end.
        high: Its upper end.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if high >= 100.0 * low:
        return
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high > 15.0 * low else (1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def of_name(name: str, what: str, letters: int) -> str:
    """Title of a panel, a name and what is said of it, on two lines where one has not room for that many letters."""
    return f"{name}, {what}" if len(name) + len(what) + 2 <= letters else f"{name},\n{what}"


def line_look(number: int) -> dict[str, Any]:
    """Colour and dashes of the `number`-th of several lines, apart in colour and in grey; they repeat after seven."""
    return {"color": colour(number), "ls": DASHES[number % len(DASHES)]}


def colour(number: int) -> str:
    """The colour of the `number`-th of several lines; they repeat after seven."""
    return COLOURS[number % len(COLOURS)]
