"""From the command line: a recurrent network under low rank is fitted, pruned, folded, and predicts from its folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bayesprune.commands.pruned_folder import load_pruned


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    made(
        "fit", "--data", "digits", "--network", "gru", "--width", 0.5, "--prior", "low-rank", "--set", "pressure=0.5",
        "--on", "cell.*.weight", "--epochs", 10, "--learning-rate", 0.5, "--quiet", "--out", runs / "run",
    )  # fmt: skip
    made("prune", runs / "run", "--min-inclusion", 0.5, "--compact", "--quiet", "--out", runs / "small")
    return runs / "small"


def test_the_summary_says_which_layers_are_thin(folder):
    found = json.loads((folder / "summary.json").read_text())
    row = found["folded_layers"]["cell.recurrent"]
    assert (row["inputs"], row["outputs"]) == (32, 96) and 0 < row["rank"] < 24
    assert json.loads((folder / "plan.json").read_text())["folded"]["cell.recurrent"] == row["rank"]
    fewer = sum(one["inputs"] * one["outputs"] - one["rank"] * (one["inputs"] + one["outputs"])
                for one in found["folded_layers"].values())  # fmt: skip
    assert found["parameters"] - found["compact_parameters"] == fewer > 0
    assert found["dense_macs"] - found["compact_macs"] == 8 * fewer


def test_the_folder_is_read_and_predicts(command, folder, tmp_path):
    network, _ = load_pruned(folder)
    x = np.random.default_rng(0).normal(size=(7, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    code, _, err = command("predict", folder, "--input", tmp_path / "x.npy", "--out", tmp_path / "y.npz")
    assert (code, err) == (0, "")
    with torch.no_grad():
        wanted = network(torch.tensor(x)).softmax(1).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["mean"], wanted, atol=1e-5)
    assert isinstance(network.cell.recurrent, torch.nn.Sequential)


def test_it_is_printed(command, folder, tmp_path):
    run = folder.parent / "run"
    code, out, err = command("prune", run, "--min-inclusion", 0.5, "--compact", "--out", tmp_path / "p")
    rank = json.loads((folder / "summary.json").read_text())["folded_layers"]["cell.recurrent"]["rank"]
    assert (code, err) == (0, "")
    assert "two thin layers in place of" in out and f"cell.recurrent of rank {rank}" in out
