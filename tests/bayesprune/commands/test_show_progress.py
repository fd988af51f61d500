"""`bayesprune show` of a run that is being fitted, and the folder beside the run that it reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import xarray as xr

from bayesprune.commands.showing_progress import _duration, show_progress
from bayesprune.inference.watching import trace_file
from bayesprune.inference.watching.trace_file import read_progress, read_trace
from bayesprune.models.files.json_file import write_json
from bayesprune.runs.part_folder import part_folder, writing_part
from bayesprune.runs.run_folder import load_run


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(trace_file, "SHARE", 1.0)  # every epoch is written
    monkeypatch.setattr("bayesprune.runs.run_folder.ARVIZ_DRAWS", 2)


def fit_arguments(data, networks_file, out, *more, prior="spike-and-slab", epochs=3):
    network = f"{networks_file}:small"
    arguments = ["fit", "--data", data, "--prior", prior, "--network", network, "--out", out, "--epochs", epochs]
    return [*arguments, "--batch-size", 60, "--quiet", "--execution", "plain", *more]


@pytest.fixture
def watched(command, monkeypatch):
    """Fits by the command line and runs another command after one of the epochs: (its result, files at that time)."""

    def fit(arguments, epoch, *other):
        seen, write = [], trace_file.WriteTrace.on_epoch

        def on_epoch(watcher, state):
            write(watcher, state)
            if state.restart * state.epochs + state.epoch == epoch:
                seen.append((command(*other), {path.name for path in watcher.folder.iterdir()}))

        monkeypatch.setattr(trace_file.WriteTrace, "on_epoch", on_epoch)
        code, _, err = command(*arguments)
        assert code == 0, err
        (found,) = seen
        return found

    return fit


def test_a_run_in_progress_is_shown_and_its_traces_are_gone_afterwards(watched, data, networks_file, tmp_path):
    run = tmp_path / "new" / "run"
    arguments = fit_arguments(data, networks_file, run, "--set", "slab_sd=0.5", "--restarts", 2)
    (code, out, err), files = watched(arguments, 5, "show", run)
    assert (code, err) == (0, "")
    assert files == {"trace.nc", "progress.json", "command.json", "lock", "state"}
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if " " in line)
    assert lines["data"] == str(data) and lines["prior"] == "spike-and-slab (slab_sd=0.5)"
    assert lines["state"].startswith(f"in progress (process {os.getpid()} on ") and "last written" in lines["state"]
    assert lines["progress"].startswith("epoch 2 of 3, restart 2 of 2; ") and lines["progress"].endswith(" left")
    trace = load_run(run, trust_code=True).trace
    likelihood, kl = (float(trace[name][1, 1]) for name in ("expected_log_likelihood", "kl"))
    weight = float(trace.kl_weight[1, 1])
    expected = f"ELBO {likelihood - kl:,.0f} nats: E[log-likelihood] {likelihood:,.0f}, KL {kl:,.0f}"
    assert lines["objective"] == expected + ("" if weight == 1 else f"; weight of the KL term {weight:.2g}")
    assert lines["validation"].startswith(f"accuracy {float(trace.validation_accuracy[1, 1]):.4g}, nll ")
    sparsity = 100 * float(trace.sparsity.sel(tensor="1.weight")[1, 1])
    assert f"{sparsity:.2f} %" in next(line for line in out.splitlines() if line.strip().startswith("1.weight"))
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_a_fit_that_ends_while_it_is_looked_at_is_shown_as_a_run(command, data, networks_file, tmp_path, monkeypatch):
    assert command(*fit_arguments(data, networks_file, tmp_path / "run", epochs=1))[0] == 0
    monkeypatch.setattr("bayesprune.commands.showing.find_part", part_folder)
    code, out, err = command("show", tmp_path / "run")
    assert (code, err) == (0, "") and "convergence" in out
    assert command("show", tmp_path / "none")[0] == 2  # control: where no run came


def test_plots_of_a_run_in_progress_are_those_of_its_trace(watched, data, networks_file, tmp_path):
    arguments = fit_arguments(data, networks_file, tmp_path / "run")
    (code, out, err), files = watched(arguments, 1, "show", tmp_path / "run", "--plots")
    assert (code, err) == (0, "")
    assert files == {"trace.nc", "progress.json", "command.json", "lock", "state", "plots"}
    for name in ("pruning_trace.png", "trajectories.png"):
        assert f"written: {tmp_path / 'run.part' / 'plots' / name}" in out
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_map_is_shown_as_a_log_joint(watched, data, networks_file, tmp_path):
    arguments = fit_arguments(data, networks_file, tmp_path / "run", prior="halo")
    (_, out, _), _ = watched(arguments, 1, "show", tmp_path / "run")
    assert "log joint" in out and "log prior" in out and "ELBO" not in out


def test_a_second_fit_to_the_same_folder_is_refused_at_once(watched, data, networks_file, tmp_path):
    arguments = fit_arguments(data, networks_file, tmp_path / "run")
    (code, _, err), _ = watched(arguments, 1, *arguments)
    assert code == 2 and err.count("\n") == 1
    assert f"another fit is being written to {tmp_path / 'run'} (process {os.getpid()}" in err
    assert (tmp_path / "run" / "summary.json").is_file()  # control: the first one ended well


@pytest.fixture
def killed(data, networks_file, tmp_path):
    """The place of a run whose fit was killed after its first epoch."""
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, sys\n"
        "from bayesprune.cli import app as cli\n"
        "from bayesprune.inference.watching import trace_file\n"
        "write = trace_file.WriteTrace.on_epoch\n"
        "def on_epoch(watcher, state):\n"
        "    write(watcher, state)\n"
        "    os.kill(os.getpid(), 9)\n"
        "trace_file.WriteTrace.on_epoch = on_epoch\n"
        "cli.run(sys.argv[1:])\n"
    )
    run = tmp_path / "runs" / "run"
    arguments = [str(argument) for argument in fit_arguments(data, networks_file, run)]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    return run


def test_a_fit_killed_before_a_state_was_kept_is_shown_as_dead_and_replaced(killed, command, data, networks_file):
    code, out, err = command("show", killed)
    assert (code, err) == (0, "")
    assert "the fit seems to have died (process " in out and "epoch 1 of 3" in out and " left" not in out
    assert "the fit seems to have died" in command("show", f"{killed}.part")[1]
    assert read_trace(f"{killed}.part").sizes["epoch"] == 1
    assert command(*fit_arguments(data, networks_file, killed, epochs=1))[0] == 0
    assert [path.name for path in killed.parent.iterdir()] == ["run"]
    assert "convergence" in command("show", killed)[1]  # the finished run


def test_a_fit_on_another_machine_is_not_disturbed(refused, data, networks_file, tmp_path):
    folder = part_folder(tmp_path / "run")
    trace_file.WriteTrace(folder)
    file = folder / "progress.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "host": "elsewhere"}))
    refused(fit_arguments(data, networks_file, tmp_path / "run"), "another fit is being written to", "on elsewhere")
    assert read_progress(folder).host == "elsewhere"


def test_a_folder_of_another_kind_is_not_touched(refused, data, networks_file, tmp_path):
    (tmp_path / "run.part").mkdir()
    (tmp_path / "run.part" / "thesis.tex").write_text("mine")
    refused(fit_arguments(data, networks_file, tmp_path / "run"), "run.part is in the way", "remove it")
    assert (tmp_path / "run.part" / "thesis.tex").read_text() == "mine"


def test_what_goes_wrong_inside_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), writing_part(tmp_path / "a" / "b" / "run", {}):
        assert (tmp_path / "a" / "b" / "run.part" / "progress.json").is_file()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_fit_that_has_not_done_an_epoch_is_shown(command, tmp_path):
    with writing_part(tmp_path / "run", {"data": "digits", "prior": "halo"}):
        code, out, err = command("show", tmp_path / "run", "--plots")
    assert (code, err) == (0, "")
    assert "no epoch is done yet" in out and "no plots yet" in out and "halo" in out


def test_a_fit_that_is_being_scored_is_shown_so(command, tmp_path):
    with writing_part(tmp_path / "run", {}) as part:
        progress = part.watchers[0]._progress(finished=True, step=6, steps=6, epoch=3, epochs=3)
        write_json(part.folder / "progress.json", asdict(progress))
        out = command("show", tmp_path / "run")[1]
    assert "fitted; scoring and writing" in out and " left" not in out


def test_without_a_run_or_a_trace_the_error_is_that_of_a_missing_run(refused, tmp_path):
    refused(["show", tmp_path / "none"], "there is no run folder")
    Path(tmp_path / "none.part").mkdir()
    refused(["show", tmp_path / "none"], "there is no run folder")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90_061, "1 d 1 h"), (59.7, "1 min 0 s")],
)
def test_times_are_told_in_two_units(seconds, text):
    assert _duration(seconds) == text


@pytest.mark.parametrize("change", ["a variable less", "another dimension", "another type", "no attribute"])
def test_a_trace_that_no_fit_has_written_is_told_in_a_sentence(refused, tmp_path, change):
    trace_file.WriteTrace(tmp_path / "run.part", {"data": "x"})
    whole = xr.Dataset(
        {
            **{name: (("restart", "epoch"), [[1.0, 2.0]]) for name in ("loss", "kl", "kl_weight", "network_sparsity")},
            "expected_log_likelihood": (("restart", "epoch"), [[1.0, 2.0]]),
            **{name: (("restart", "epoch", "tensor"), [[[1.0], [2.0]]]) for name in ("sparsity", "kl_of")},
        },
        coords={"tensor": ["weight"], "epoch": [1, 2], "restart": [0]},
        attrs={"is_map": 0, "data_size": 9},
    )
    broken = {
        "a variable less": whole.drop_vars("kl"),
        "another dimension": whole.rename(epoch="step"),
        "another type": whole.assign(kl=(("restart", "epoch"), [["a", "b"]])),
        "no attribute": whole.drop_attrs(),
    }
    for trace in (whole, broken[change]):
        trace.to_netcdf(tmp_path / "run.part" / "trace.nc", engine="scipy")
        if trace is whole:  # control
            show_progress(tmp_path / "run.part")
    refused(["show", tmp_path / "run"], "run.part holds what no fit has written")
