"""A disk that fills while a fit runs: the message says what is kept, and the same command ends once there is room."""

from __future__ import annotations

import numpy as np
import pytest

from bayesprune.inference.training import checkpoint
from bayesprune.runs.run_folder import read_summary
from tests.attacks.small_disks import FREE, command, listed
from tests.oracles.same_runs import is_same

pytestmark = pytest.mark.filterwarnings("ignore:the trace of the fit cannot be written:UserWarning")

NETWORK = (
    "from torch import nn\n"
    "def small(shape, outputs):\n"
    "    return nn.Sequential(nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, outputs))\n"
)  # its state takes about 100 KB


@pytest.fixture
def given(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARE", 1.0)
    monkeypatch.setattr(checkpoint, "LEAST", 0.0)
    monkeypatch.setattr("bayesprune.runs.run_folder.ARVIZ_DRAWS", 2)
    generator = np.random.default_rng(0)
    y = np.arange(120) % 3
    np.savez(tmp_path / "data.npz", x=generator.normal(size=(120, 64)) + np.eye(3, 64)[y], y=y)
    (tmp_path / "networks.py").write_text(NETWORK)

    def arguments(out):
        model = ("--network", f"{tmp_path / 'networks.py'}:small", "--prior", "spike-and-slab")
        data = ("--data", tmp_path / "data.npz", "--batch-size", 30)
        return ("fit", *data, *model, "--epochs", 5, "--execution", "plain", "--quiet", "--out", out)

    return arguments


def test_a_fit_goes_on_where_the_disk_was_full(disk, given, tmp_path, capsys):
    assert command(capsys, *given(tmp_path / "whole")) is None
    run, failures, resumed = disk.place / "run", 0, []
    for free in FREE:
        with disk.filled(free):
            said = command(capsys, *given(run))
        if said is None:
            break
        failures += 1
        assert said.startswith(f"error: {run}.part") and disk.told in said and "make room there" in said, said
        left = listed(disk.place)
        assert not any("/." in name or name.startswith(".") for name in left), left  # nothing half-written
        assert not run.exists()
        resumed.append("keeps the state after epoch" in said or "the fit itself is in" in said)
        assert resumed[-1] == ("run.part" in left)
    else:
        assert command(capsys, *given(run)) is None
    assert failures >= 2 and resumed[0] is False
    assert is_same(run, tmp_path / "whole")
    assert [name for name in listed(disk.place) if "/" not in name and name.startswith("run")] == ["run"]
    if any(resumed):
        assert read_summary(run)["resumed_at_epoch"] > 1


def test_a_state_is_kept_when_the_next_one_does_not_fit(disk, given, tmp_path, capsys):
    if disk.told == "File too large":
        pytest.skip("every state has the same size")
    assert command(capsys, *given(tmp_path / "whole")) is None
    run = disk.place / "run"
    with disk.filled(200):  # room for one state, but not for two
        said = command(capsys, *given(run))
    assert "keeps the state after epoch 1: the same command goes on there" in said, said
    assert len([name for name in listed(disk.place) if name.endswith(".safetensors")]) == 1
    assert command(capsys, *given(run)) is None
    assert is_same(run, tmp_path / "whole") and read_summary(run)["resumed_at_epoch"] == 2
