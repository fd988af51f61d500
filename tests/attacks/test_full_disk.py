"""A disk that fills: nothing half-written stays, the place is named, and the same call ends once there is room.

Twice: on a file system of 1 MB, where one may be mounted, and under a limit on the size of files, everywhere.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

import bayesprune as bp
from bayesprune.cli import app as cli
from bayesprune.models.files.new_folder import new_folder
from bayesprune.runs.run_folder import load_run
from tests.attacks.small_disks import SmallDisk, SmallFiles, command, fails_until_there_is_room, listed


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["fit", "--data", "digits", "--prior", "gaussian", "--epochs", "1", "--quiet", "--out", str(folder)]
    assert cli.run(arguments) == 0
    return folder


def raised(action):
    """The message of the OSError that a call raises; None where it does not."""

    def call():
        try:
            action()
        except OSError as problem:
            return str(problem)
        return None

    return call


def test_prune(disk, run, capsys):
    out = disk.place / "pruned"
    arguments = ("prune", run, "--sparsity", 0.5, "--compact", "--quiet", "--out", out)
    assert fails_until_there_is_room(disk, lambda: command(capsys, *arguments), out) >= 3
    np.save(run.parent / "x.npy", np.zeros((5, 1, 8, 8)))
    predictions = run.parent / "p.npz"
    predictions.unlink(missing_ok=True)
    assert command(capsys, "predict", out, "--input", run.parent / "x.npy", "--quiet", "--out", predictions) is None


def test_save_and_save_over(disk, run):
    fit = load_run(run)
    out = disk.place / "fit"
    assert fails_until_there_is_room(disk, raised(lambda: fit.save(out)), out) >= 3
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with torch.no_grad():
        next(iter(fit.guide.parameters())).add_(0.1)
    with disk.filled(40):
        said = raised(lambda: fit.save(out, overwrite=True))()
    assert said is not None and str(out) in said
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert set(listed(disk.place)) == {"fit", *(f"fit/{name}" for name in before)}


def test_export(disk):
    network, out = bp.lenet_300_100(64).eval(), disk.place / "export"
    call = raised(lambda: bp.export_network(network, torch.zeros(1, 64), out))
    assert fails_until_there_is_room(disk, call, out) >= 3
    before = {name: (disk.place / name).read_bytes() for name in listed(disk.place) if name != "export"}
    with torch.no_grad():
        network.fc1.weight.add_(1.0)
    with disk.filled(40):
        said = call()
    assert said is not None and str(out) in said
    assert {name: (disk.place / name).read_bytes() for name in listed(disk.place) if name != "export"} == before
    with contextlib.ExitStack() as stack:
        if isinstance(disk, SmallFiles):
            stack.enter_context(disk.filled(1000))
        assert call() is None
    assert (out / "compact.safetensors").read_bytes() != before["export/compact.safetensors"]


def test_onnx_export(disk, monkeypatch):
    """The exporter itself takes seconds, so that a file of its size stands in for what it writes."""
    pytest.importorskip("onnxscript")
    module = "bayesprune.models.deployment.onnx_export"
    monkeypatch.setattr(
        f"{module}._export", lambda network, inputs, file, names: Path(file).write_bytes(b"x" * 250_000)
    )
    monkeypatch.setattr(f"{module}._compare", lambda *_: None)
    out = disk.place / "small.onnx"
    call = raised(lambda: bp.export_onnx(torch.nn.Linear(3, 1), torch.zeros(1, 3), out))
    if isinstance(disk, SmallDisk):
        assert fails_until_there_is_room(disk, call, out) >= 3
    else:
        with disk.filled(40):  # the limit meets the temporary file first
            said = call()
        assert said is not None and "File too large" in said and listed(disk.place) == []
        assert call() is None
    assert out.stat().st_size == 250_000


def test_predictions(disk, run, capsys):
    np.save(run.parent / "many.npy", np.zeros((4000, 1, 8, 8)))
    out = disk.place / "predictions.npz"
    arguments = ("predict", run, "--input", run.parent / "many.npy", "--draws", 2, "--quiet", "--out", out)
    assert fails_until_there_is_room(disk, lambda: command(capsys, *arguments), out) >= 3
    with np.load(out) as found:
        assert len(found["class"]) == 4000


def test_a_figure(disk, run):
    fit, out = load_run(run), disk.place / "trace.svg"
    with disk.filled(0):
        said = raised(lambda: bp.plot_pruning_trace(fit, path=out))()
    assert said is not None and str(out) in said and listed(disk.place) == []
    bp.plot_pruning_trace(fit, path=out)
    assert listed(disk.place) == ["trace.svg"]


def test_the_limit_is_felt(disk):
    """Control: what is small enough is written under the same limits."""
    with disk.filled(40), new_folder(disk.place / "small") as staged:
        (staged / "x").write_bytes(b"x" * 1000)
    assert listed(disk.place) == ["small", "small/x"]
