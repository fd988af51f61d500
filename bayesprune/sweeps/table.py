"""A sweep as tables: live while it runs, as lines where nobody looks at a terminal, and its report at the end."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bayesprune.commands.console import figure, percent, stdout, table
from bayesprune.commands.plain_text import neutral
from bayesprune.sweeps.fit_settings import settings_as_options
from bayesprune.sweeps.front import write_front
from bayesprune.sweeps.loading import load_sweep
from bayesprune.sweeps.sweep_result import COMPLETE, FAILED, PRUNED, RUNNING, WAITING, Sweep, SweepFit

__all__ = ["SweepView", "print_sweep", "repeating_command", "settings_text", "show_sweep"]

ORDER = (RUNNING, FAILED, PRUNED, COMPLETE, WAITING)
"""Of states in the live table, where there is no room for all fits."""
_SHARES = ("accuracy", "density")
"""What is shown in percent."""
_AROUND = 8
"""Lines of a terminal that are not rows of the live table."""


class SweepView:
    """Shows a sweep while it runs: a table in place where there is a terminal, else a line for each fit that ends.

    Everything goes to standard error, as the progress of a fit does.

    Args:
        total: How many fits there will be; default None: it is not known.
        console: Where to; default None: standard error.
    """

    def __init__(self, total: int | None = None, console: Console | None = None) -> None:
        self.total = total
        self.console = Console(stderr=True, markup=False, highlight=False, emoji=False) if console is None else console
        self._live: Live | None = None
        self._told: set[tuple[str, int]] | None = None

    def __enter__(self) -> SweepView:
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError):  # the terminal may be closed
                self._live.stop()

    def show(self, sweep: Sweep) -> None:
        """Shows how far it is by now: the table anew, or lines for what has ended since the last call.

        What had ended before the first call is told in one line.
        """
        if self._live is not None:
            self._live.update(_live_table(sweep, self.total, max(4, self.console.height - _AROUND)), refresh=True)
            return
        ended = [one for one in sweep.fits if one.state in (COMPLETE, PRUNED, FAILED)]
        if self._told is None:
            self._told = {_name(one) for one in ended}
            if ended:
                self._print(f"{len(ended)}{self._of()} fits were done before")
            return
        for one in ended:
            if _name(one) not in self._told:
                self._told.add(_name(one))
                self._print(f"{len(self._told)}{self._of()}  {_ended(one, sweep)}")

    def _of(self) -> str:
        return "" if self.total is None else f" of {self.total}"

    def _print(self, line: str) -> None:
        self.console.print(neutral(line), soft_wrap=True)


def show_sweep(folder: str | Path, plots: bool = False) -> None:
    """Prints what a sweep came to, or how far it is; writes its fronts where asked.

    Args:
        folder: Its folder.
        plots: Whether to write front.json and front.png; default False.

    Raises:
        ValueError: If it is none, or a file is damaged.
        OSError: If the files cannot be written.
    """
    sweep = load_sweep(folder)
    print_sweep(sweep)
    for file in write_front(sweep) if plots else ():
        stdout().print(f"written: {file}", soft_wrap=True)


def print_sweep(sweep: Sweep) -> None:
    """Prints what a sweep came to: its settings over their seeds, failures, the front, the best and how to repeat it.

    Args:
        sweep: The sweep.
    """
    console = stdout()
    for sentence in sweep.missing:
        console.print(f"note: {sentence}", soft_wrap=True)
    counts = Counter(one.state for one in sweep.fits)
    told = ", ".join(f"{counts[state]} {state}" for state in dict.fromkeys((COMPLETE, *ORDER)) if counts[state])
    if not sweep.settings:
        console.print(f"{told or 'no fits'}: none is complete yet", soft_wrap=True)
        _print_failures(console, sweep)
        return
    console.print(_settings_table(sweep))
    seeds = sweep.table.sizes["seed"]
    means = "" if seeds == 1 else f"means of up to {seeds} seeds +- sd; "
    console.print(f"{told} fits; {means}numbers: on the front of {_front_words(sweep)}", soft_wrap=True)
    _print_failures(console, sweep)
    objective = sweep.objectives[0]
    best, scores = sweep.best(objective)
    console.print(f"best {_words(objective)}: {settings_text(best)} ({_scores_text(scores, sweep)})", soft_wrap=True)
    for one in sweep.fits_of(best):
        if one.state == COMPLETE and one.run is not None:
            console.print(f"its fit of seed {one.seed}: {one.run}", soft_wrap=True)
    console.print(f"the same again: {repeating_command(sweep)}", soft_wrap=True)


def repeating_command(sweep: Sweep, out: Path | None = None) -> str:
    """The command that fits the best setting once more, with the first of its seeds.

    Args:
        sweep: The sweep, one fit of which is complete.
        out: The run folder to make; default None: ``best`` in the folder of the sweep.

    Raises:
        ValueError: If no fit is complete.
    """
    settings, _ = sweep.best()
    seed = min(one.seed for one in sweep.fits_of(settings) if one.state == COMPLETE)
    options = settings_as_options({**sweep.asked, **settings, "seed": seed})
    place = shlex.quote(str(sweep.folder / "best" if out is None else out))
    return " ".join(["bayesprune fit", *options, "--out", place])


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings in a line: ``kappa=1, learning-rate=0.01``, names without the option that takes them."""
    return ", ".join(f"{_short(settings, name)}={_value(value)}" for name, value in settings.items()) or "as given"


