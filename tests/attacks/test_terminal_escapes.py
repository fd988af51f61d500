"""Names out of files move no cursor, set no title, hide no text, make no link: what a terminal obeys is written out."""

from __future__ import annotations

import json
import re
import shutil
import sys
import warnings

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from bayesprune.cli import app as cli
from bayesprune.commands.console import print_lines, stdout, table
from bayesprune.commands.plain_text import neutral, plain_warnings

EVIL = {
    "a colour": "\x1b[31mred",
    "a link": "\x1b]8;;http://x\x1b\\link\x1b]8;;\x07",
    "a title": "\x1b]0;title\x07",
    "a return": "all is well\rrm",
    "C1": "\x9b2J\x9d0;title\x9c",
    "a direction": "\u202egnp.\u2066x",
    "a line": "name\nconvergence  converged",
    "a half": "x\ud800y",
    "backspaces": "bad\b\b\bgood\x7f",
}
MARKUP = "[red]r[/red][link=http://x]l[/link][/]:warning:"
ALL = " ".join(EVIL.values()) + MARKUP
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def ran(capsys, *arguments):
    """Runs the command line: its code and everything it printed, none of which a terminal obeys."""
    code = cli.run([str(argument) for argument in arguments])
    said = "".join(capsys.readouterr())
    assert not OBEYED.search(said), repr(said)
    assert "Traceback" not in said
    return code, said


def edited(folders, tmp_path, folder="run", **changes):
    copied = shutil.copytree(folders / folder, tmp_path / folder)
    found = json.loads((copied / "summary.json").read_text())
    (copied / "summary.json").write_text(json.dumps({**found, **changes}))
    return copied


def test_values_of_a_summary_are_shown_and_compared_as_text(small_folders, tmp_path, capsys):
    evil = ALL
    texts = ("data", "converged", "convergence", "guide")
    lists = ("kinds", "notes", "collapsed", "point_estimates")
    changes = {**dict.fromkeys(texts, evil), **{key: [evil, evil] for key in lists}}
    run = edited(small_folders, tmp_path, **changes)
    code, said = ran(capsys, "show", run)
    assert code == 0
    assert said.count(neutral(evil)) == 2 * len(lists) + len(texts)  # as they are, markup and all
    code, said = ran(capsys, "compare", run, small_folders / "run")
    assert code == 0 and MARKUP in said


def test_errors_quote_files_as_text(small_folders, tmp_path, capsys):
    evil = ALL
    for number, (key, value) in enumerate(
        [("network", evil), ("prior", evil), ("network", f"{evil}:f"), ("prior", f"{evil}.py:f"), ("outputs", evil),
         ("likelihood", {"name": evil}), ("on", [evil]), ("data", evil), ("prior_settings", {evil: 1})]
    ):  # fmt: skip
        run = edited(small_folders, tmp_path / str(number), **{key: value})
        ran(capsys, "show", run)
        code, said = ran(capsys, "prune", run, "--sparsity", 0.5, "--out", tmp_path / "out")
        assert code == 2 and said.startswith("error: ") and said.count("\n") == 1
    for number, (key, value) in enumerate([("network", f"{evil}:f"), ("likelihood", {"name": evil})]):
        folder = edited(small_folders, tmp_path / f"p{number}", "pruned", **{key: value})
        np.save(tmp_path / "x.npy", np.zeros((2, 4), dtype=np.float32))
        code, said = ran(capsys, "predict", folder, "--input", tmp_path / "x.npy", "--out", tmp_path / "o.npz")
        assert code == 2 and said.count("\n") == 1


