"""`bayesprune path --weights`: a folder goes on only from the weights of then, and says what was done to them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

NET = """
from torch import nn

def small(input_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, outputs))
"""


@pytest.fixture
def files(tmp_path):
    """Weights of a network of three classes and of one of seven, with data of three."""
    (tmp_path / "net.py").write_text(NET)
    y = np.arange(60) % 3
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(60, 16)) + np.eye(3, 16)[y], y=y)
    for name, outputs, seed in (("w", 3, 0), ("other", 3, 1), ("seven", 7, 0)):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, outputs))
        save_file(network.state_dict(), tmp_path / f"{name}.safetensors")
    return tmp_path


def arguments(files, *more, weights="w", values="3"):
    given = ["path", "--data", files / "d.npz", "--network", f"{files / 'net.py'}:small", "--prior", "halo"]
    given += ["--knob", "kappa", "--values", values, "--epochs", 1, "--restarts", 1, "--sparsities", "0.5"]
    return [*given, "--device", "cpu", "--weights", files / f"{weights}.safetensors", "--out", files / "path", *more]


def declared(files):
    return json.loads((files / "path" / "path.json").read_text())["declaration"]


def test_a_folder_goes_on_only_with_the_weights_and_the_head_of_then(command, refused, files):
    assert command(*arguments(files))[0] == 0
    assert "new_head" not in declared(files)
    refused(arguments(files, "--new-head", values="3,30"), "new_head", "choose another folder")
    kept = (files / "w.safetensors").read_bytes()
    (files / "w.safetensors").write_bytes((files / "other.safetensors").read_bytes())
    refused(arguments(files, values="3,30"), "weights_digest", "choose another folder")
    (files / "w.safetensors").write_bytes(kept)
    assert command(*arguments(files, values="3,30"))[0] == 0  # control: the same weights


def test_a_folder_of_an_earlier_version_goes_on(command, files):
    assert command(*arguments(files))[0] == 0
    index = json.loads((files / "path" / "path.json").read_text())
    for key in ("weights_digest", "notes"):
        index["declaration"].pop(key)
    (files / "path" / "path.json").write_text(json.dumps(index))
    code, _, err = command(*arguments(files, values="3,30"))
    assert code == 0, err


def test_what_was_done_to_the_weights_is_stored_and_said(command, files):
    code, printed, err = command(*arguments(files, "--new-head", weights="seven"))
    assert code == 0, err
    assert declared(files)["new_head"] is True
    assert any("began anew (--new-head)" in note for note in declared(files)["notes"])
    assert "note: 3 began anew (--new-head)" in printed
    assert command(*arguments(files, "--new-head", weights="seven", values="3,30"))[0] == 0
