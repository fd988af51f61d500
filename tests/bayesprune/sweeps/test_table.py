"""What a sweep prints: lines, the live table and the report."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from bayesprune.sweeps.sweep_result import FAILED, RUNNING, Sweep, SweepFit
from bayesprune.sweeps.table import SweepView, print_sweep, settings_text
from tests.bayesprune.sweeps.sweeps_by_hand import sweep_by_hand

FAILURE = SweepFit({"set.kappa": 1e9}, 0, FAILED, trial=8, problem="the loss is NaN at step 3: lower the learning rate")
UNDER_WAY = SweepFit({"set.kappa": 5.0}, 1, RUNNING, trial=9, epoch=3, worker="host:34")


def shown(sweeps, is_terminal, height=40):
    """What a view prints of these sweeps, one after the other."""
    stream = io.StringIO()
    console = Console(
        file=stream, force_terminal=is_terminal, width=150, height=height, color_system=None, legacy_windows=False
    )
    with SweepView(10, console) as view:
        for sweep in sweeps:
            view.show(sweep)
    return stream.getvalue()


def test_where_there_is_no_terminal_each_fit_that_ends_is_a_line():
    whole = sweep_by_hand(FAILURE, UNDER_WAY)
    before = replace(whole, fits=whole.fits[:2])
    text = shown([before, before, whole, whole], is_terminal=False)
    lines = text.splitlines()
    assert lines[0] == "2 of 10 fits were done before" and len(lines) == 8  # 6 complete ones more, and the failure
    assert lines[1].startswith("3 of 10  trial 2: kappa=1, seed 0: validation accuracy 93.00 %")
    assert lines[-1].endswith("kappa=1e+09, seed 0: failed, the loss is NaN at step 3: lower the learning rate")
    assert "kappa=5" not in text and "\x1b" not in text


def test_the_live_table_has_what_runs_first_and_the_best_so_far():
    text = shown([sweep_by_hand(FAILURE, UNDER_WAY)], is_terminal=True)
    lines = [line.strip() for line in text.splitlines()]
    rows = [line for line in lines if " running " in line or " complete " in line or " failed " in line]
    assert rows[0].startswith("9") and "host:34" in rows[0] and " 3 " in rows[0] and rows[1].startswith("8")
    assert any("9 of 10 done: 1 running, 1 failed, 8 complete" in line for line in lines)
    assert any("best so far: kappa=0.1 (validation accuracy 96.00 %" in line for line in lines)
    few = shown([sweep_by_hand(FAILURE, UNDER_WAY)], is_terminal=True, height=12)
    assert "6 are not shown" in few and "host:34" in few


def test_the_report_has_the_settings_from_the_best_the_front_and_the_command(capsys):
    asked = {"data": "digits", "prior": "halo"}
    print_sweep(replace(sweep_by_hand(FAILURE), asked=asked, missing=("the storage is not there",)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "note: the storage is not there"
    rows = [line.split() for line in lines[3:7]]
    assert [row[0] for row in rows] == ["0.1", "1", "10", "100"]
    assert rows[0][2:6] == ["96.00", "%", "+-", "1.41"] and rows[1][-2:] == ["2", "2"] and rows[2][-1] == "s"
    assert lines[7].startswith("8 complete, 1 failed fits; means of up to 2 seeds +- sd; numbers: on the front of ")
    assert lines[8].startswith("failed: kappa=1e+09, seed 0: the loss is NaN")
    assert lines[9].startswith("best validation accuracy: kappa=0.1 (validation accuracy 96.00 %")
    assert lines[10] == "its fit of seed 0: runs/sweep/0.1-0"
    again = "bayesprune fit --data digits --prior halo --set kappa=0.1 --seed 0 --out runs/sweep/best"
    assert lines[-1] == f"the same again: {again}"


def test_before_a_fit_is_complete_the_report_says_how_many_there_are(capsys):
    print_sweep(Sweep(sweep_by_hand().folder, {}, ("validation_nll",), (FAILURE, UNDER_WAY)))
    out = capsys.readouterr().out
    assert out.startswith("1 running, 1 failed: none is complete yet") and "the loss is NaN" in out


def test_what_a_terminal_would_obey_is_written_out():
    odd = SweepFit({"prior": "\x1b[2Jx"}, 0, FAILED, trial=9, problem="\x1b[31mred")
    whole = sweep_by_hand()
    for is_terminal in (False, True):
        text = shown([whole, replace(whole, fits=(*whole.fits, odd))], is_terminal)
        assert "\x1b[2J" not in text.replace("\x1b[2K", "") and "\x1b[31m" not in text and r"\x1b[2Jx" in text


def test_names_of_settings_are_as_short_as_they_can_be():
    assert settings_text({"set.kappa": 1.0, "learning-rate": 0.01}) == "kappa=1, learning-rate=0.01"
    assert settings_text({"set.density": 1, "budget.density": 2}) == "set.density=1, budget.density=2"
    assert settings_text({}) == "as given"
