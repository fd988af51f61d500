"""A progress line for a fit: loss, expected log-likelihood, KL, scores, sparsity, time left."""

from __future__ import annotations

import contextlib
import math
from typing import Any

from bayesprune.inference.watching.callbacks import Callback, FitState


class Progress(Callback):
    """Shows a rich progress bar on standard error, one for each restart."""

    is_resumable = True

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None

    def on_fit_start(self, state: FitState) -> None:
        """Opens the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        name = f"restart {state.restart + 1}/{state.restarts}" if state.restarts > 1 else "fit"
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[report]}", markup=False),  # names of scores may be a likelihood's own
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._bar.start()
        self._task = self._bar.add_task(name, total=state.steps, report="")

    def on_step(self, state: FitState) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=state.step)

    def on_epoch(self, state: FitState) -> None:
        """Writes the epoch's figures, per datum."""
        row, size = state.history[-1], state.objective.model.data_size
        parts = [
            f"epoch {state.epoch}",
            f"loss {row['loss'] / size:.4f}",
            f"log-lik {row['expected_log_likelihood'] / size:.4f}",
            f"kl {row['kl'] / size:.4f}",
        ]
        parts += [f"{name} {row[f'validation_{name}']:.4f}" for name in row["scores"]]
        parts.append(f"sparsity {row['network_sparsity']:.3f}")
        if math.isfinite(row["network_near_zero"]):
            parts.append(f"near zero {row['network_near_zero']:.3f}")
        self._bar.update(self._task, report="  ".join(parts))

    def on_fit_end(self, state: FitState) -> None:
        """Closes the bar."""
        with contextlib.suppress(OSError):  # the terminal may be closed
            self._bar.stop()
