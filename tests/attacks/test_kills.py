"""Fits that are killed at any instant: the same command, run again, ends with the numbers of one that was not killed.

Every fit is a process of its own, forked from this one so that PyTorch is imported once, and is ended by a real signal:
at a random time, or at the moment at which a file appears. What was killed is run again, and may be killed again.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save_file

import bayesprune.commands.fitting  # noqa: F401  # imported once, before processes are forked
from bayesprune.cli import app as cli
from bayesprune.inference.training import checkpoint
from bayesprune.inference.watching import trace_file
from bayesprune.runs.run_folder import read_summary
from tests.oracles.same_runs import is_same

NETWORK = (
    "from torch import nn\n"
    "def small(shape, outputs):\n"
    "    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, outputs))\n"
)
FITS = {
    "spike and slab": ("--prior", "spike-and-slab", "--epochs", 12, "--restarts", 2),
    "HALO": ("--prior", "halo", "--epochs", 60),
    "unit gates": ("--prior", "unit-gates", "--set", "kappa=0.004", "--gating", "travel=0.5", "--epochs", 60),
}
DEADLINE = 120.0


@dataclass
class Kill:
    """A signal, and when it is sent: after a share of an undisturbed fit's time, or at that share of its files."""

    number: int
    share: float
    at_a_file: bool