# ------------------------------------------------------------------------------------------------- parts


def _live_table(sweep: Sweep, total: int | None, rows: int) -> Group:
    """The fits that matter most, as many as there is room for; what is done; the best so far."""
    columns = _columns(sweep)
    names = _setting_names(sweep)
    heads = [*(_short(names, name) for name in names), "seed", "state", "epoch", *map(_words, columns), "worker"]
    shown = table("trial", *heads, numbers=("trial", "epoch"))
    ranked = sorted(sweep.fits, key=_first_shown)
    for one in ranked[:rows]:
        cells = ["-" if one.trial is None else str(one.trial)]
        cells += [_value(one.settings.get(name, "-")) for name in names]
        cells += [str(one.seed), one.state, figure(one.epoch)]
        cells += [_cell(name, one.scores.get(name)) for name in columns]
        shown.add_row(*(neutral(cell) for cell in [*cells, one.worker or "-"]))
    counts = Counter(one.state for one in sweep.fits)
    done = counts[COMPLETE] + counts[PRUNED] + counts[FAILED]
    told = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])
    lines = [f"{done}{'' if total is None else f' of {total}'} done: {told or 'nothing yet'}"]
    if len(ranked) > rows:
        lines[0] += f"; {len(ranked) - rows} are not shown"
    with contextlib.suppress(ValueError):  # none is complete
        best, scores = sweep.best()
        lines.append(f"best so far: {settings_text(best)} ({_scores_text(scores, sweep)})")
    return Group(shown, *(Text(neutral(line)) for line in lines))


def _first_shown(one: SweepFit) -> tuple[int, int, int]:
    """What runs first, then what has ended last; of what waits, what comes next."""
    trial = one.trial or 0
    return ORDER.index(one.state), trial if one.state == WAITING else -trial, one.seed


def _settings_table(sweep: Sweep) -> Table:
    """One row a setting, from the best to the worst."""
    columns, over_seeds, names = _columns(sweep), sweep.over_seeds, _setting_names(sweep)
    fronts = {size: sweep.front(against=size) for size in sweep.sizes if size != "nonzero"}
    heads = [f"front {size}" for size in fronts]
    settings = [_short(names, name) for name in names]
    shown = table(*settings, "seeds", *map(_words, columns), *heads, numbers=("seeds", *map(_words, columns), *heads))
    order = _from_the_best(sweep)
    for place in order:
        at = over_seeds.isel(setting=place)
        cells = [_value(sweep.settings[place].get(name, "-")) for name in names]
        cells += [str(int(at.seeds))]
        cells += [_cell(name, float(at[name]), float(at[f"{name}_sd"])) for name in columns]
        for front in fronts.values():
            found = front.number.values[front.setting.values == place]
            cells.append(str(found[0]) if len(found) else "")
        shown.add_row(*cells)
    return shown


