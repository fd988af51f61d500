"""`bayesprune show` of a run that is still being fitted, or was when its process ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from rich.table import Table

from bayesprune.commands.console import figure, percent, stdout, table
from bayesprune.commands.showing_gates import progress_gate_lines
from bayesprune.inference.tuning.trials import trials_kept
from bayesprune.inference.watching.trace_file import TRACE_FILE, UNREADABLE, RunningFit, read_progress, read_trace
from bayesprune.runs.part_folder import TUNING_FOLDER, what_is_kept
from bayesprune.runs.run_folder import PLOTS_FOLDER

__all__ = ["show_progress"]


def show_progress(folder: Path, plots: bool = False) -> None:
    """Prints how far a fit is: epochs, time left, objective, scores and sparsity by layer; writes plots where asked.

    Args:
        folder: A folder that `WriteTrace` writes.
        plots: Whether to write the plots of the trace to FOLDER/plots.

    Raises:
        ValueError: If a file is missing or damaged.
        OSError: If the plots cannot be written.
    """
    progress = read_progress(folder)
    trace = read_trace(folder) if (folder / TRACE_FILE).exists() else None
    console = stdout()
    with _sound(folder):
        lines = [*_asked(progress.asked), ("state", _state(progress)), ("progress", _progress(progress))]
        if not progress.alive:
            lines += _kept(folder, progress.restarts)
        if trace is not None:
            lines += _latest(trace)
            shown = _by_tensor(trace)
    for name, text in lines:
        console.print(f"{name:<12} {text}", soft_wrap=True)
    if trace is None:
        if plots:
            console.print("no plots yet: they are of epochs that are done", soft_wrap=True)
        return
    console.print()
    console.print(shown)
    if plots:
        with _sound(folder):
            files = _write_plots(trace, folder / PLOTS_FOLDER)
        for file in files:
            console.print(f"written: {file}", soft_wrap=True)


@contextlib.contextmanager
def _sound(folder: Path) -> Iterator[None]:
    """Says in a sentence that what could be read is not what a fit writes: other variables, sizes or types."""
    try:
        yield
    except OSError:  # a disk that is full
        raise
    except UNREADABLE as problem:
        reason = " ".join(str(problem).split())[:200]
        raise ValueError(
            f"{folder} holds what no fit has written ({reason}): is a fit writing its trace there?"
        ) from problem


def _by_tensor(trace: xr.Dataset) -> Table:
    """Sparsity and KL of each tensor after the last epoch."""
    last = _last_epoch(trace)
    near = "near_zero" in last and bool(last["near_zero"].notnull().any())
    columns = ("sparsity", *(("near zero",) if near else ()), "KL [nats]")
    shown = table("tensor", *columns, numbers=columns)
    for name in last.tensor.values:
        row = last.sel(tensor=name)
        shares = [row["sparsity"], *([row["near_zero"]] if near else [])]
        shown.add_row(str(name), *[_share(float(share)) for share in shares], f"{float(row.kl_of):,.0f}")
    return shown


def _asked(asked: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the fit was asked for, as far as it is known."""
    lines = [(key, str(asked[key])) for key in ("data", "network", "prior", "guide") if asked.get(key) is not None]
    settings = ", ".join(f"{key}={value}" for key, value in (asked.get("prior_settings") or {}).items())
    return [(key, f"{text} ({settings})" if key == "prior" and settings else text) for key, text in lines]


def _state(progress: RunningFit) -> str:
    written = f"last written {_duration(progress.age)} ago"
    where = f"process {progress.process} on {progress.host}"
    if not progress.alive:
        ended = "the fit has ended" if progress.finished else "the fit seems to have died"
        return f"{ended} ({where}); {written}"
    return f"{'fitted; scoring and writing' if progress.finished else 'in progress'} ({where}); {written}"


def _kept(folder: Path, restarts: int) -> list[tuple[str, str]]:
    """Where the command that was interrupted goes on."""
    try:
        kept = what_is_kept(folder)
    except ValueError as problem:
        return [("kept", str(problem))]
    if kept is None:
        if trials := trials_kept(folder / TUNING_FOLDER):
            return [("kept", f"trials of --tune, {trials} so far: the same command goes on there")]
        return [("kept", "no state of training: the same command begins anew")]
    if kept.finished and kept.restart + 1 == restarts:
        return [("kept", "the fit, which is done: the same command scores and writes it")]
    of_restart = f" of restart {kept.restart + 1}" if restarts > 1 else ""
    return [("kept", f"the state after epoch {kept.epoch}{of_restart}: the same command goes on there")]


