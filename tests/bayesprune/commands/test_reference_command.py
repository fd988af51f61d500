"""`bayesprune reference`: a run of a linear model beside its posterior, what is written, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import xarray as xr

import bayesprune as bp
from bayesprune.runs.run_folder import load_run, run_data

SHORT = ("--epochs", 3, "--batch-size", 50, "--execution", "plain", "--quiet")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A regression on four inputs of which two say something, in units far from 1."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(160, 4))
    y = 50.0 + 8.0 * x[:, 0] - 3.0 * x[:, 2] + 6.0 * generator.normal(size=160)
    np.savez(tmp_path_factory.mktemp("numbers") / "numbers.npz", x=x, y=y)
    return next(tmp_path_factory.getbasetemp().glob("numbers*/numbers.npz"))


@pytest.fixture(scope="module")
def run(made, file, tmp_path_factory):
    """A linear run of two restarts with spike and slab."""
    out = tmp_path_factory.mktemp("runs") / "linear"
    given = ("fit", "--data", file, "--network", "linear", "--prior", "spike-and-slab", "--restarts", 2)
    made(*given, *SHORT, "--out", out)
    return out


def test_it_writes_both_side_by_side_in_the_units_of_the_fit(run, command, tmp_path):
    out = tmp_path / "out"
    code, printed, err = command("reference", run, "--restart", 1, "--draws", 200, "--out", out)
    assert (code, err) == (0, "")
    assert {path.name for path in out.iterdir()} == {"reference.json", "reference.nc", "reference.png"}
    found = json.loads((out / "reference.json").read_text())
    fit = load_run(run)
    exact = bp.reference(fit, run_data(run).train, draws=200, restart=1)
    assert found["method"] == "enumeration" and found["standardised"] is True and found["r_hat"] is None
    assert found["restart"] == 1 and found["run"] == str(run) and found["has_mixed"] is True
    assert found["log_evidence"] == pytest.approx(exact.log_evidence)
    (name,) = exact.probabilities
    rows = [row for row in found["weights"] if row["name"].startswith(f"{name}[")]
    expected = exact.probabilities[name].values.ravel()
    assert [row["reference_inclusion"] for row in rows] == pytest.approx(expected)
    own = fit.inclusion_probabilities(1)[name].values.ravel()
    assert [row["inclusion"] for row in rows] == pytest.approx(own)
    assert found["against"]["largest"] == pytest.approx(np.abs(expected - own).max())
    with xr.open_datatree(out / "reference.nc") as tree:
        assert tree["posterior"].sizes["draw"] == 200 and tree.attrs["method"] == "enumeration"
    assert (out / "reference.png").read_bytes().startswith(b"\x89PNG")
    assert "16 states of 4 gates" in printed and "log evidence" in printed and rows[0]["name"] in printed
    assert "reference.json" in printed


def test_a_sampler_is_asked_for_and_says_how_it_went(run, command, tmp_path):
    given = ("--method", "gibbs", "--draws", 60, "--warmup", 20, "--chains", 2, "--points", "fixed", "--kl-weight", 0.5)
    code, printed, _ = command("reference", run, *given, "--quiet", "--out", tmp_path / "out")
    assert code == 0 and printed == ""
    found = json.loads((tmp_path / "out" / "reference.json").read_text())
    assert found["method"] == "gibbs" and found["chains"] == 2 and found["draws"] == 60 and found["kl_weight"] == 0.5
    assert found["r_hat"] > 0.9 and found["ess"] > 0 and found["log_evidence"] is None
    assert any("tempered" in note for note in found["notes"])
    assert any("KL weight" in note for note in found["notes"])  # the fit has weight 1


def test_wrong_usage_is_told_in_a_sentence(run, file, data, networks_file, made, refused, tmp_path):
    out = tmp_path / "out"
    for more, sentence in (
        (("--method", "laplace"), "takes one of"),
        (("--method", "nuts"), "gates, which NUTS does not move"),
        (("--points", "free"), "points="),
        (("--kl-weight", 0), "kl_weight"),
        (("--draws", 1), "draws"),
        (("--chains", 0), "chains"),
        (("--seed", -1), "seed"),
        (("--restart", 5), "restart"),
    ):
        refused(("reference", run, "--out", out, *more), sentence)
        assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("x")
    refused(("reference", run, "--out", out), str(out))
    refused(("reference", tmp_path / "none", "--out", tmp_path / "b"), "there is no run folder")
    deep = tmp_path / "deep"
    made(
        "fit", "--data", data, "--network", f"{networks_file}:small", "--prior", "spike-and-slab", *SHORT, "--out", deep
    )
    refused(("reference", deep, "--out", tmp_path / "b"), "--trust-code")
    refused(("reference", deep, "--trust-code", "--out", tmp_path / "b"), "hidden layers")
    changed = tmp_path / "changed"
    shutil.copytree(run, changed)
    found = json.loads((changed / "summary.json").read_text())
    (changed / "summary.json").write_text(json.dumps({**found, "data_sketch": None, "data_size": 7}))
    refused(("reference", changed, "--out", tmp_path / "b"), "have changed")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ["reference", "refit"])
def test_there_is_help_with_an_example(command, name):
    code, out, err = command(name, "--help")
    assert (code, err) == (0, "") and f"    bayesprune {name} runs/" in out
