"""`bayesprune prune --finetune EPOCHS`: what is written is the fine-tuned network, its zeros where they were."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bayesprune.runs.run_folder import SUMMARY_FILE, run_data

SPARSE = ("--sparsity", 0.9)


@pytest.fixture(scope="module")
def run(made, networks_file, tmp_path_factory):
    """Digits by a network with batch normalisation."""
    out = tmp_path_factory.mktemp("runs") / "normalised"
    made(
        "fit", "--data", "digits", "--network", f"{networks_file}:normalised", "--prior", "gaussian", "--guide", "map",
        "--epochs", 4, "--learning-rate", 0.01, "--seed", 3, "--quiet", "--out", out,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def folders(made, run, tmp_path_factory):
    """The run pruned, alone and with fine-tuning."""
    place = tmp_path_factory.mktemp("pruned")
    made("prune", run, *SPARSE, "--compact", "--quiet", "--out", place / "plain")
    made("prune", run, *SPARSE, "--finetune", 20, "--compact", "--quiet", "--out", place / "tuned")
    return place / "plain", place / "tuned"


def summary(folder):
    return json.loads((folder / SUMMARY_FILE).read_text())


def test_zeros_stay_and_what_is_left_is_trained(folders):
    plain, tuned = (load_file(folder / "weights.safetensors") for folder in folders)
    masks = load_file(folders[1] / "masks.safetensors")
    assert set(masks) == {"0.weight", "5.weight"}
    for name, mask in masks.items():
        assert torch.equal(mask, load_file(folders[0] / "masks.safetensors")[name])
        assert bool((tuned[name][mask == 0] == 0).all()) and int((mask == 0).sum()) > 0
        assert not torch.equal(tuned[name], plain[name])


def test_the_summary_says_what_came_of_it_on_test_data(folders):
    plain, tuned = map(summary, folders)
    assert plain["finetuned"] is None and plain["test_accuracy_finetuned"] is None
    for name in ("accuracy", "nll", "ece"):
        assert tuned[f"test_{name}_before"] == plain[f"test_{name}_before"]
        assert tuned[f"test_{name}_after"] == plain[f"test_{name}_after"]
    assert tuned["test_accuracy_finetuned"] > tuned["test_accuracy_after"] + 0.05
    assert tuned["test_nll_finetuned"] < tuned["test_nll_after"]
    assert "20 epochs, adam" in tuned["finetuned"] and "validation accuracy" in tuned["finetuned"]
    assert "follow" in tuned["batch_normalisation"] and "follow" not in plain["batch_normalisation"]


@pytest.mark.parametrize("which", [0, 1])
def test_the_network_that_predicts_is_the_one_that_was_scored(command, run, folders, tmp_path, which):
    x, y = run_data(run).test
    np.save(tmp_path / "x.npy", x.numpy())
    given = ("predict", folders[which], "--input", tmp_path / "x.npy", "--out", tmp_path / "p.npz")
    assert command(*given)[0] == 0
    accuracy = float((np.load(tmp_path / "p.npz")["class"] == y.numpy()).mean())
    found = summary(folders[which])
    assert accuracy == pytest.approx(found["test_accuracy_finetuned" if which else "test_accuracy_after"])
    assert found["compact_parameters"] is not None and found["max_output_difference"] < 1e-5 * found["output_sd"]


def test_a_network_of_a_path_is_fine_tuned_too(command, data, tmp_path):
    path = ("path", "--data", data, "--network", "lenet-300-100", "--width", 0.05, "--prior", "halo", "--knob", "kappa")
    more = ("--values", "1,3", "--epochs", 1, "--restarts", 1, "--sparsities", "0.8", "--quiet")
    assert command(*path, *more, "--out", tmp_path / "path")[0] == 0
    given = ("prune", tmp_path / "path", "--sparsity", 0.8, "--finetune", 3, "--out", tmp_path / "pruned")
    code, printed, _ = command(*given)
    assert code == 0 and "fine-tuned: 3 epochs" in printed
    found = summary(tmp_path / "pruned")
    assert found["test_nll_finetuned"] < found["test_nll_after"] and found["sparsity"] >= 0.8
    state, masks = (load_file(tmp_path / "pruned" / f"{name}.safetensors") for name in ("weights", "masks"))
    assert all(bool((state[name][mask == 0] == 0).all()) for name, mask in masks.items())


@pytest.mark.parametrize("epochs", [0, -2])
def test_no_epochs_are_refused_before_anything_is_read(command, tmp_path, epochs):
    code, _, error = command("prune", tmp_path, *SPARSE, "--finetune", epochs, "--out", tmp_path / "out")
    assert code == 2 and error == f"error: --finetune takes epochs, at least 1, not {epochs}: leave it out for none\n"
    assert not (tmp_path / "out").exists()


def test_a_fine_tuning_that_fails_leaves_nothing(command, run, tmp_path, monkeypatch):
    from bayesprune.commands import pruning
    from bayesprune.inference.guides.finite_parameters import NonFiniteLossError

    def fail(*_, **__):
        raise NonFiniteLossError("the loss became non-finite at step 1 of fine-tuning: lower learning_rate")

    monkeypatch.setattr(pruning, "finetune", fail)
    code, _, error = command("prune", run, *SPARSE, "--finetune", 1, "--out", tmp_path / "out")
    assert code == 1 and "non-finite" in error and list(tmp_path.iterdir()) == []