def test_names_of_folders_and_files_are_text(small_folders, tmp_path, capsys):
    evil = ALL.replace(EVIL["a half"], "")  # no file can be called that
    place = tmp_path / evil.replace("/", "-")
    shutil.copytree(small_folders / "run", place / "run")
    assert ran(capsys, "show", place / "run")[0] == 0
    assert ran(capsys, "show", place / "none")[0] == 2
    assert ran(capsys, "prune", place / "run", "--sparsity", 0.5, "--out", place / "pruned")[0] == 0
    np.save(place / "x.npy", np.full((2, 4), 100.0, dtype=np.float32))
    given = ("predict", place / "pruned", "--input", place / "x.npy", "--out", place / "o.npz")
    code, said = ran(capsys, *given)
    assert code == 0 and "note: " in said
    for label in ("a", place.name):
        folder = place / "images" / label
        folder.mkdir(parents=True)
        Image.fromarray(np.zeros((3, 3), dtype=np.uint8)).save(folder / "0.png")
    (place / "images" / place.name / f"{place.name}.png").write_bytes(b"no image")
    code, said = ran(capsys, "fit", "--data", place / "images", "--prior", "laplace", "--out", tmp_path / "out")
    assert code == 2 and "cannot be read as an image" in said
    code, said = ran(capsys, "fit", "--data", evil, "--prior", evil, "--network", evil, "--out", tmp_path / "out")
    assert code == 2 and said.count("\n") == 1


def test_a_run_in_progress_is_shown_as_text(tmp_path, capsys):
    evil = ALL
    part = tmp_path / "run.part"
    part.mkdir()
    asked = {key: evil for key in ("data", "network", "prior", "guide")} | {"prior_settings": {evil: evil}}
    progress = {"process": 1, "host": evil, "asked": asked, "updated": 0.0, "epoch": 1, "epochs": 2, "step": 1}
    progress |= {"steps": 2, "seconds": 1.0, "epoch_seconds": 1.0}
    (part / "progress.json").write_text(json.dumps(progress))
    named = ALL.replace(EVIL["a half"], "")  # netCDF takes no half of a surrogate
    row = {"loss": 1.0, "expected_log_likelihood": -1.0, "kl": 1.0, "kl_weight": 1.0, "network_sparsity": 0.5}
    trace = xr.Dataset(
        {key: (("restart", "epoch"), [[value]]) for key, value in row.items()}
        | {key: (("restart", "epoch", "tensor"), [[[0.5]]]) for key in ("sparsity", "kl_of")},
        coords={"tensor": [named], "epoch": [1]},
        attrs={"data_size": 10, "is_map": 0},
    )
    trace.to_netcdf(part / "trace.nc", engine="scipy")
    code, said = ran(capsys, "show", part)
    assert code == 0 and said.count(neutral(evil)) == 7 and said.count(neutral(named)) == 1
    (part / "progress.json").write_text(json.dumps({**progress, "steps": evil}))
    assert ran(capsys, "show", part)[0] == 2


def test_a_terminal_gets_the_same(monkeypatch, capsys):
    # On a terminal rich writes sequences of its own: those that stand in names must not be among them.
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    console, shown = stdout(), table("name", EVIL["a title"])
    shown.add_row(EVIL["a colour"] + MARKUP, EVIL["a link"])
    console.print(shown)
    console.print(EVIL["C1"], EVIL["a link"], soft_wrap=True)
    print_lines(console, f"first\n{EVIL['a return']}")
    said = capsys.readouterr().out
    assert "\x1b[1m" in said  # control: it is taken for a terminal
    assert "\x1b]" not in said and "\x1b[31m" not in said and "\x9b" not in said and "\r" not in said
    assert MARKUP in said and "\nall is well\\rrm\n" in f"\n{said}"


def test_warnings_that_are_printed_are_text(capsys):
    with warnings.catch_warnings(), plain_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *given, **_: sys.stderr.write(warnings.formatwarning(*given[:4]))
        for evil in EVIL.values():
            warnings.warn(f"{evil} is odd", stacklevel=1)
    said = capsys.readouterr().err
    assert said.count("is odd") >= len(EVIL) and not OBEYED.search(said)
    assert "\x1b" in warnings.formatwarning(EVIL["a colour"], UserWarning, "file", 1)  # control: outside it is as ever


@pytest.mark.parametrize("text", ["Größe 東京 🙂", "a b", "naïve [brackets] \\x1b", "עברית", "e\u0301"])
def test_honest_names_are_left_alone(text):
    assert neutral(text) == text
    assert neutral(f"{text}\n\t", keep="\n\t") == f"{text}\n\t"
