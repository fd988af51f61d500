"""What several tests of the command line share."""

from __future__ import annotations

import pytest

from bayesprune import cli

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


@pytest.fixture(scope="session")
def networks_file(tmp_path_factory):
    """A file with small networks: `small`, `normalised`, `regression`."""
    file = tmp_path_factory.mktemp("networks") / "small_networks.py"
    file.write_text(NETWORKS)
    return file


@pytest.fixture(scope="session")
def made():
    """Runs a command that has to end well, for fixtures of a wider scope."""

    def call(*arguments):
        assert cli.run([str(argument) for argument in arguments]) == 0

    return call


@pytest.fixture
def command(capsys):
    """Runs the command line in this process: (exit code, standard output, standard error)."""

    def call(*arguments):
        code = cli.run([str(argument) for argument in arguments])
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
