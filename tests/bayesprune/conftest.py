"""What several tests of the command line share."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from bayesprune.cli import app as cli

NETWORKS = """
from torch import nn

def small(input_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, outputs))

def normalised(input_shape, outputs):
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, outputs)
    )

def regression(input_shape, outputs):
    return nn.Sequential(nn.Linear(input_shape[0], 6), nn.ReLU(), nn.Linear(6, outputs))
"""


READERS = ("show", "prune", "predict")
"""Commands that read a folder back. The networks of these tests are their own, so they are trusted here; what is
refused without it, tests/attacks/test_code_execution.py checks."""


def as_trusted(arguments):
    """Arguments as text, with --trust-code where a folder is read."""
    given = [str(argument) for argument in arguments]
    return [*given, "--trust-code"] if given[0] in READERS else given


@pytest.fixture(autouse=True)
def stub_of_arviz(monkeypatch):
    """The arviz.nc of runs that a test makes is a stub: to write it takes as long as all the rest of a small fit.

    Runs that a fixture of a wider scope makes have theirs, and test_run_folder looks at it.
    """
    stub = xr.DataTree(xr.Dataset({"stub": 0}))
    monkeypatch.setattr("bayesprune.analysis.arviz.to_arviz.data_tree", lambda fit, **_: stub)


@pytest.fixture(scope="session")
def networks_file(tmp_path_factory):
    """A file with small networks: `small`, `normalised`, `regression`."""
    file = tmp_path_factory.mktemp("networks") / "small_networks.py"
    file.write_text(NETWORKS)
    return file


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A file of 120 examples of 64 features and three classes."""
    generator = np.random.default_rng(0)
    y = np.arange(120) % 3
    file = tmp_path_factory.mktemp("data") / "labels.npz"
    np.savez(file, x=generator.normal(size=(120, 64)) + np.eye(3, 64)[y], y=y)
    return file


@pytest.fixture(scope="session")
def made():
    """Runs a command that has to end well, for fixtures of a wider scope."""

    def call(*arguments):
        assert cli.run(as_trusted(arguments)) == 0

    return call


@pytest.fixture
def command(capsys):
    """Runs the command line in this process: (exit code, standard output, standard error)."""

    def call(*arguments):
        code = cli.run(as_trusted(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def refused(command):
    """Runs a command that has to be refused in one line that says all of the parts."""

    def call(arguments, *parts):
        code, out, err = command(*arguments)
        assert code == 2, err
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
        assert "Traceback" not in out + err
        for part in parts:
            assert part in err
        return err

    return call
