"""`bayesprune fit --budget`: the budget is met, kept with the run, and shown in one line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import bayesprune as bp
from bayesprune.cli.app import app


def ran(*arguments):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_a_budget_is_met_kept_and_shown(tmp_path):
    run = str(tmp_path / "run")
    how = ("fit", "--data", "digits", "--prior", "halo", "--width", "0.1", "--steps", "300", "--quiet", "--out", run)
    assert ran(*how, "--budget", "density=0.1").exit_code == 0
    found = bp.read_summary(run)
    assert found["budget_settings"] == {"density": 0.1}
    assert found["budget"][0]["reached"] == pytest.approx(0.1, abs=1e-3)
    assert bp.load_run(run).model.knobs["kappa"].value == found["budget"][0]["knobs"]["*.weight.kappa"]["end"] != 1.0
    (line,) = [one for one in ran("show", run).output.splitlines() if one.startswith("budget")]
    assert "10.00 % of the weights left, 10.00 % asked for (|weight| > 0.001); *.weight.kappa 1 ->" in line


def test_a_run_without_one_says_nothing_of_it(tmp_path):
    run = str(tmp_path / "run")
    assert ran("fit", "--data", "digits", "--prior", "halo", "--width", "0.1", "--steps", "5", "--quiet", "--out",
               run).exit_code == 0  # fmt: skip
    assert bp.read_summary(run)["budget"] is None
    assert not any(line.startswith("budget") for line in ran("show", run).output.splitlines())


@pytest.mark.parametrize(("given", "says"), [("denisty=0.1", "--budget knows no 'denisty'"), ("macs=0.1", "no gates")])
def test_a_budget_that_cannot_be_is_refused(tmp_path, given, says):
    run = str(tmp_path / "run")
    with pytest.raises(ValueError, match=says):
        ran("fit", "--data", "digits", "--prior", "halo", "--steps", "5", "--quiet", "--out", run, "--budget", given)
    assert not (tmp_path / "run").exists()


# -- by layer ------------------------------------------------------------------------------------------------

HOW = ("fit", "--data", "digits", "--width", "0.1", "--quiet")
LAYERS = {"fc1.weight": 0.05, "fc2.weight": 0.2, "fc3.weight": 0.5}


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The folder of a pruned network, whose budget.json others are given."""
    folder = tmp_path_factory.mktemp("learned")
    assert ran(*HOW, "--prior", "halo", "--steps", "50", "--out", str(folder / "run")).exit_code == 0
    assert ran("prune", str(folder / "run"), "--budget", "density=0.1", "--quiet", "--out",
               str(folder / "pruned")).exit_code == 0  # fmt: skip
    return folder


def test_what_one_fit_has_left_is_asked_of_another(learned, tmp_path):
    file = str(learned / "pruned" / "budget.json")
    budget = bp.LayerBudget.read(file)
    assert budget.left == round(0.1 * budget.weights) == summary_of(learned / "pruned")["nonzero"]
    run = str(tmp_path / "run")
    assert ran(*HOW, "--prior", "halo", "--steps", "60", "--budget", file, "--out", run).exit_code == 0
    found = bp.read_summary(run)
    assert found["budget_settings"] == {"density": budget.rows()}
    assert {name: one["reached"] for name, one in found["budget"][0]["layers"].items()} == {
        one.tensor: one.left for one in budget.layers
    }
    assert bp.load_run(run).layer_budget() == budget
    (line,) = [one for one in ran("show", run).output.splitlines() if one.startswith("budget")]
    assert "10.00 % of the weights of its layers left, 10.00 % asked for" in line
    out = str(tmp_path / "pruned")
    assert ran("prune", run, "--budget", file, "--quiet", "--out", out).exit_code == 0
    assert bp.LayerBudget.read(tmp_path / "pruned" / "budget.json") == budget
    assert "budget.json" in ran("prune", run, "--budget", file, "--out", f"{out}2").output


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("given", ["layers.csv", f"density={json.dumps(LAYERS)}"])
def test_a_table_or_an_object_does_too(learned, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layers.csv").write_text("tensor,density\n" + "".join(f"{k},{v}\n" for k, v in LAYERS.items()))
    assert ran("prune", str(learned / "run"), "--budget", given, "--quiet", "--out", "p").exit_code == 0
    found = bp.LayerBudget.read("p/budget.json")
    assert all(found[name] == pytest.approx(share, rel=0.02) for name, share in LAYERS.items())


def test_another_file_is_another_fit(tmp_path, monkeypatch):
    """What an interrupted fit left behind is gone on with under the budget of then only."""
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(
        "bayesprune.runs.run_processes.writing_part", lambda out, given, *rest: asked.append(given) or 1 / 0
    )
    for text in ("tensor,density\nfc1.weight,0.1\n", "tensor,density\nfc1.weight,0.2\n"):
        (tmp_path / "b.csv").write_text(text)
        with pytest.raises(ZeroDivisionError):
            ran(*HOW, "--prior", "halo", "--budget", "b.csv", "--out", "r")
    with pytest.raises(ZeroDivisionError):
        ran(*HOW, "--prior", "halo", "--budget", "density=0.1", "--out", "r")
    assert asked[0]["budget"] != asked[1]["budget"] and asked[2]["budget"] == {"density": 0.1}
    json.dumps(asked[0], allow_nan=False)


@pytest.mark.parametrize(
    ("command", "given", "says"),
    [
        ("fit", ["nothing.json"], "nothing.json is missing"),
        ("fit", ["short.csv"], "it has no column density"),
        ("fit", ["whole.csv", "density=0.1"], "takes one density, a number or a file"),
        ("fit", ["strange.csv"], "'fc9.weight', which matches no tensor"),
        ("prune", ["nothing.csv"], "nothing.csv is missing"),
        ("prune", ["short.csv"], "it has no column density"),
        ("prune", ["strange.csv"], "'fc9.weight', which matches no tensor"),
        ("prune", ["macs=0.1"], "takes density=VALUE or a FILE.json or .csv"),
        ("prune", ["0.1"], "takes KEY=VALUE"),
        ("prune", ["density=much"], "is no number"),
        ("prune", ["density=1.5"], "budget= is a share"),
    ],
)
def test_what_is_no_budget_by_layer_is_refused(learned, tmp_path, monkeypatch, command, given, says):
    monkeypatch.chdir(tmp_path)
    for name, text in (("short", "tensor\nfc1.weight"), ("whole", "tensor,density\nfc1.weight,0.1"),
                       ("strange", "tensor,density\nfc9.weight,0.1")):  # fmt: skip
        (tmp_path / f"{name}.csv").write_text(text + "\n")
    start = (*HOW, "--prior", "halo", "--steps", "5") if command == "fit" else ("prune", str(learned / "run"))
    options = [part for one in given for part in ("--budget", one)]
    with pytest.raises(ValueError, match=says) as told:
        ran(*start, *options, "--out", "out")
    assert not (tmp_path / "out").exists() and "\n" not in str(told.value)
