"""A ledger of finished runs: an experiment that is started again goes on where it stopped, and states its cost."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from scipy import stats


class Ledger:
    """Results of runs by name, in one JSON file that is replaced after every run.

    Args:
        path: The file; made with its folder.
        beside: Files of other shards of the same experiment, which are read and never written; default none.
    """

    def __init__(self, path: str | Path, beside: Iterable[str | Path] = ()) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.beside = [other for other in map(Path, beside) if other != self.path]
        self.runs: dict[str, dict[str, Any]] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def found(self) -> dict[str, dict[str, Any]]:
        """All runs that are finished, those of other shards as their files are now."""
        others = [json.loads(other.read_text()) for other in self.beside if other.exists()]
        return {name: run for runs in (*others, self.runs) for name, run in runs.items()}

    def run(self, name: str, function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns the result of a run: from the files where it is there, else by running it."""
        found = self.found()
        if name in found:
            return found[name]
        begin, busy = time.perf_counter(), time.process_time()
        result = function()
        wall, work = (time.perf_counter() - begin) / 60, (time.process_time() - busy) / 60
        self.runs[name] = {**result, "minutes": work, "wall_minutes": wall}
        staging = self.path.with_suffix(".part")
        staging.write_text(json.dumps(self.runs, indent=1))
        os.replace(staging, self.path)
        shown = {k: round(v, 4) for k, v in self.runs[name].items() if isinstance(v, float)}
        print(f"{name}: {shown}", flush=True)
        return self.runs[name]

    def cost(self) -> str:
        """Says what all the runs cost, as runs x minutes of processor time."""
        minutes = [run["minutes"] for run in self.found().values()]
        if not minutes:
            return "no runs"
        return f"{len(minutes)} runs x {statistics.mean(minutes):.2f} processor minutes = {sum(minutes):.1f} minutes"


def sharded(folder: str | Path, stem: str, shard: tuple[int, int]) -> Ledger:
    """The ledger of one shard of an experiment, which knows what the others have finished.

    Args:
        folder: Of the files, `stem`.json and `stem`.I-of-N.json.
        stem: Name of the experiment.
        shard: Its number, from 1 on, and how many there are.
    """
    number, count = shard
    mine = f"{stem}.json" if count == 1 else f"{stem}.{number}-of-{count}.json"
    there = [f"{stem}.json", *(file.name for file in sorted(Path(folder).glob(f"{stem}.*-of-*.json")))]
    # those of shards that have not finished a run yet appear while this one works
    there += [f"{stem}.{other}-of-{count}.json" for other in range(1, count + 1)]
    return Ledger(Path(folder, mine), dict.fromkeys(Path(folder, name) for name in there))


def shard_of(text: str) -> tuple[int, int]:
    """Reads `--shard I/N`.

    Raises:
        ValueError: If it is none.
    """
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--shard takes I/N with I from 1 to N, not {text!r}: write --shard 1/2")
    return int(number), int(count)


def interval(differences: Sequence[float], digits: int = 2) -> str:
    """Mean of paired differences with its 95 % interval by Student's t, in the unit of the differences, as text."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.{digits}f} (one seed)"
    half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{mean:+.{digits}f} ({mean - half:+.{digits}f} to {mean + half:+.{digits}f})"


def mean_and_spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds, as text."""
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.4f} +- {spread:.4f}"
