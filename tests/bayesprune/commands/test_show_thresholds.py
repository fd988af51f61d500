"""Learned thresholds on the command line: what `fit` says at once, what `show` prints and draws."""

from __future__ import annotations

import json
import re

import pytest

from bayesprune.inference.watching import trace_file
from bayesprune.runs.run_folder import load_run


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(trace_file, "SHARE", 1.0)  # every epoch is written
    monkeypatch.setattr("bayesprune.runs.run_folder.ARVIZ_DRAWS", 2)


def fit_arguments(data, networks_file, out, *more):
    named = ["--prior", "soft-threshold", "--network", f"{networks_file}:small", "--out", out, "--epochs", 4]
    return ["fit", "--data", data, *named, "--batch-size", 30, "--quiet", "--execution", "plain", *more]


def test_show_has_a_column_and_a_plot_of_them(command, data, networks_file, tmp_path):
    code, _, err = command(*fit_arguments(data, networks_file, tmp_path / "run"))
    assert (code, err) == (0, "")
    code, out, err = command("show", tmp_path / "run", "--plots")
    assert (code, err) == (0, "") and f"written: {tmp_path / 'run' / 'plots' / 'thresholds.png'}" in out
    rows = [re.split(r" {2,}", line.strip()) for line in out.splitlines()]
    (head,) = [row for row in rows if "threshold" in row]
    end = load_run(tmp_path / "run", trust_code=True).settings["thresholds"][0]["tensors"]
    for name, values in end.items():
        (row,) = [row for row in rows if row[0] == name]
        assert row[head.index("threshold")] == f"{values['threshold']:.3g}"
    code, out, _ = command(*fit_arguments(data, networks_file, tmp_path / "other", "--prior", "gaussian"))
    code, out, _ = command("show", tmp_path / "other", "--plots")
    assert code == 0 and "threshold" not in out  # control


def test_a_run_in_progress_draws_them_too(command, data, networks_file, tmp_path, monkeypatch):
    seen, write = [], trace_file.WriteTrace.on_epoch

    def on_epoch(watcher, state):
        write(watcher, state)
        if state.epoch == 2:
            seen.append((command("show", tmp_path / "run", "--plots"), trace_file.read_trace(watcher.folder)))

    monkeypatch.setattr(trace_file.WriteTrace, "on_epoch", on_epoch)
    assert command(*fit_arguments(data, networks_file, tmp_path / "run"))[0] == 0
    (((code, out, err), trace),) = seen
    assert (code, err) == (0, "") and "thresholds.png" in out
    whole = load_run(tmp_path / "run", trust_code=True).trace
    assert trace["threshold"].identical(whole["threshold"].isel(epoch=[0, 1]))


def test_what_fit_says_stands_among_the_notes_of_the_run(command, data, networks_file, tmp_path):
    with pytest.warns(UserWarning, match="asleep to the end"):
        command(*fit_arguments(data, networks_file, tmp_path / "run", "--set", "init=-300"))
    notes = json.loads((tmp_path / "run" / "summary.json").read_text())["notes"]
    assert sum("asleep to the end" in note for note in notes) == 1
    code, out, _ = command("show", tmp_path / "run")
    assert code == 0 and out.count("asleep to the end") == 1


def test_a_start_that_zeroes_everything_is_refused_in_a_sentence(command, data, networks_file, tmp_path):
    more = ["--prior", "soft-threshold-paper", "--set", "weight_decay=1e-4", "--set", "init=0"]
    code, _, err = command(*fit_arguments(data, networks_file, tmp_path / "run", *more))
    assert code == 2 and re.search(r"no weight of \S+ is left at the start: its largest \|raw\| is", err)
    assert "Traceback" not in err and not (tmp_path / "run").exists()
