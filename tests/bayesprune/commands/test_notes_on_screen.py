"""What is wrong with a fit stands in summary.json, after `bayesprune fit` and in `bayesprune show`; the code is 0."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bayesprune.cli import app as cli
from bayesprune.commands.fitting import remarks
from bayesprune.inference.data.against_constant import CONSTANT

CONST = "better than a constant prediction"


@pytest.fixture(scope="module")
def clear(tmp_path_factory):
    """A file of 300 examples of three classes that are far apart."""
    generator, y = np.random.default_rng(0), np.arange(300) % 3
    file = tmp_path_factory.mktemp("clear") / "labels.npz"
    np.savez(file, x=generator.normal(size=(300, 64)) + 5.0 * np.eye(3, 64)[y], y=y)
    return file


@pytest.fixture
def run(clear, networks_file, tmp_path, capsys, monkeypatch):
    """Fits and shows a run: its folder, what `fit` printed, what `show` printed."""
    monkeypatch.setattr("bayesprune.runs.run_folder.ARVIZ_DRAWS", 10)

    def call(*more):
        out = tmp_path / "run"
        fit = ["fit", "--data", clear, "--network", f"{networks_file}:small", "--batch-size", "32"]
        assert cli.run([str(argument) for argument in [*fit, "--out", out, *more]]) == 0
        after_fit = capsys.readouterr().out
        assert cli.run(["show", str(out), "--trust-code"]) == 0
        return out, after_fit, capsys.readouterr().out

    return call


def test_a_bad_fit_says_so_in_all_three_places_and_ends_well(run):
    out, after_fit, shown = run("--prior", "gaussian", "--set", "sd=0.0001", "--epochs", "15", "--kl-weight", "1")
    summary = json.loads((out / "summary.json").read_text())
    (note,) = [one for one in summary["notes"] if CONST in one]
    assert "kl_weight=0.1" in note and "sd=0.001" in note
    assert f"note: {note}" in after_fit and note in shown
    assert summary[CONSTANT] == pytest.approx(-1.0986, abs=0.01)  # three classes


def test_a_good_fit_says_nothing_anywhere(run):
    out, after_fit, shown = run("--prior", "laplace", "--epochs", "60", "--learning-rate", "0.003")
    assert json.loads((out / "summary.json").read_text())["test_accuracy"] > 0.95
    assert json.loads((out / "summary.json").read_text())["notes"] == []
    assert "note:" not in after_fit and "note:" not in shown


def test_what_nothing_is_left_of_is_said_once_and_of_runs_of_earlier_versions_as_well():
    new = {
        "notes": ["no inclusion probability of fc1.weight is above 1/2"],
        "collapsed": ["fc1.weight"],
        CONSTANT: -1.0,
    }
    assert sum("fc1.weight" in line for line in remarks(new)) == 1
    old = {"notes": ["something else"], "collapsed": ["fc1.weight"]}
    assert sum("fc1.weight" in line for line in remarks(old)) == 1
    assert remarks({"notes": [], "collapsed": []}) == []
