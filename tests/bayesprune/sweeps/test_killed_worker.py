"""A sweep one of whose workers is killed in the middle of a trial, in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from bayesprune.runs.run_folder import read_summary
from bayesprune.sweeps.loading import load_sweep
from bayesprune.sweeps.plan import read_plan
from bayesprune.sweeps.study import loaded, planned_trials
from bayesprune.sweeps.trial import RunTrial

LONG = 1200
"""Steps of the trial that is killed: a state is kept after five seconds."""
STEPS = [*range(28, 42), LONG]
SEEDS = (0, 1)
SAME = {"data": "digits", "network": "lenet-300-100", "width": 0.05, "prior": "halo", "execution": "plain"}


def begun(out, *more):
    options = [word for name, value in SAME.items() for word in (f"--{name}", str(value))]
    command = [
        *(sys.executable, "-m", "bayesprune", "sweep", *options, "--set", f"steps={','.join(map(str, STEPS))}"),
        *("--seeds", "0-1", "--workers", "3", "--out", str(out), *more),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def victim(out, process, patience):
    """The process that fits the long trial of the first seed, as soon as a state of it is kept."""
    run = RunTrial(out, SAME).place({"steps": LONG, "seed": 0})
    until = time.monotonic() + patience
    while time.monotonic() < until and process.poll() is None:
        if list(run.parent.glob(f"{run.name}.part/state/restart-0.json")):
            trial = next(
                one
                for one in planned_trials(loaded(read_plan(out)))
                if one.settings == {"steps": LONG} and one.seeds == (0,)
            )
            assert trial.state == "running"
            return trial.worker["process"]
        time.sleep(0.1)
    raise AssertionError(f"no state of {run} within {patience} s: {process.communicate()}")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_thirty_trials_of_three_workers_one_of_them_killed(tmp_path):
    out = tmp_path / "sweep"
    process = begun(out, "--no-prune")
    try:
        os.kill(victim(out, process, 600), signal.SIGKILL)
        _, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, errors

    trials = planned_trials(loaded(read_plan(out)))
    assert [one.state for one in trials] == ["complete"] * 30, errors
    asked = {(one.settings["steps"], one.seeds) for one in trials}
    assert asked == {(steps, (seed,)) for steps in STEPS for seed in SEEDS}
    runs = {run["run"] for one in trials for run in one.runs}
    assert len(runs) == 30 and all(len(one.runs) == 1 for one in trials)
    assert {path.name for path in out.iterdir() if path.is_dir()} == {os.path.basename(run) for run in runs}
    complete = [one for one in loaded(read_plan(out)).trials if one.state.name == "COMPLETE"]
    assert len(complete) == 30  # none twice

    resumed = {run: read_summary(run)["resumed_at_epoch"] for run in runs}
    killed = RunTrial(out, SAME).place({"steps": LONG, "seed": 0})
    assert {run for run, epoch in resumed.items() if epoch} == {str(killed)}
    found = load_sweep(out)
    assert sum(one.state == "complete" for one in found.fits) == 30
    assert len(json.loads((out / "front.json").read_text())["settings"]) == len(STEPS)

    # What went on has the numbers of a fit that was not killed.
    whole = RunTrial(tmp_path / "whole", SAME)({"steps": LONG, "seed": 0})
    gone_on = json.loads(killed.with_suffix(".json").read_text())["scores"]
    same = [name for name in whole if name not in ("seconds", "run", "resumed_at_epoch")]
    assert {name: gone_on[name] for name in same} == {name: whole[name] for name in same}
    print(f"resumed at epoch {resumed[str(killed)]}; {whole['validation_nll']:.6f} nats")