def _from_the_best(sweep: Sweep) -> list[int]:
    """Places of the settings, by the first objective."""
    objective = sweep.objectives[0]
    means = sweep.over_seeds
    if objective not in means:
        return list(range(len(sweep.settings)))
    sign = -1.0 if objective.endswith("accuracy") else 1.0
    values, seeds = sign * means[objective].values, means.seeds.values
    # A mean of fewer seeds than others have is none to compare: it comes last.
    return sorted(range(len(values)), key=lambda place: (math.isnan(values[place]), -seeds[place], values[place]))


def _print_failures(console: Console, sweep: Sweep) -> None:
    for one in sweep.fits:
        if one.state == FAILED:
            console.print(f"failed: {settings_text(one.settings)}, seed {one.seed}: {one.problem}", soft_wrap=True)


def _ended(one: SweepFit, sweep: Sweep) -> str:
    """A fit that has ended, in a line."""
    trial = "" if one.trial is None else f"trial {one.trial}: "
    what = f"{trial}{settings_text(one.settings)}, seed {one.seed}: "
    if one.state == COMPLETE:
        return what + _scores_text(one.scores, sweep)
    return what + one.state + (f", {one.problem}" if one.problem else "")


def _scores_text(scores: Mapping[str, float | None], sweep: Sweep) -> str:
    return ", ".join(f"{_words(name)} {_cell(name, scores.get(name))}" for name in _columns(sweep))


def _columns(sweep: Sweep) -> list[str]:
    """Names of the scores that are shown: the objectives, then the first score of each part of the data, the sizes."""
    have = dict.fromkeys(name for one in sweep.fits for name in one.scores)
    wanted = [*sweep.objectives, "validation_accuracy", "validation_rmse", "validation_nll"]
    wanted += ["test_accuracy", "test_rmse", "density", "macs", "latency", "seconds"]
    measured = {name for one in sweep.fits for name, value in one.scores.items() if value is not None}
    return [name for name in dict.fromkeys(wanted) if name in have and name in measured]


def _setting_names(sweep: Sweep) -> list[str]:
    return list(dict.fromkeys(name for one in sweep.fits for name in one.settings))


def _cell(name: str, value: float | None, spread: float = math.nan) -> str:
    """A score as it is read: shares in percent, times in seconds or milliseconds, the rest to four digits."""
    if value is None or math.isnan(value):
        return "-"
    if name.endswith(_SHARES):
        return percent(value, 2) + ("" if math.isnan(spread) else f" +- {100 * spread:.2f}")
    if name in ("macs", "nonzero"):
        return f"{value:,.0f}" + ("" if math.isnan(spread) else f" +- {spread:,.0f}")
    if name == "latency":
        return f"{1e3 * value:.3g} ms"
    if name == "seconds":
        return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"
    return figure(float(value)) + ("" if math.isnan(spread) else f" +- {spread:.2g}")


def _words(name: str) -> str:
    return {"macs": "MACs"}.get(name, name.replace("_", " ").replace("nll", "NLL").replace("rmse", "RMSE"))


def _front_words(sweep: Sweep) -> str:
    sizes = [_words(size) for size in sweep.sizes if size != "nonzero"]
    return (
        f"{sweep.score} against {', '.join(sizes[:-1])}{' and ' if len(sizes) > 1 else ''}{sizes[-1]}" if sizes else ""
    )


def _short(names: Sequence[str] | Mapping[str, Any], name: str) -> str:
    """A name without the option that takes it, where no other ends in the same."""
    last = name.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in names) == 1 else name


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _name(one: SweepFit) -> tuple[str, int]:
    return (settings_text(one.settings), one.seed)
