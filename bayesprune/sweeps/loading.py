"""Reads a sweep back: its fits from their records, and what only the storage knows from there, where it is reached."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bayesprune.inference.watching.trace_file import RunningFit, read_progress
from bayesprune.models.files.places import expanded
from bayesprune.runs.part_folder import part_folder
from bayesprune.sweeps.sweep_result import COMPLETE, FAILED, RUNNING, WAITING, Sweep, SweepFit
from bayesprune.sweeps.trial import Record, read_record

__all__ = ["fits_on_disk", "load_sweep"]

_RECORD = re.compile(r"[0-9a-f]{16}\.json")
"""Names of the records of fits; others in the folder are of the sweep itself, or somebody else's."""


def load_sweep(folder: str | Path) -> Sweep:
    """Reads a sweep, as far as it is.

    Args:
        folder: Its folder.

    Returns:
        Its fits and scores; `Sweep.front` and `Sweep.best` choose among them, `plot_sweep` draws them.

    Raises:
        ValueError: If there is no sweep, or a file is damaged.
    """
    place = expanded(folder)
    if not place.is_dir():
        raise ValueError(f"there is no folder {place} of a sweep: make it with bayesprune sweep --out {place}")
    records = list(_records(place))
    if not records:
        raise ValueError(f"{place} is no folder of a sweep, or none of its fits has begun: look at another one")
    fits = tuple(_fit(file, record) for file, record in records)
    return Sweep(place, records[0][1].arguments, ("validation_nll",), fits)


def fits_on_disk(folder: Path) -> list[SweepFit]:
    """The fits of a folder by their records alone: complete, failed, running, or waiting to be gone on with.

    Args:
        folder: The folder of a sweep, or of a `RunTrial`.

    Raises:
        ValueError: If a record is damaged.
    """
    return [_fit(file, record) for file, record in _records(folder)]


def _records(folder: Path) -> Iterator[tuple[Path, Record]]:
    for file in sorted(folder.iterdir()):
        if _RECORD.fullmatch(file.name):
            yield file, read_record(file)


def _fit(file: Path, record: Record) -> SweepFit:
    """A fit by its record, and by what stands beside it."""
    run = file.with_suffix("")
    settings = {name: value for name, value in record.settings.items() if name != "seed"}
    seed = int(record.settings.get("seed", record.arguments.get("seed", 0)))
    if record.scores is not None:
        scores = {name: _score(value) for name, value in record.scores.items() if not isinstance(value, str)}
        return SweepFit(settings, seed, COMPLETE, run, None, scores)
    progress = _progress(part_folder(run))
    epoch = None if progress is None else progress.restart * progress.epochs + progress.epoch
    if progress is not None and progress.alive:
        return SweepFit(settings, seed, RUNNING, run, None, {}, epoch, f"{progress.host}:{progress.process}")
    state = WAITING if record.problem is None else FAILED
    return SweepFit(settings, seed, state, run, None, {}, epoch, None, record.problem)


def _score(value: Any) -> float | None:
    return None if value is None else float(value)


def _progress(folder: Path) -> RunningFit | None:
    with contextlib.suppress(ValueError):  # it is not there, or is being removed
        return read_progress(folder)
    return None
