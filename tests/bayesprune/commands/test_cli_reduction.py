"""`bayesprune fit --weights FILE --prior reduction`: a trained network is reduced without any training."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bayesprune.cli import app as cli
from bayesprune.models.networks.lenet import lenet_300_100
from bayesprune.runs.run_folder import load_run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Data of 3 classes that depend on three of six inputs, and a network trained on them in plain PyTorch."""
    folder = tmp_path_factory.mktemp("files")
    generator = np.random.default_rng(0)
    y = np.arange(300) % 3
    x = (generator.normal(size=(300, 6)) + 3.0 * np.eye(3, 6)[y]).astype(np.float32)
    np.savez(folder / "labels.npz", x=x, y=y)
    (folder / "tiny.py").write_text(
        "from bayesprune.models.networks.lenet import lenet_300_100\n"
        "def tiny(input_shape, outputs):\n"
        "    return lenet_300_100(input_shape[0], outputs, hidden=(8,))\n"
    )
    torch.manual_seed(0)
    network = lenet_300_100(6, 3, hidden=(8,))
    inputs, labels = torch.as_tensor((x - x.mean(axis=0)) / x.std(axis=0)), torch.as_tensor(y)
    optimizer = torch.optim.Adam(network.parameters(), 0.01, weight_decay=1e-3)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()
    save_file(network.state_dict(), folder / "trained.safetensors")
    return folder


def fit_arguments(files, out, *more, prior="reduction"):
    arguments = ["fit", "--data", files / "labels.npz", "--network", f"{files / 'tiny.py'}:tiny", "--prior", prior]
    return [str(part) for part in (*arguments, "--quiet", "--out", out, *more)]


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "reduced"
    assert cli.run(fit_arguments(files, out, "--weights", files / "trained.safetensors")) == 0
    return out


def test_nothing_is_trained_and_the_run_has_probabilities_of_reduction(files, run):
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["epochs"], summary["kinds"], summary["converged"]) == (0, ["reduction"], "cannot tell")
    assert summary["test_accuracy"] > 0.9
    fit = load_run(run, trust_code=True)
    trained = fit.guide.means()["fc1.weight"]
    from safetensors.torch import load_file

    torch.testing.assert_close(trained, load_file(files / "trained.safetensors")["fc1.weight"])
    found = fit.inclusion_probabilities()["fc1.weight"]
    assert found.attrs["kind"] == "reduction"
    by_input = found.mean("fc1.weight.output").values
    assert by_input[:3].min() > by_input[3:].max()  # the inputs that the classes depend on


def test_it_is_shown_and_pruned_like_any_other(run, tmp_path, capsys):
    assert cli.run(["show", str(run), "--trust-code"]) == 0
    out = capsys.readouterr().out
    assert "reduction" in out and "cannot tell: nothing was trained" in out
    given = ["prune", str(run), "--sparsity", "0.5", "--out", str(tmp_path / "pruned"), "--trust-code"]
    assert cli.run(given) == 0
    report = json.loads((tmp_path / "pruned" / "summary.json").read_text())
    assert (report["criterion"], report["kind"], report["nonzero"]) == ("inclusion", "reduction", 36)


def test_with_epochs_it_is_fitted(files, tmp_path):
    arguments = fit_arguments(files, tmp_path / "run", "--weights", files / "trained.safetensors", "--epochs", 1)
    assert cli.run(arguments) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["epochs"] == 1 and summary["kinds"] == ["reduction"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--epochs", "0"], "needs a trained network: give --weights"),
        (["--weights", "W", "--guide", "map"], "leave out --guide map"),
        (["--weights", "W", "--restarts", "2"], "leave out --restarts"),
        (["--weights", "W", "--epochs", "0", "--prior", "horseshoe"], "needs Normal(0, sd)"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(files, tmp_path, capsys, more, sentence):
    more = [files / "trained.safetensors" if part == "W" else part for part in more]
    assert cli.run(fit_arguments(files, tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_interrupted_command_says_so_and_leaves_nothing(files, tmp_path, capsys, monkeypatch):
    def stopped(*arguments, **how):
        raise KeyboardInterrupt

    monkeypatch.setattr("bayesprune.commands.fitting.laplace_around", stopped)
    arguments = fit_arguments(files, tmp_path / "run", "--weights", files / "trained.safetensors")
    assert cli.run(arguments) == 130
    assert capsys.readouterr().err == "error: interrupted; nothing was written\n"
    assert list(tmp_path.iterdir()) == []
