"""`bayesprune prune` prints that the pruned network is much worse than the fit, and ends well."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def run(made, networks_file, tmp_path_factory):
    """A Gaussian on digits, all of whose weights are needed."""
    out = tmp_path_factory.mktemp("runs") / "gaussian"
    made(
        "fit", "--data", "digits", "--network", f"{networks_file}:small", "--prior", "gaussian", "--epochs", 6,
        "--learning-rate", 0.01, "--quiet", "--out", out,
    )  # fmt: skip
    return out


def test_a_network_that_is_much_worse_is_told_on_the_screen_and_in_the_summary(command, run, tmp_path):
    code, out, err = command("prune", run, "--sparsity", 0.98, "--out", tmp_path / "p")
    assert (code, err) == (0, "")
    (note,) = json.loads((tmp_path / "p" / "summary.json").read_text())["notes"]
    assert note.startswith("pruning by sparsity 0.98 per network, by magnitude, took the accuracy on ")
    assert f"note: {note}\n" in out and "finetune" in note
    code, out, _ = command("prune", run, "--sparsity", 0.98, "--quiet", "--out", tmp_path / "q")
    assert (code, out) == (0, "")


def test_a_rule_by_a_score_is_that_of_the_summary(command, refused, run, tmp_path):
    rule = ("--criterion", "magnitude", "--min-score", 0.1)
    code, out, _ = command("prune", run, *rule, "--out", tmp_path / "p")
    found = json.loads((tmp_path / "p" / "summary.json").read_text())
    assert code == 0 and "score > 0.1, by magnitude: " in out
    assert (found["rule"], found["criterion"]) == ("score > 0.1", "magnitude") and 0.0 < found["sparsity"] < 1.0
    refused(["prune", run, "--min-score", 0.1, "--out", tmp_path / "q"], "name the criterion, e.g. --criterion")
    refused(["prune", run, *rule, "--per", "layer", "--out", tmp_path / "q"], "--per layer", "--min-score", "leave it")
    by_inclusion = ("--criterion", "inclusion", "--min-score", 0.1)
    refused(["prune", run, *by_inclusion, "--out", tmp_path / "q"], "give --min-inclusion, without --criterion")
    refused(["prune", run, *rule, "--sparsity", 0.5, "--out", tmp_path / "q"], "give one of --sparsity, ")


def test_a_network_that_is_as_good_is_printed_without_a_note(command, run, tmp_path):
    code, out, _ = command("prune", run, "--sparsity", 0.1, "--out", tmp_path / "p")
    assert code == 0 and "note:" not in out
    assert json.loads((tmp_path / "p" / "summary.json").read_text())["notes"] == []
