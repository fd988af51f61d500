"""Runs on sequences of tokens: from strings to a run, its pruning by target, and predictions of both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bayesprune.commands.pruned_folder import load_pruned
from bayesprune.data.reber import tokens_of
from bayesprune.runs.run_folder import load_run

VALID, INVALID = "BTSSSSSXXVVE", "BTSSSSSXXVVV"


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "reber"
    made(
        "fit", "--data", "reber", "--network", "rnn-tanh-stack", "--width", 0.2, "--prior", "gaussian", "--guide",
        "map", "--epochs", 1, "--quiet", "--out", out,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def pruned(run, made):
    out = run.parent / "pruned"
    made("prune", run, "--sparsity", 0.8, "--only", "*.recurrent.weight", "--out", out)
    return out


def written(path, tokens):
    np.save(path, tokens)
    return path


def test_a_run_and_its_pruned_network_predict_tokens(run, pruned, command, tmp_path):
    fit, network = load_run(run), load_pruned(pruned)[0].eval()
    tokens = np.zeros((2, fit.settings["input_shape"][0]), dtype=np.int64)
    given = tokens_of([VALID, INVALID])
    tokens[:, : given.shape[1]] = given
    inputs = written(tmp_path / "x.npy", tokens)
    shares = {name: float((weight == 0).double().mean()) for name, weight in network.named_parameters()}
    assert {name for name, share in shares.items() if share > 0.5} == {f"layers.{n}.recurrent.weight" for n in range(3)}
    x, found = torch.from_numpy(tokens), {}
    for folder in (run, pruned):
        assert command("predict", folder, "--input", inputs, "--out", tmp_path / f"{folder.name}.npz")[0] == 0
        found[folder] = np.load(tmp_path / f"{folder.name}.npz")["mean"]
    np.testing.assert_allclose(found[run], fit.predict(x).mean.numpy(), atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(found[pruned], network(x).softmax(1).numpy(), atol=1e-6)
    assert np.abs(found[run][0] - found[run][1]).max() > 1e-6  # control: what is read matters


@pytest.mark.parametrize(
    ("token", "said"),
    [(0.5, "numbers that are not whole, but the network looks its inputs up by number"), (500, "tokens from 500 to")],
)
def test_what_is_no_token_is_refused_in_a_sentence(run, refused, tmp_path, token, said):
    steps = load_run(run).settings["input_shape"][0]
    inputs = written(tmp_path / "x.npy", np.full((1, steps), token))
    refused(["predict", run, "--input", inputs, "--out", tmp_path / "y.npz"], said)


def test_networks_of_measurements_do_not_read_tokens(refused, tmp_path):
    said = "reber is sequences of tokens, whole numbers, and lenet-300-100 reads measurements: take one of rnn-tanh-"
    refused(["fit", "--data", "reber", "--prior", "gaussian", "--out", tmp_path / "run"], said)
