"""`bayesprune sweep`: from the command line to a folder, a table and a front."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.main import get_command

from bayesprune.cli.app import app
from bayesprune.sweeps.loading import load_sweep
from bayesprune.sweeps.plan import read_plan

FIT = ["--data", "digits", "--width", "0.03", "--steps", "12", "--execution", "plain", "--prior", "halo"]


def options(command):
    return {one.name: one for one in get_command(app).commands[command].params}


@pytest.fixture(scope="module")
def finished(made, tmp_path_factory):
    """The folder of a sweep of three settings, one of them impossible; nothing may change it."""
    out = tmp_path_factory.mktemp("sweeps") / "halo"
    made("sweep", *FIT, "--set", "learning-rate=0.01,0.05", "--set", "set.kappa=2,-1", "--quiet", "--out", out)
    return out


def test_a_sweep_leaves_runs_records_and_a_front(finished):
    found = load_sweep(finished)
    assert [(one.state, one.settings["learning-rate"], one.settings["set.kappa"]) for one in found.fits] == [
        ("complete", 0.01, 2), ("failed", 0.01, -1), ("complete", 0.05, 2), ("failed", 0.05, -1),
    ]  # fmt: skip
    assert all("kappa" in one.problem for one in found.fits if one.state == "failed")
    plan = read_plan(finished)
    assert plan.arguments == {"data": "digits", "prior": "halo", "width": 0.03, "steps": 12, "execution": "plain"}
    assert len(json.loads((finished / "front.json").read_text())["settings"]) == 2
    assert (finished / "front.png").read_bytes().startswith(b"\x89PNG")
    runs = {one.run.name for one in found.fits if one.state == "complete"}
    assert {path.name for path in finished.iterdir() if path.is_dir()} == runs


def test_the_same_command_fits_nothing_again_and_tells_the_same(finished, command, monkeypatch):
    monkeypatch.setattr("bayesprune.sweeps.trial.fit_run", None)
    given = [*FIT, "--set", "learning-rate=0.01,0.05", "--set", "set.kappa=2,-1", "--out", finished]
    code, told, progress = command("sweep", *given)
    assert code == 0 and "2 complete, 2 failed fits" in told and f"written to {finished}: front.json" in told
    assert "4 of 4 fits were done before" in progress
    assert "the same again: bayesprune fit --data digits --prior halo --width 0.03 --steps 12 --execution plain" in told
    code, _, problem = command("sweep", *given[:-2], "--set", "guide=map", *given[-2:])
    assert code == 2 and "keeps a sweep with the space: guide" in problem


def test_options_are_those_of_fit_and_none_has_a_default_of_its_own():
    fit, sweep = options("fit"), options("sweep")
    shared = set(fit) & set(sweep) - {"out", "quiet", "help", "prune"}
    assert {"data", "network", "recipe_set", "gating", "budget", "weights", "new_head", "standardise"} <= shared
    for name in shared:
        assert sweep[name].default is None and not sweep[name].required, name
        assert sweep[name].opts == fit[name].opts and sweep[name].help.startswith(fit[name].help), name
    assert "seed" not in sweep and "[default: 128]" in sweep["batch_size"].help


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "searches nothing: give --set NAME=A,B"),
        (["--set", "set.kappa=1,2", "--width", "-1"], "width is -1.0"),
        (["--set", "set.kappa=-1", "--set", "learning-rate=0.1,0.2"], "kappa"),
        (["--set", "kappa=1,2"], "a setting of the prior is set.kappa"),
        (
            ["--set", "set.kappa=1,2", "--objective", "nll"],
            "objective 'nll' is unknown: expected one of validation_nll",
        ),
        (["--set", "set.kappa=1,2", "--seeds", "x"], "--seeds x is no list of seeds"),
        (["--set", "set.kappa=1,2", "--workers", "0"], "workers"),
        (["--set", "width=0.1,0.2"], "width is given, and searched too"),
        (["--space", "nowhere.toml"], "nowhere.toml is missing"),
    ],
)
def test_what_is_wrong_with_all_trials_is_said_before_any(more, message, tmp_path, command):
    code, told, problem = command("sweep", *FIT, "--quiet", *more, "--out", tmp_path / "a" / "out")
    assert code == 2 and message in problem and told == "" and len(problem.splitlines()) == 1
    assert not (tmp_path / "a").exists()


def test_a_sweep_none_of_whose_fits_is_complete_says_why(tmp_path, command):
    given = ["--set", "set.kappa=-1", "--set", "learning-rate=0.01,0.02", "--objective", "validation_nll"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bayesprune.sweeps.sweep._check_common", lambda plan: None)
        code, _, problem = command("sweep", *FIT, "--quiet", *given, "--out", tmp_path / "out")
    assert code == 1 and problem.startswith("error: no fit of the sweep is complete, the first says: ")
    assert "kappa" in problem


def test_help_is_told_without_pytorch():
    code = (
        "import sys, bayesprune.cli.app as app\n"
        "try:\n    app.app(['sweep', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'pyro', 'numpy', 'xarray', 'optuna'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n" and "--sampler-seed" in done.stdout
