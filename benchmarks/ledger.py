"""A ledger of finished runs: an experiment that is started again goes on where it stopped, and states its cost."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Ledger:
    """Results of runs by name, in one JSON file that is replaced after every run.

    Args:
        path: The file; made with its folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.runs: dict[str, dict[str, Any]] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def run(self, name: str, function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns the result of a run: from the file where it is there, else by running it."""
        if name not in self.runs:
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
        minutes = [run["minutes"] for run in self.runs.values()]
        return f"{len(minutes)} runs x {statistics.mean(minutes):.2f} processor minutes = {sum(minutes):.1f} minutes"


def mean_and_spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds, as text."""
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.4f} +- {spread:.4f}"
