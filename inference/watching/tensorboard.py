"""A fit's course for TensorBoard: a callback, for `fit` and for loops of one's own alike."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bayesprune.inference.watching.callbacks import Callback, FitState
from bayesprune.inference.watching.pruning_trace import BINS
from bayesprune.models.checks.given_numbers import whole_number
from bayesprune.models.files.places import expanded

__all__ = ["TensorBoard"]

POINTS = 200
"""About how many points of the negative ELBO a fit writes between its epochs."""
UNTOLD = 50
"""Steps between two of them where nobody knows how long the training will be."""
SCALARS = ("loss", "expected_log_likelihood", "kl", "kl_weight", "learning_rate")


class TensorBoard(Callback):
    """Writes what the pruning trace records to a folder that ``tensorboard --logdir`` reads.

    After each epoch, over steps: ``loss``, ``expected_log_likelihood`` and ``kl`` (full-data nats), ``kl_weight``,
    ``learning_rate``; ``sparsity/network``, ``sparsity/TENSOR`` and ``kl/TENSOR``; ``validation/SCORE``; the histogram
    ``inclusion/TENSOR`` of inclusion probabilities where there are gates, and what rules say, as
    ``units_left/SET``. Now and then between epochs: ``negative_elbo``. Several restarts write to ``restart-0``,
    ``restart-1``, ... inside.

    A fit that goes on from a checkpoint goes on in the same folder: what was written after the checkpoint is marked as
    gone, so that no point is there twice. A new fit to a folder of an earlier one takes its place in the same way; its
    files stay. A folder that cannot be written to later on does not stop the fit: it warns once. Needs
    ``pip install bayesprune[tensorboard]``.

    Args:
        folder: The folder; it is made if it is not there.
        every: Steps between two points of ``negative_elbo``; default None: a two hundredth of all steps, or 50 where a
            loop of one's own does not tell how many there are.

    Raises:
        ValueError: If the package tensorboard is not installed, `every` is no positive number of steps, or the folder
            cannot be made.
    """

    is_resumable = True  # what was written last stands in the state

    def __init__(self, folder: str | Path, every: int | None = None) -> None:
        every = None if every is None else whole_number("every", every)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as problem:
            raise ValueError(
                "TensorBoard(...) needs the package tensorboard, which is not installed: "
                "pip install bayesprune[tensorboard]"
            ) from problem
        self.folder, self.every, self._open = expanded(folder).absolute(), every, SummaryWriter
        self._writer: Any = None
        self._written_at, self._warned = 0, False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise ValueError(
                f"TensorBoard cannot write to {folder} ({problem.strerror}): choose a folder that you may write to"
            ) from problem

    def on_fit_start(self, state: FitState) -> None:
        """Opens a file for the restart; points of its folder at later steps than the state's are marked as gone."""
        self._writer = None
        if 0 < state.steps <= state.step:
            return  # an earlier call had done this restart
        place = self.folder / f"restart-{state.restart}" if state.restarts > 1 else self.folder
        self._written_at = state.step
        self._guarded(self._begin, place, state.step + 1)

    def on_step(self, state: FitState) -> None:
        """Writes the negative ELBO, now and then."""
        every = self.every or (max(1, state.steps // POINTS) if state.steps else UNTOLD)
        if not state.iterates or state.step - self._written_at < every:
            return
        last = state.iterates[-1]
        if last["step"] > self._written_at:
            self._written_at = int(last["step"])
            self._guarded(self._write_iterate, last)

    def on_epoch(self, state: FitState) -> None:
        """Writes the row of the epoch, to the disk."""
        self._guarded(self._write_epoch, state)

    def on_fit_end(self, state: FitState) -> None:
        """Closes the file."""
        self._guarded(self._close)

    def _guarded(self, write: Any, *arguments: Any) -> None:
        """Writes; a file that cannot be written is told once, and left."""
        if self._writer is None and write != self._begin:
            return
        try:
            write(*arguments)
        except OSError as problem:
            self._writer = None
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"TensorBoard cannot write to {self.folder} ({problem}): the fit goes on without it", stacklevel=4
                )

    def _begin(self, place: Path, first: int) -> None:
        # Files are read in the order of their names, which tell the second alone.
        seconds = {path.name.split(".")[3] for path in place.glob("events.out.tfevents.*.*")}
        if str(int(now := time.time())) in seconds:
            time.sleep(1.0 - now % 1.0)
        self._writer = self._open(str(place), purge_step=first)

    def _close(self) -> None:
        self._writer.close()
        self._writer = None

    def _write_iterate(self, iterate: dict[str, float]) -> None:
        self._writer.add_scalar("negative_elbo", iterate["negative_elbo"], int(iterate["step"]))

    def _write_epoch(self, state: FitState) -> None:
        row, step = state.history[-1], state.step
        scalars = {name: row[name] for name in SCALARS}
        scalars |= {"sparsity/network": row["network_sparsity"]}
        scalars |= {f"sparsity/{name}": value for name, value in row["sparsity"].items()}
        scalars |= {"near_zero/network": row["network_near_zero"]}
        scalars |= {f"near_zero/{name}": value for name, value in row["near_zero"].items()}
        scalars |= {f"kl/{name}": value for name, value in row["kl_of"].items()}
        scalars |= {f"validation/{name}": row[f"validation_{name}"] for name in row["scores"]}
        for key in row.get("told", ()):
            parts = row[key] if isinstance(row[key], Mapping) else {"": row[key]}
            scalars |= {f"{key}/{name}".rstrip("/"): each for name, each in parts.items()}
        for name, value in scalars.items():
            if np.isfinite(value):  # the learning rate of a loop of one's own may be unknown
                self._writer.add_scalar(name, float(value), step)
        for name, counts in row["histogram"].items():
            self._write_histogram(f"inclusion/{name}", np.asarray(counts, dtype=np.float64), step)
        self._writer.flush()

    def _write_histogram(self, name: str, counts: np.ndarray[Any, Any], step: int) -> None:
        """The bins of the trace as they are; sums are those of the middles of the bins."""
        edges = np.linspace(0.0, 1.0, BINS + 1)
        middles = 0.5 * (edges[1:] + edges[:-1])
        self._writer.add_histogram_raw(
            name,
            min=0.0,
            max=1.0,
            num=float(counts.sum()),
            sum=float(counts @ middles),
            sum_squares=float(counts @ middles**2),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=step,
        )
