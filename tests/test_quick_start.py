"""The face stays quick: what Python imports, and how long it takes, before anything is asked of the package."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.test_structure import ROOT

SECOND = 1.0


def fresh_process(*arguments):
    """Runs Python anew and returns (seconds, what it wrote)."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    return seconds, done.stdout + done.stderr


def least_seconds(*arguments, times=3):
    """The least over fresh processes, so that no neighbour counts, nor the first, which may have to compile."""
    fresh_process(*arguments)
    return min(fresh_process(*arguments)[0] for _ in range(times))


def modules_imported(*arguments):
    """The names of all modules that a fresh Python imports, as its -X importtime reports them."""
    _, written = fresh_process("-X", "importtime", *arguments)
    lines = [line for line in written.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip() for line in lines}


QUICK = {
    "import bayesprune": ("-c", "import bayesprune"),
    "bayesprune --help": ("-m", "bayesprune", "--help"),
}
HEAVY = {"torch", "pyro", "arviz", "matplotlib", "xarray", "sklearn", "torchvision", "pandas"}


@pytest.mark.parametrize("arguments", QUICK.values(), ids=QUICK)
def test_the_face_takes_less_than_a_second(arguments):
    assert least_seconds(*arguments) < SECOND


@pytest.mark.parametrize("arguments", QUICK.values(), ids=QUICK)
def test_the_face_does_not_import_what_is_heavy(arguments):
    imported = modules_imported(*arguments)
    assert "bayesprune" in imported
    assert imported & HEAVY == set()


def test_a_slow_or_heavy_start_is_caught():
    assert least_seconds("-c", "import time; time.sleep(1.0)", times=1) > SECOND
    assert "networkx" in modules_imported("-c", "import networkx")
