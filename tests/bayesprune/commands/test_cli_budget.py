"""`bayesprune fit --budget`: the budget is met, kept with the run, and shown in one line."""

from __future__ import annotations

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
