"""`bayesprune refit`: a run folder given its structure, what it says of the forms, and how it goes on."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import bayesprune as bp
from bayesprune.inference.training import checkpoint
from bayesprune.inference.watching.trace_file import WriteTrace
from bayesprune.runs.run_folder import load_run, read_summary, run_data
from tests.oracles.same_runs import is_same

SHORT = ("--epochs", 3, "--execution", "plain", "--quiet")


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """States are written after every epoch, whatever it costs."""
    monkeypatch.setattr(checkpoint, "SHARE", 1.0)
    monkeypatch.setattr(checkpoint, "LEAST", 0.0)
    monkeypatch.setattr("bayesprune.runs.run_folder.ARVIZ_DRAWS", 2)


@pytest.fixture
def runs(data, networks_file, command, tmp_path):
    """A run of two restarts, and what is pruned of it."""
    run, pruned = tmp_path / "run", tmp_path / "pruned"
    given = ("fit", "--data", data, "--prior", "spike-and-slab", "--network", f"{networks_file}:small", "--epochs", 3)
    more = ("--batch-size", 30, "--kl-weight", 0.5, "--restarts", 2, "--execution", "plain", "--quiet", "--out", run)
    assert command(*given, *more)[0] == 0
    assert command("prune", run, "--budget", "density=0.5", "--trust-code", "--quiet", "--out", pruned)[0] == 0
    return run, pruned


def test_it_writes_a_run_folder_of_the_structure_and_scores_all_forms(runs, command, tmp_path):
    run, pruned = runs
    out = tmp_path / "given"
    code, printed, err = command(
        "refit", run, "--gates", pruned, "--restart", 0, "--trust-code", *SHORT[:-1], "--out", out
    )
    assert code == 0
    found = read_summary(out)
    masks = {name: mask.bool() for name, mask in load_file(pruned / "masks.safetensors").items()}
    fit = load_run(out, trust_code=True)
    for name, mask in masks.items():
        assert torch.equal(torch.as_tensor(fit.inclusion_probabilities()[name].values) > 0.5, mask)
    assert found["refit"][0]["kept"] == sum(int(mask.sum()) for mask in masks.values())
    assert found["refit_settings"]["gates"] == str(pruned) and found["refit_settings"]["run"] == str(run)
    assert found["kl_weight"] == 0.5 and found["batch_size"] == 30 and found["warm_start"] is True
    assert found["epochs"] == 3 and found["restarts"] == 1
    assert set(found["forms"]["before"]) == set(found["forms"]["after"]) == {"averaged", "drawn", "means", "undecided"}
    assert found["forms"]["after"]["undecided"] == 0.0
    assert found["forms"]["after"]["averaged"]["nll"] == pytest.approx(found["nll"])
    splits = run_data(out)
    expected = bp.score_forms(load_run(run, trust_code=True), *splits.test)
    assert found["forms"]["before"]["means"]["accuracy"] == pytest.approx(expected["means"]["accuracy"])
    assert "before" in printed and "after" in printed and "means" in printed and "given the structure" in printed
    assert command("show", out, "--trust-code")[0] == 0
    assert command("prune", out, "--min-inclusion", 0.5, "--trust-code", "--quiet", "--out", tmp_path / "p")[0] == 0
    again = {name: mask.bool() for name, mask in load_file(tmp_path / "p" / "masks.safetensors").items()}
    assert all(torch.equal(again[name], masks[name]) for name in masks)


def test_the_same_command_goes_on_with_the_same_numbers_and_another_is_refused(runs, command, tmp_path, monkeypatch):
    run, _ = runs
    given = [("refit", run, "--gates", "0.3", "--trust-code", *SHORT, "--out", tmp_path / name) for name in "ab"]
    assert command(*given[0])[0] == 0

    def on_step(watcher, state):
        if state.restart == 1 and state.epoch == 2:
            raise RuntimeError("broken")

    with monkeypatch.context() as patched:
        patched.setattr(WriteTrace, "on_step", on_step)
        code, _, err = command(*given[1])
    assert code == 1 and "keeps the state after epoch 2 of restart 2" in err and not (tmp_path / "b").exists()
    code, _, err = command(*given[1], "--gates", "0.4")
    assert code == 2 and "--gates" in err and "0.3" in err
    assert command(*given[1]) == (0, "", "")
    assert is_same(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b.part").exists()


def test_wrong_usage_is_told_in_a_sentence(runs, command, tmp_path):
    run, _ = runs
    rows = [
        (("--gates", "2"), "a probability in (0, 1), not 2"),
        (("--gates", "nan"), "a probability in (0, 1)"),
        (("--gates", "nowhere"), "or a folder that bayesprune prune made"),
        (("--gates", run), "is a run folder, which keeps no masks"),
        (("--gates", "0.999999"), "no weight of"),
        (("--restart", 5), "restart"),
        (("--epochs", 2, "--steps", 2), "either epochs= or steps="),
        (("--epochs", -1), "epochs"),
        (("--kl-weight", -1), "kl_weight"),
    ]
    for more, sentence in rows:
        code, _, err = command("refit", run, "--trust-code", "--quiet", "--out", tmp_path / "out", *more)
        assert code == 2 and sentence in err and err.count("\n") == 1, (more, err)
        assert not (tmp_path / "out").exists() and not (tmp_path / "out.part").exists()
    code, _, err = command("refit", run, "--out", tmp_path / "out")
    assert code == 2 and "--trust-code" in err
    (run / "summary.json").write_text(json.dumps({**read_summary(run), "data_sketch": None, "data_size": 7}))
    code, _, err = command("refit", run, "--trust-code", "--out", tmp_path / "out")
    assert code == 2 and "have changed" in err
