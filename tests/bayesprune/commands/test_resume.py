"""Interrupted fits of the command line: the same command goes on with the same numbers, another one is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import bayesprune.commands.fitting
from bayesprune.cli import app as cli
from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.training import checkpoint
from bayesprune.inference.watching.trace_file import WriteTrace, read_progress
from bayesprune.models.files.processes import _started
from bayesprune.runs.run_folder import read_summary
from tests.oracles.same_runs import is_same

EARLY_GATES = ("--set", "kappa=0.002", "--set", "weight_scale=0.3", "--gating", "travel=0.5", "--gating", "delay=0")
"""Gates that have moved before a fit of few epochs is interrupted."""
CYCLES = ("--recipe", "cyclic", "--budget", "density=0.1", "--recipe-set", "ends=0.8", "--guide", "map")
"""Masks in the middle of a cycle when a fit is interrupted."""


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """States are written after every epoch, whatever it costs."""
    monkeypatch.setattr(checkpoint, "SHARE", 1.0)
    monkeypatch.setattr(checkpoint, "LEAST", 0.0)
    monkeypatch.setattr("bayesprune.runs.run_folder.ARVIZ_DRAWS", 2)


@pytest.fixture
def arguments(data, networks_file):
    def make(out, *more, prior="spike-and-slab", epochs=4):
        fixed = ["--network", f"{networks_file}:small", "--epochs", epochs, "--batch-size", 30, "--execution", "plain"]
        return ["fit", "--data", data, "--prior", prior, "--out", out, *fixed, "--quiet", *more]

    return make


class Broken(Exception):
    """What ends a fit in these tests."""


@pytest.fixture
def broken(command, monkeypatch):
    """Runs a fit that an exception ends in the given epoch of all restarts: (exit code, out, err)."""

    def call(given, epoch, problem=Broken):
        def on_step(watcher, state):
            if state.restart * state.epochs + state.epoch == epoch:
                raise problem

        with monkeypatch.context() as patched:
            patched.setattr(WriteTrace, "on_step", on_step)
            return command(*given)

    return call


# -- going on ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "more"),
    [
        ("spike-and-slab", ()),
        ("halo", ()),
        ("horseshoe", ("--restarts", 2, "--epochs", 3)),
        ("unit-gates", (*EARLY_GATES, "--epochs", 8)),
        ("gaussian", (*CYCLES, "--epochs", 8)),
    ],
)
def test_the_same_command_goes_on_with_the_same_numbers(prior, more, arguments, broken, command, tmp_path):
    given = [arguments(tmp_path / name, *more, prior=prior) for name in ("whole", "run", "other")]
    assert command(*given[0])[0] == 0
    code, _, err = broken(given[1], 3)
    assert code == 1 and not (tmp_path / "run").exists()
    assert f"{tmp_path / 'run.part'} keeps the state after epoch 3" in err and "--fresh begins anew" in err
    assert command(*given[1]) == (0, "", "")
    assert is_same(tmp_path / "whole", tmp_path / "run")
    assert read_summary(tmp_path / "run")["resumed_at_epoch"] == (1 if prior == "horseshoe" else 4)  # of restart 2
    assert read_summary(tmp_path / "whole")["resumed_at_epoch"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "whole"]
    if prior == "halo":  # the control
        assert command(*given[2], "--seed", 1)[0] == 0
        assert not is_same(tmp_path / "whole", tmp_path / "other")


def test_no_epoch_is_trained_twice_that_was_kept(arguments, broken, command, tmp_path, monkeypatch):
    broken(arguments(tmp_path / "run"), 3)
    steps, write = [], WriteTrace.on_epoch
    monkeypatch.setattr(
        WriteTrace, "on_epoch", lambda watcher, state: (steps.append(state.epoch), write(watcher, state))
    )
    assert command(*arguments(tmp_path / "run"))[0] == 0
    assert steps == [4]


def test_a_fit_that_is_done_is_scored_and_written_without_training(arguments, command, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise Broken("no score")

    with monkeypatch.context() as patched:
        patched.setattr("bayesprune.commands.fitting.summarise_run", fails)
        code, _, err = command(*arguments(tmp_path / "run"))
    part = tmp_path / "run.part"
    assert code == 1 and f"the fit itself is in {part / 'run'}; the same command makes the run folder of it" in err
    assert {"fit.json", "restart-0.safetensors", "trace.nc"} <= {path.name for path in (part / "run").iterdir()}
    monkeypatch.setattr("torch.optim.Adam.step", fails)  # nothing is trained any more
    assert command(*arguments(tmp_path / "run"))[0] == 0
    assert read_summary(tmp_path / "run")["resumed_at_epoch"] == 5
    assert not part.exists()


def test_fresh_begins_anew(arguments, broken, command, tmp_path):
    broken(arguments(tmp_path / "run"), 3)
    assert command(*arguments(tmp_path / "run"), "--fresh")[0] == 0
    assert read_summary(tmp_path / "run")["resumed_at_epoch"] is None


def test_fresh_may_have_other_options(arguments, broken, command, tmp_path):
    broken(arguments(tmp_path / "run"), 3)
    assert command(*arguments(tmp_path / "run", "--seed", 1), "--fresh")[0] == 0
    assert read_summary(tmp_path / "run")["seeds"] == [1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--seed", 1), "--seed 0, but now it is 1"),
        (("--epochs", 5), "--epochs 4, but now it is 5"),
        (("--learning-rate", 0.01), "--learning-rate 0.001, but now it is 0.01"),
        (("--set", "slab_sd=0.5"), "--set {}, but now it is {'slab_sd': 0.5}"),
        (("--restarts", 2), "--restarts 1, but now it is 2"),
        (("--guide", "meanfield"), "--guide not given, but now it is meanfield"),
        (("--likelihood", "categorical"), "--likelihood not given, but now it is categorical"),
    ],
)
def test_other_options_are_refused_with_what_differs(more, said, arguments, broken, refused, command, tmp_path):
    broken(arguments(tmp_path / "run"), 2)
    refused([*arguments(tmp_path / "run"), *more], said, "--fresh")
    assert command(*arguments(tmp_path / "run"))[0] == 0  # control: what was kept is as it was
    assert read_summary(tmp_path / "run")["resumed_at_epoch"] == 3


def test_data_and_priors_that_have_changed_are_refused(arguments, broken, refused, data, tmp_path, networks_file):
    mine, prior = tmp_path / "data.npz", tmp_path / "prior.py"
    mine.write_bytes(data.read_bytes())
    text = "import bayesprune as bp, pyro.distributions as dist\nmine = bp.Hierarchy(weight=dist.Normal(0.0, {}))\n"
    prior.write_text(text.format(1.0))
    given = [*arguments(tmp_path / "run", prior=f"{prior}:mine"), "--data", mine]
    broken(given, 2)
    prior.write_text(text.format(2.0))
    refused(given, "a fit with model", "--fresh begins anew")
    prior.write_text(text.format(1.0))
    with np.load(data) as found:
        np.savez(mine, x=found["x"] + 1e-3 * np.arange(120)[:, None], y=found["y"])
    refused(given, "a fit with data", "--fresh begins anew")


def test_a_damaged_state_is_refused_and_fresh_is_named(arguments, broken, refused, command, tmp_path):
    broken(arguments(tmp_path / "run"), 2)
    (file,) = (tmp_path / "run.part" / "state").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    refused(arguments(tmp_path / "run"), "is damaged", "--fresh begins anew")
    assert command(*arguments(tmp_path / "run"), "--fresh")[0] == 0


@pytest.mark.parametrize("fresh", [False, True])
def test_another_machine_goes_on_at_once_after_a_tidy_end(fresh, arguments, broken, command, tmp_path):
    broken(arguments(tmp_path / "run"), 2, KeyboardInterrupt)
    file = tmp_path / "run.part" / "progress.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "host": "elsewhere"}))
    assert "seems to have died" in command("show", tmp_path / "run")[1]
    assert command(*arguments(tmp_path / "run"), *(["--fresh"] if fresh else []))[0] == 0
    assert read_summary(tmp_path / "run")["resumed_at_epoch"] == (None if fresh else 3)


def test_a_fit_that_was_killed_elsewhere_gives_way_to_fresh_alone(arguments, broken, refused, command, tmp_path):
    broken(arguments(tmp_path / "run"), 2)
    file = tmp_path / "run.part" / "progress.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "host": "elsewhere", "ended": False}))
    refused(arguments(tmp_path / "run"), "on elsewhere, last heard of", "wait until it has been silent", "--fresh")
    assert (tmp_path / "run.part" / "state" / "restart-0.json").is_file()
    assert command(*arguments(tmp_path / "run"), "--fresh")[0] == 0


def test_a_run_that_comes_to_the_place_meanwhile_costs_no_fit(arguments, command, refused, tmp_path, monkeypatch):
    run, part = tmp_path / "run", tmp_path / "run.part"
    summarise = bayesprune.commands.fitting.summarise_run

    def summarised(*given, **more):
        run.mkdir()
        (run / "fit.json").write_text("{}")
        return summarise(*given, **more)

    with monkeypatch.context() as patched:
        patched.setattr("bayesprune.commands.fitting.summarise_run", summarised)
        err = refused(arguments(run), "run exists already", f"the fit itself is in {part / 'run'}")
    assert "nothing was written" not in err and (part / "run" / "fit.json").is_file()
    shutil.rmtree(run)
    assert command(*arguments(run))[0] == 0 and read_summary(run)["resumed_at_epoch"] == 5


def test_a_state_that_cannot_be_read_is_not_taken_for_none(arguments, broken, refused, command, tmp_path):
    broken(arguments(tmp_path / "run"), 2)
    file = tmp_path / "run.part" / "state" / "restart-0.json"
    stored = file.read_bytes()
    file.write_bytes(stored[:-20])
    for more in ((), ("--seed", 5)):
        refused([*arguments(tmp_path / "run"), *more], "--fresh")
    assert "is damaged" in command("show", tmp_path / "run")[1]
    file.write_bytes(stored)
    assert command(*arguments(tmp_path / "run"))[0] == 0 and read_summary(tmp_path / "run")["resumed_at_epoch"] == 3


def test_a_refused_command_leaves_a_fit_that_is_done(arguments, command, refused, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise Broken("no score")

    with monkeypatch.context() as patched:
        patched.setattr("bayesprune.commands.fitting.summarise_run", fails)
        assert command(*arguments(tmp_path / "run"))[0] == 1
    refused([*arguments(tmp_path / "run"), "--seed", 7], "--seed 0, but now it is 7")
    assert (tmp_path / "run.part" / "run" / "fit.json").is_file()


def test_files_of_others_in_the_part_folder_neither_block_nor_go(arguments, broken, command, tmp_path):
    broken(arguments(tmp_path / "run"), 2)
    for name in (".DS_Store", ".nfs0001", "notes.txt"):
        (tmp_path / "run.part" / name).write_text("mine")
    assert command(*arguments(tmp_path / "run"))[0] == 0
    assert [path.name for path in (tmp_path / "run.part").iterdir()] == ["notes.txt"]


def test_a_changed_forward_is_another_network(data, broken, refused, tmp_path, arguments):
    file = tmp_path / "net.py"
    text = (
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self, shape, outputs):\n"
        "        super().__init__()\n        self.a, self.b = nn.Linear(64, 8), nn.Linear(8, outputs)\n"
        "    def forward(self, x):\n        return self.b(torch.{}(self.a(x)))\n"
    )
    file.write_text(text.format("relu"))
    given = [*arguments(tmp_path / "run"), "--network", f"{file}:Net"]
    broken(given, 2)
    file.write_text(text.format("tanh"))
    refused(given, "with the code of --network")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_will_do(number, arguments, command, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("bayesprune.runs.part_folder.fcntl.flock", flock)
    assert command(*arguments(tmp_path / "run"))[0] == 0


def test_the_same_data_in_another_spelling_are_the_same(arguments, broken, command, data, tmp_path, monkeypatch):
    broken(arguments(tmp_path / "run"), 2)
    monkeypatch.chdir(data.parent)
    given = [f"../{data.parent.name}/{data.name}" if one == data else one for one in arguments(tmp_path / "run")]
    assert command(*given)[0] == 0 and read_summary(tmp_path / "run")["resumed_at_epoch"] == 3


def test_after_a_loss_that_is_not_finite_nobody_is_sent_there_again(arguments, broken, tmp_path):
    problem = NonFiniteLossError("the loss became non-finite at step 11")
    code, _, err = broken(arguments(tmp_path / "run"), 2, problem)
    assert code == 1 and "begin anew by --fresh, with other options" in err and "goes on there" not in err


def test_the_time_that_is_left_counts_the_steps_of_this_call(arguments, broken, command, tmp_path, monkeypatch):
    broken(arguments(tmp_path / "run", epochs=10), 8)
    seen, write = [], WriteTrace._write

    def written(watcher, state, finished):
        write(watcher, state, finished)
        seen.append(read_progress(watcher.folder))

    monkeypatch.setattr("bayesprune.inference.watching.trace_file.SHARE", 1.0)
    monkeypatch.setattr(WriteTrace, "_write", written)
    assert command(*arguments(tmp_path / "run", epochs=10))[0] == 0
    assert seen[0].epoch == 9 and seen[0].steps_before == 8 * seen[0].step // 9
    assert seen[0].seconds_left == pytest.approx(seen[0].seconds)


# -- dead and living -----------------------------------------------------------------------------------------


def test_a_process_number_that_was_given_away_again_does_not_block(arguments, broken, refused, command, tmp_path):
    broken(arguments(tmp_path / "run"), 2)
    file = tmp_path / "run.part" / "progress.json"
    living = {**json.loads(file.read_text()), "process": os.getppid(), "ended": False}
    started = _started(os.getppid())
    file.write_text(json.dumps({**living, "started": started}))
    refused(arguments(tmp_path / "run"), "another fit is being written to", f"process {os.getppid()}")
    refused([*arguments(tmp_path / "run"), "--fresh"], "another fit is being written to")
    file.write_text(json.dumps({**living, "started": started - 1000.0}))  # another process had that number
    assert "seems to have died" in command("show", tmp_path / "run")[1]
    assert command(*arguments(tmp_path / "run"))[0] == 0


def test_what_was_killed_between_the_move_and_the_end_is_tidied_up(arguments, command, refused, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("bayesprune.runs.part_folder._remove_part", lambda folder: None)
        assert command(*arguments(tmp_path / "run"))[0] == 0
    assert (tmp_path / "run.part" / "complete").is_file()
    refused(arguments(tmp_path / "run"), "run exists already")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_state_is_not_removed_because_another_run_stands_there(arguments, broken, refused, tmp_path):
    broken(arguments(tmp_path / "run"), 2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "fit.json").write_text("{}")
    refused(arguments(tmp_path / "run"), "run exists already")
    assert (tmp_path / "run.part" / "state").is_dir()


def test_a_dead_fit_says_where_the_same_command_goes_on(arguments, broken, command, tmp_path):
    broken(arguments(tmp_path / "run", "--restarts", 2), 6)
    file = tmp_path / "run.part" / "progress.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "process": 2**22 - 1}))
    assert (
        "the state after epoch 2 of restart 2: the same command goes on there" in command("show", tmp_path / "run")[1]
    )


# -- ended by hand -------------------------------------------------------------------------------------------


def test_ctrl_c_says_what_is_kept(arguments, broken, command, tmp_path):
    code, _, err = broken(arguments(tmp_path / "run"), 2, KeyboardInterrupt)
    assert code == cli.INTERRUPTED and err.count("\n") == 1
    assert err.startswith(f"error: interrupted; {tmp_path / 'run.part'} keeps the state after epoch 2")
    code, _, err = broken(arguments(tmp_path / "other"), 0, KeyboardInterrupt)
    assert (code, err) == (cli.INTERRUPTED, "error: interrupted; nothing was written\n")
    assert not (tmp_path / "other.part").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_fit_as_ctrl_c_does(number, arguments, command, tmp_path, monkeypatch):
    given = arguments(tmp_path / "run", epochs=100_000)
    fit = subprocess.Popen([sys.executable, "-m", "bayesprune", *map(str, given)], stderr=subprocess.PIPE, text=True)
    state = tmp_path / "run.part" / "state"
    deadline = time.monotonic() + 120
    while not list(state.glob("restart-0.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    fit.send_signal(number)
    _, err = fit.communicate(timeout=60)
    assert fit.returncode == cli.TERMINATED
    assert err.startswith(f"error: terminated; {tmp_path / 'run.part'} keeps the state after epoch ")
    assert err.count("\n") == 1


# -- permissions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o077, 0o002])
def test_a_run_has_the_permissions_of_the_users_own_files(mask, arguments, broken, command, tmp_path):
    before = os.umask(mask)
    try:
        broken(arguments(tmp_path / "run"), 2)
        interrupted = modes(tmp_path / "run.part")
        assert command(*arguments(tmp_path / "run"))[0] == 0
        assert command("prune", tmp_path / "run", "--sparsity", 0.5, "--compact", "--out", tmp_path / "pruned")[0] == 0
    finally:
        os.umask(before)
    for found in (interrupted, modes(tmp_path / "run"), modes(tmp_path / "pruned")):
        assert len(found) > 4 and {oct(0o777 & ~mask), oct(0o666 & ~mask)} >= set(found.values()), found


def modes(folder):
    return {str(path): oct(path.stat().st_mode & 0o777) for path in (folder, *folder.rglob("*"))}


# -- scores --------------------------------------------------------------------------------------------------


def test_a_score_that_is_not_finite_loses_nothing(command, networks_file, tmp_path):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(90, 4))
    y = x[:, 0] + 0.1 * generator.normal(size=90)
    split = {"x_test": x[70:], "y_test": np.where(np.arange(20) == 3, 9.97e36, y[70:])}
    np.savez(tmp_path / "fill.npz", x=x[:70], y=y[:70], **split)
    fixed = ["--network", f"{networks_file}:regression", "--epochs", 2]
    given = ["fit", "--data", tmp_path / "fill.npz", "--prior", "gaussian", "--out", tmp_path / "run", *fixed]
    code, out, err = command(*given)
    assert (code, err.count("error")) == (0, 0)
    found = read_summary(tmp_path / "run")
    assert found["nll"] is None and found["per_restart"][0]["test_nll"] is None and found["test_rmse"] > 1e36
    (note,) = [note for note in found["notes"] if "not finite" in note]
    assert note.startswith("nll: not finite") and note in " ".join(out.split())
    for other in ("show", "compare"):
        assert command(other, tmp_path / "run")[0] == 0
    assert command("prune", tmp_path / "run", "--sparsity", 0.5, "--out", tmp_path / "pruned")[0] == 0
    pruned = json.loads((tmp_path / "pruned" / "summary.json").read_text())
    assert pruned["test_nll_before"] is None and pruned["test_rmse_after"] > 1e36


# -- how often -----------------------------------------------------------------------------------------------


class Clock:
    """A clock by hand: an epoch takes ten seconds, writing a state one."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


def test_states_take_less_than_a_fiftieth_of_the_time(arguments, command, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARE", SHARE)
    monkeypatch.setattr(checkpoint, "LEAST", LEAST)
    clock, written, end, flush = Clock(), [], WriteTrace.on_epoch, checkpoint.flush

    def on_epoch(watcher, state):
        clock.now += 10.0
        end(watcher, state)

    def write(file):
        if file.suffix == ".safetensors":
            clock.now += 1.0
            written.append(clock.now)
        flush(file)

    monkeypatch.setattr(checkpoint, "time", clock)
    monkeypatch.setattr(WriteTrace, "on_epoch", on_epoch)
    monkeypatch.setattr(checkpoint, "flush", write)
    assert command(*arguments(tmp_path / "run", epochs=40))[0] == 0
    assert written[0] == 11.0  # after the first epoch
    assert len(written) == 5 and min(np.diff(written)) >= 45.0  # after some 100 seconds each, and at the end
    assert len(written) / clock.now < 0.02


SHARE, LEAST = checkpoint.SHARE, checkpoint.LEAST