class Fits:
    """Runs fits in processes of their own, and kills them."""

    def __init__(self, folder):
        generator = np.random.default_rng(0)
        y = np.arange(150) % 3
        np.savez(folder / "data.npz", x=generator.normal(size=(150, 64)) + np.eye(3, 64)[y], y=y)
        (folder / "networks.py").write_text(NETWORK)
        self.folder = folder
        self.whole = {}

    def arguments(self, name, run):
        fixed = ["--data", self.folder / "data.npz", "--network", f"{self.folder / 'networks.py'}:small"]
        more = ["--batch-size", 30, "--execution", "plain", "--quiet", "--out", run]
        return [str(one) for one in ("fit", *fixed, *FITS[name], *more)]

    def begin(self, name, run):
        """Starts the command, and returns the number of its process."""
        process = os.fork()
        if process:
            return process
        try:  # the child; it never comes back
            errors = os.open(f"{run}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(errors, 2)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            sys.argv = ["bayesprune", *self.arguments(name, run)]
            cli.main()
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(end.code)
        except BaseException:
            os._exit(99)

    def end(self, process, run):
        """Waits for a fit that is to end well, and returns its exit code and what it said."""
        _, status = os.waitpid(process, 0)
        with open(f"{run}.err") as errors:
            return os.waitstatus_to_exitcode(status), errors.read()

    def undisturbed(self, name):
        """A run of the fit that nobody disturbs, its time, and how many files appear meanwhile."""
        if name not in self.whole:
            run = self.folder / f"whole {name}"
            began, seen = time.perf_counter(), 0
            process = self.begin(name, run)
            for appeared in appearing(run):
                seen += appeared
                if has_ended(process):
                    break
            code, said = self.end(process, run)
            assert (code, said) == (0, "")
            self.whole[name] = (run, time.perf_counter() - began, seen)
        return self.whole[name]

    def killed(self, name, run, kill):
        """Runs the fit and sends the signal; returns the exit code, and what it said."""
        _, seconds, files = self.undisturbed(name)
        process = self.begin(name, run)
        due = time.perf_counter() + kill.share * seconds
        if not kill.at_a_file:
            while time.perf_counter() < due and not has_ended(process):
                time.sleep(1e-3)
        else:
            left = int(kill.share * files)
            for appeared in appearing(run):
                left -= appeared
                if left < 0 or has_ended(process):
                    break
        os.kill(process, kill.number)
        return self.end(process, run)


def has_ended(process):
    """Whether a child has ended; it can still be waited for."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def appearing(run):
    """Yields, again and again, whether a file or folder has appeared in RUN.part or beside it."""
    seen = set()
    while True:
        found = set()
        for folder, folders, files in os.walk(f"{run}.part"):
            found |= {f"{folder}/{name}" for name in (*folders, *files)}
        found |= {name for name in os.listdir(run.parent) if run.name in name}
        yield bool(found - seen)
        seen |= found
        time.sleep(2e-4)  # the fit has to get on


def kills(count, terminations, seed):
    """Signals at random instants, every second one at a file; `terminations` of them SIGTERM."""
    generator = random.Random(seed)
    numbers = [signal.SIGTERM] * terminations + [signal.SIGKILL] * (count - terminations)
    generator.shuffle(numbers)
    return [Kill(number, generator.random(), bool(place % 2)) for place, number in enumerate(numbers)]


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint, "SHARE", 0.5)  # a state after almost every epoch, so that there is much to hit
        patched.setattr(checkpoint, "LEAST", 0.0)
        patched.setattr(trace_file, "SHARE", 0.5)
        stub = xr.DataTree(xr.Dataset({"stub": 0}))  # the whole takes as long as the fit, and is not compared
        patched.setattr("bayesprune.analysis.arviz.to_arviz.data_tree", lambda fit, **_: stub)
        yield Fits(tmp_path_factory.mktemp("kills"))


def check(fits, name, planned, folder):
    """Kills fits as planned until every signal has hit one, up to four times each, and lets each end by itself."""
    generator, whole, number = random.Random(len(planned)), fits.undisturbed(name)[0], 0
    waiting = list(planned)
    while waiting:
        run = folder / f"run {number}"
        number += 1
        assert number < 6 * len(planned)
        for _ in range(min(generator.randint(1, 4), len(waiting))):
            kill = waiting.pop()
            code, said = fits.killed(name, run, kill)
            if code == 0 or "exists already" in said:  # it was faster than the signal, which comes earlier next time
                waiting.append(replace(kill, share=kill.share / 2))
                break
            if kill.number == signal.SIGKILL:
                assert code == -signal.SIGKILL, said
            elif code != -signal.SIGTERM:  # else it came before the command had begun to listen
                assert code == cli.TERMINATED and said.startswith("error: terminated; ") and said.count("\n") == 1
        code, said = fits.end(fits.begin(name, run), run)
        assert code == 0 or (code == 2 and "exists already" in said), said
        assert is_same(run, whole)
        left = sorted(path.name for path in folder.iterdir() if path.suffix != ".err")
        assert left == sorted(f"run {one}" for one in range(number))  # no RUN.part, nothing hidden


def test_the_numbers_are_told_apart(fits, tmp_path):
    one = fits.undisturbed("spike and slab")[0]
    other = shutil.copytree(one, tmp_path / "other")
    assert is_same(one, other)
    file = other / "restart-1.safetensors"
    numbers = load_file(file)
    name = next(name for name, value in numbers.items() if value.is_floating_point())
    numbers[name].view(-1)[0].nextafter_(torch.tensor(torch.inf))  # the least difference that there is
    save_file(numbers, file)
    assert not is_same(one, other)


@pytest.mark.slow  # with the kills of the fit with gates, which it belongs to
def test_units_leave_in_the_midst_of_the_fit_with_gates(fits):
    (report,) = read_summary(fits.undisturbed("unit gates")[0])["gating"]
    steps = [one["step"] for one in report["removals"]]
    assert len(steps) > 3 and min(steps) < 100 < max(steps) < 300  # of 300


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "spike and slab" else pytest.mark.slow) for name in FITS]
)
def test_a_fit_that_is_killed_now_and_then_ends_with_the_same_numbers(name, fits, tmp_path):
    check(fits, name, kills(2, 1, seed=0), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count", "terminations"), [(name, 20, 4 if name == "HALO" else 3) for name in FITS])
@pytest.mark.timeout(1800)
def test_a_fit_that_is_killed_at_any_instant_ends_with_the_same_numbers(name, count, terminations, fits, tmp_path):
    check(fits, name, kills(count, terminations, seed=1), tmp_path)
