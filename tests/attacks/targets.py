"""What is attacked: tiny data, runs, a path, pruned networks, budgets, a killed fit, checkpoints; made once."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import struct
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from bayesprune.cli import app as cli
from bayesprune.inference.training import checkpoint
from bayesprune.inference.training.fit import fit
from bayesprune.inference.watching import trace_file
from bayesprune.inference.watching.callbacks import Callback, FitState
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.costs.layer_budgets import LayerBudget
from bayesprune.models.networks.lenet import lenet_300_100
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab

__all__ = ["EVIL", "FIT", "INTERRUPTED", "go_on", "make_targets"]

EVIL = "open('PWNED', 'w').close()\n\ndef f(*given):\n    return None\n"
"""A module that leaves the sentinel when it is imported."""
FIT = ("--network", "lenet-300-100", "--width", "0.03", "--batch-size", "32", "--quiet")
"""What all fits have in common."""
INTERRUPTED = (
    *FIT, "--epochs", "4", "--learning-rate", "0.02", "--prior", "unit-gates", "--set", "kappa=0.01",
    "--set", "weight_scale=0.3", "--gating", "delay=0", "--gating", "travel=0.5",
)  # fmt: skip
"""A fit that is interrupted after its second epoch, less data and place; the same command goes on with it.

Its gates move from the first step on, so that units leave, though not all of a layer.
"""
DEAD = 2**22 - 1
"""A process number that nobody has."""


def make_targets(folder: Path) -> None:
    """Makes everything in a folder, in a few seconds."""
    _make_data(folder)
    fit_labels = ("fit", "--data", "labels.npz", *FIT, "--epochs", "3")
    here = os.getcwd()
    os.chdir(folder)
    try:
        _call(*fit_labels, "--prior", "spike-and-slab", "--out", "spike")
        _call(*fit_labels, "--prior", "halo", "--restarts", "2", "--out", "halo")
        _call(*fit_labels, "--prior", "horseshoe", "--out", "horseshoe")
        _call("fit", "--data", "labels.npz", *INTERRUPTED, "--out", "gates")
        _call("fit", "--data", "numbers.npz", *FIT, "--epochs", "2", "--prior", "gaussian", "--out", "numbers")
        _call("fit", "--data", "numbers.npz", *FIT, "--network", "linear", "--epochs", "2", "--prior", "spike-and-slab",
              "--out", "linear")  # fmt: skip
        _call("path", "--data", "labels.npz", *FIT, "--epochs", "2", "--prior", "spike-and-slab", "--knob",
              "expected_density", "--values", "0.3,0.1", "--restarts", "1", "--sparsities", "0.3,0.8",
              "--out", "path")  # fmt: skip
        _call("search", "--data", "labels.npz", "--trainings", "5", "--population", "3", "--epochs", "1",
              "--widths", "4", "--quiet", "--out", "search")  # fmt: skip
        _call("sweep", "--data", "labels.npz", *FIT, "--epochs", "1", "--prior", "spike-and-slab", "--set",
              "set.expected_density=0.3,0.6", "--out", "sweep")  # fmt: skip
        _leave_records(folder / "sweep")
        _call("prune", "spike", "--sparsity", "0.5", "--quiet", "--out", "pruned")
        _call("prune", "spike", "--sparsity", "0.8", "--compact", "--quiet", "--out", "compact")
        with (folder / "compact" / "network.py").open("a") as generated:
            generated.write(EVIL)  # predict never runs it
        _make_weights(folder)
        _make_budgets(folder)
        with patch.multiple(checkpoint, SHARE=1.0, LEAST=0.0), patch.object(trace_file, "SHARE", 1.0):
            with contextlib.suppress(KeyboardInterrupt):
                go_on(Break())
            _leave_interrupted(folder)
    finally:
        os.chdir(here)


class Break(Callback):
    """Ends a fit as Ctrl-C does, after its second epoch."""

    is_resumable = True

    def on_epoch(self, state: FitState) -> None:
        """Raises."""
        if state.epoch == 2:
            raise KeyboardInterrupt


def go_on(*callbacks: Callback) -> int:
    """A fit from Python with its state in the folder ``checkpoint``: begins it, or goes on with it."""
    with np.load("labels.npz") as found:
        x, y = torch.tensor(found["x"], dtype=torch.float32), torch.tensor(found["y"])
    torch.manual_seed(0)
    model = BayesianNetwork(lenet_300_100(6, 3, hidden=(4,)), {"*.weight": SpikeAndSlab()}, data_size=len(x))
    fit(model, (x, y), epochs=3, batch_size=32, execution="plain", checkpoint="checkpoint", callbacks=callbacks)
    return 0


def _call(*arguments: str) -> None:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        assert cli.run(list(arguments)) == 0, arguments


def _leave_records(sweep: Path) -> None:
    """Leaves of a sweep what is of its own: records, by names that do not depend on where it lies; runs are others'."""
    records = sorted(
        sweep.glob("?" * 16 + ".json"), key=lambda file: json.dumps(json.loads(file.read_text())["settings"])
    )
    for number, record in enumerate(records):
        shutil.rmtree(record.with_suffix(""))
        record.rename(sweep / f"{number:016x}.json")


def _leave_interrupted(folder: Path) -> None:
    """Leaves ``killed.part`` as a process does that is killed after the second epoch."""
    on_epoch = trace_file.WriteTrace.on_epoch

    def broken(watcher: Any, state: FitState) -> None:
        on_epoch(watcher, state)
        if state.epoch == 3:
            raise KeyboardInterrupt

    command = ["fit", "--data", str(folder / "labels.npz"), *INTERRUPTED, "--out", "killed"]
    with patch.object(trace_file.WriteTrace, "on_epoch", broken), contextlib.redirect_stderr(io.StringIO()):
        assert cli.run(command) == cli.INTERRUPTED
    file = folder / "killed.part" / "progress.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "process": DEAD}))


def _make_data(folder: Path) -> None:
    generator = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = generator.normal(size=(60, 6)) + 3.0 * np.eye(3, 6)[y]
    np.savez(folder / "labels.npz", x=x, y=y)
    np.savez(folder / "numbers.npz", x=x, y=x[:, 0] - x[:, 1])
    np.save(folder / "inputs.npy", x[:5])
    (folder / "a.txt").write_text("a text")
    (folder / "evil.py").write_text(EVIL)
    pictures = folder / "pictures"
    for name in "abc":
        (pictures / name).mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(0, 256, (4, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(pictures / name / f"{number}.png")
    raw = folder / "named" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, count in (("train", 40), ("t10k", 20)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        _write_idx(raw / f"{stem}-labels-idx1-ubyte", labels)
        with gzip.open(raw / f"{stem}-images-idx3-ubyte.gz", "wb") as stream:
            stream.write(_idx(images))


def _write_idx(file: Path, array: Any) -> None:
    file.write_bytes(_idx(array))


def _idx(array: Any) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def _make_budgets(folder: Path) -> None:
    """One budget by layer of that network, in both forms."""
    budget = LayerBudget.uniform(lenet_300_100(6, 3, hidden=(9, 3)), 0.2)
    for name, ending in (("by-layer", "json"), ("table", "csv")):
        (folder / name).mkdir()
        budget.write(folder / name / f"uniform.{ending}")


def _make_weights(folder: Path) -> None:
    """The state dict of a network as `FIT` names it."""
    state = lenet_300_100(6, 3, hidden=(9, 3)).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "weights.safetensors")
    torch.save(state, folder / "weights.pth")