def _progress(progress: RunningFit) -> str:
    if not progress.step:
        return "no epoch is done yet"
    of_restart = f", restart {progress.restart + 1} of {progress.restarts}" if progress.restarts > 1 else ""
    is_told = progress.epochs > 0  # which a loop of one's own does not
    left = (
        ""
        if progress.finished or not progress.alive or not is_told
        else f", about {_duration(progress.seconds_left)} left"
    )
    of = f" of {progress.epochs}" if is_told else ""
    return f"epoch {progress.epoch}{of}{of_restart}; {_duration(progress.seconds)} so far{left}"


def _last_epoch(trace: xr.Dataset) -> xr.Dataset:
    """The last epoch of the restart under way."""
    return trace.isel(restart=-1).dropna("epoch", how="all", subset=["loss"]).isel(epoch=-1)


def _latest(trace: xr.Dataset) -> list[tuple[str, str]]:
    """Objective, scores and sparsity after the last epoch."""
    last = _last_epoch(trace)
    likelihood, kl = float(last.expected_log_likelihood), float(last.kl)
    whole, first, second = (
        ("log joint", "log-likelihood", "log prior") if trace.attrs["is_map"] else ("ELBO", "E[log-likelihood]", "KL")
    )
    second_part = f"{second} {-kl:,.0f}" if trace.attrs["is_map"] else f"{second} {kl:,.0f}"
    weight = float(last.kl_weight)
    tempered = "" if np.isclose(weight, 1.0) else f"; weight of the KL term {weight:.2g}"
    scores = {str(name): float(last[name]) for name in last.data_vars if str(name).startswith("validation_")}
    lines = [("objective", f"{whole} {likelihood - kl:,.0f} nats: {first} {likelihood:,.0f}, {second_part}{tempered}")]
    if scores:
        parts = [f"{name.removeprefix('validation_')} {figure(value)}" for name, value in scores.items()]
        lines.append(("validation", ", ".join(parts)))
    lines.append(("sparsity", _share(float(last.network_sparsity))))
    if "network_near_zero" in last and np.isfinite(float(last["network_near_zero"])):
        lines.append(("near zero", f"{_share(float(last['network_near_zero']))} below a tenth of their layer's rms"))
    return [*lines, *progress_gate_lines(trace)]


def _share(value: float) -> str:
    """A share of weights in percent; a dash where it is not known or means nothing."""
    return percent(value, 2) if np.isfinite(value) else "-"


def _write_plots(trace: xr.Dataset, folder: Path) -> list[Path]:
    from bayesprune.analysis.plots.gates import plot_gates
    from bayesprune.analysis.plots.mask_churn import has_masks, plot_masks
    from bayesprune.analysis.plots.pruning_trace import plot_pruning_trace
    from bayesprune.analysis.plots.thresholds import has_thresholds, plot_thresholds
    from bayesprune.analysis.plots.trajectories import plot_trajectories, recorded_kinds
    from bayesprune.analysis.plots.units import plot_units

    folder.mkdir(exist_ok=True)
    drawn: dict[str, Callable[..., Any]] = {"pruning_trace": partial(plot_pruning_trace, trace)}
    if recorded_kinds(trace):
        drawn["trajectories"] = partial(plot_trajectories, trace)
    if has_thresholds(trace):
        drawn["thresholds"] = partial(plot_thresholds, trace)
    if has_masks(trace):
        drawn["masks"] = partial(plot_masks, trace)
    if "theta" in trace:
        latest = trace.sizes["restart"] - 1
        drawn |= {"gates": partial(plot_gates, trace, latest), "units": partial(plot_units, trace, latest)}
    for name, draw in drawn.items():
        draw(path=folder / f"{name}.png")
    return [folder / f"{name}.png" for name in drawn]


def _duration(seconds: float) -> str:
    """A time in the two largest of its units."""
    whole = round(seconds)
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
