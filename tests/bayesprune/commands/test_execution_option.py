"""`--execution` was called `--path`: the old option is taken with a warning, and old runs are shown and go on."""

from __future__ import annotations

import json

import pytest

from bayesprune.inference.training import checkpoint
from bayesprune.inference.watching.trace_file import WriteTrace
from bayesprune.runs.run_folder import read_summary
from tests.oracles.same_runs import is_same


@pytest.fixture
def arguments(data, networks_file, tmp_path, monkeypatch):
    """Makes the arguments of a small fit, of which a state is written after every epoch."""
    monkeypatch.setattr(checkpoint, "SHARE", 1.0)
    monkeypatch.setattr(checkpoint, "LEAST", 0.0)
    monkeypatch.setattr("bayesprune.runs.run_folder.ARVIZ_DRAWS", 2)

    def make(name, *more):
        fixed = ["--network", f"{networks_file}:small", "--prior", "halo", "--epochs", 4, "--batch-size", 30]
        return ["fit", "--data", data, *fixed, "--quiet", "--out", tmp_path / name, *more]

    return make


def test_the_old_option_is_taken_with_a_sentence_and_stands_in_no_help(arguments, command, tmp_path):
    code, _, err = command(*arguments("old", "--path", "plain"))
    said = (
        "note: --path of bayesprune fit has a new name, and the old one goes with the next release: write --execution"
    )
    assert code == 0 and said in err and "Warning" not in err
    assert command(*arguments("new", "--execution", "plain"))[0] == 0
    assert is_same(tmp_path / "old", tmp_path / "new")
    assert read_summary(tmp_path / "old")["execution"]["reason"] == "it was asked for"
    assert command(*arguments("seed", "--execution", "plain", "--seed", 1))[0] == 0
    assert not is_same(tmp_path / "old", tmp_path / "seed")  # control
    code, out, _ = command("fit", "--help")
    assert code == 0 and "--execution" in out and "--path" not in out


def test_both_options_are_refused(arguments, refused):
    refused(
        arguments("run", "--execution", "plain", "--path", "plain"), "--execution, which was called --path, is given"
    )


def test_a_run_of_an_earlier_version_shows_its_execution(arguments, command, tmp_path):
    assert command(*arguments("run", "--execution", "plain"))[0] == 0
    file = tmp_path / "run" / "summary.json"
    found = json.loads(file.read_text())
    file.write_text(json.dumps({"path" if key == "execution" else key: value for key, value in found.items()}))
    code, out, _ = command("show", tmp_path / "run")
    assert code == 0 and "plain execution: it was asked for" in " ".join(out.split())
    file.write_text(json.dumps({key: value for key, value in found.items() if key != "execution"}))
    assert "plain execution" not in command("show", tmp_path / "run")[1]  # control


def test_a_fit_that_an_earlier_version_has_begun_goes_on(arguments, command, refused, tmp_path, monkeypatch):
    def on_step(_, state):
        if state.epoch == 2:
            raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(WriteTrace, "on_step", on_step)
        assert command(*arguments("run", "--execution", "plain"))[0] == 1
    file = tmp_path / "run.part" / "command.json"
    asked = json.loads(file.read_text())["asked"]
    asked["path"] = asked.pop("execution")
    for later in ("recipe", "recipe_settings"):
        assert asked.pop(later, "missing") is None
    file.write_text(json.dumps({"asked": {key: value for key, value in asked.items() if key != "seed"}}))
    told = "under an earlier version, which knew no --seed and had other defaults"
    refused(arguments("run", "--execution", "plain"), told)  # control
    file.write_text(json.dumps({"asked": asked}))
    refused(arguments("run"), "with --execution plain, but now it is auto")  # control
    assert command(*arguments("run", "--execution", "plain"))[0] == 0
    assert read_summary(tmp_path / "run")["resumed_at_epoch"] == 3
