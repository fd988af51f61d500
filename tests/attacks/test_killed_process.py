"""A fit of two processes one of which is killed at any instant: one sentence, no orphan, and the same command goes on.

The instants are new in each run; what is printed repeats it: `BAYESPRUNE_KILLS=SEED`.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from bayesprune.runs.part_folder import what_is_kept
from bayesprune.runs.run_folder import read_summary
from tests.oracles.started_commands import MODULES, begun, ended

KILLS, LONGEST = 10, 14.0
"""How often; seconds after the fit has begun, of which it takes more, and keeps its first state after five."""
NETWORK = (
    "from torch import nn\n"
    "def small(shape, outputs):\n"
    "    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, outputs))\n"
)
SAID = {0: "process 0 of the fit was ended by SIGKILL", 1: "process 1 of the fit was ended by SIGKILL"}


@pytest.fixture
def arguments(tmp_path):
    """The same command but for the number of processes."""
    generator = np.random.default_rng(0)
    y = np.arange(600) % 3
    np.savez(tmp_path / "data.npz", x=generator.normal(size=(600, 64)) + np.eye(3, 64)[y], y=y)
    (tmp_path / "networks.py").write_text(NETWORK)

    def make(run, processes):
        given = ["fit", "--data", tmp_path / "data.npz", "--network", f"{tmp_path / 'networks.py'}:small", "--quiet"]
        given += ["--prior", "halo", "--batch-size", 60, "--execution", "plain", "--epochs", 800, "--out", run]
        return [*given, "--processes", processes]

    return make


def check(arguments, run, victim, instant, processes):
    """Kills one of two processes that long after the fit has begun; returns the epoch that was kept, or 0.

    None where the fit was faster.
    """
    fit, part = begun(arguments(run, 2)), run.with_name(f"{run.name}.part")
    while not (part / "command.json").is_file():
        assert fit.poll() is None, fit.communicate()
        time.sleep(0.05)
    time.sleep(instant)
    workers = sorted(psutil.Process(fit.pid).children(), key=lambda one: one.pid) if fit.poll() is None else []
    if len(workers) == 2:
        workers[victim].kill()
    code, out, err, left = ended(fit)
    if code == 0:
        return None
    assert (code, out, left) == (1, "", 0), err
    assert err.startswith(f"error: {SAID[victim]}") and err.endswith("\n") and err.count("\n") == 1
    kept = what_is_kept(part) if part.exists() else None
    if kept is not None:
        assert f"{part} keeps the state after epoch {kept.epoch}: the same command goes on there" in err

    code, out, err, left = ended(begun(arguments(run, processes)))
    assert (code, out, err, left) == (0, "", "", 0)
    found = read_summary(run)
    assert found["processes"] == processes and found["epochs"] == 800
    assert found["resumed_at_epoch"] == (None if kept is None else kept.epoch + 1)
    assert not part.exists()
    return 0 if kept is None else kept.epoch


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_one_of_two_processes_is_killed_at_any_instant(arguments, tmp_path):
    seed = int(os.environ.get("BAYESPRUNE_KILLS", random.randrange(2**32)))
    print(f"BAYESPRUNE_KILLS={seed}")
    generator, kept = random.Random(seed), []
    for number in range(KILLS):
        victim, instant, epoch, tries = number % 2, LONGEST * generator.random(), None, 0
        while epoch is None:
            run, tries = tmp_path / f"run {number} {tries}", tries + 1
            epoch, instant = check(arguments, run, victim, instant, (1, 3)[number // 2 % 2]), instant / 2
        kept.append(epoch)
        print(f"process {victim} after {2 * instant:.2f} s: kept epoch {epoch}", flush=True)
    assert sum(1 for epoch in kept if epoch > 0) >= 2  # else the instants have tested nothing


@pytest.mark.slow
def test_what_the_first_process_finds_ends_the_others_silently(arguments, tmp_path):
    (tmp_path / "run").mkdir()
    code, out, err, left = ended(begun(arguments(tmp_path / "run", 2)))
    assert (code, out, left) == (2, "", 0)
    assert err == f"error: {tmp_path / 'run'} exists already: choose another folder for --out, or remove it\n"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_torchrun_is_a_launcher_too(arguments, tmp_path):
    *given, _, _ = arguments(tmp_path / "run", 2)
    code = f"{MODULES}from torch.distributed.run import main; main()"
    line = [sys.executable, "-c", code, "--standalone", "--nproc-per-node", "2", "-m", "bayesprune", *map(str, given)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in sys.path if place)}
    fit = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    while not (tmp_path / "run.part" / "command.json").is_file():
        assert fit.poll() is None, fit.communicate()
        time.sleep(0.05)
    time.sleep(8.0)
    max(psutil.Process(fit.pid).children(), key=lambda one: one.pid).kill()
    code, out, err, left = ended(fit)
    assert (code, out, left) == (1, "", 0), err
    (said,) = [line for line in err.splitlines() if line.startswith("error: ")]  # beside the report of torchrun
    kept = what_is_kept(tmp_path / "run.part")
    assert "process of the fit has ended" in said and f"after epoch {kept.epoch}: the same command goes on" in said

    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=600)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    found = read_summary(tmp_path / "run")
    assert found["processes"] == 2 and found["resumed_at_epoch"] == kept.epoch + 1
