"""Homes that public names had are found for one release, with a warning; other names and files are not."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import bayesprune as bp
from bayesprune.earlier_homes import EARLIER, know_earlier_homes


@pytest.mark.parametrize(
    ("home", "name"),
    [
        ("bayesprune.models.inclusion", "shrinkage_below"),
        ("bayesprune.models.hierarchy", "Latent"),
        ("bayesprune.models.standardisation", "put_in_units"),
        ("bayesprune.inference.families", "LogNormalFactor"),
        ("bayesprune.inference.paths", "Stepper"),
        ("bayesprune.inference.fit", "make_optimizer"),
        ("bayesprune.inference.schedules", "steps"),
        ("bayesprune.run_folder", "load_run"),
        ("bayesprune.analysis.plot_gates", "plot_gates"),
    ],
)
def test_a_public_name_is_found_where_it_was_with_a_warning_that_says_where_it_is(home, name):
    module = importlib.import_module(home)
    with pytest.warns(FutureWarning, match=f"{home} has moved, .* write from bayesprune import {name}") as told:
        found = getattr(module, name)
    assert found is getattr(bp, name) and told[0].filename == __file__


def test_what_was_never_public_is_refused_with_a_sentence():
    with pytest.raises(
        AttributeError, match=r"bayesprune.inference.prune has moved, and keep_highest is no public name"
    ):
        importlib.import_module("bayesprune.inference.prune").keep_highest  # noqa: B018


def test_nothing_else_is_found():
    for name in ("bayesprune.models.never", "bayesprune.inference.families.more", "models.inclusion"):
        assert name not in EARLIER
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)
    before = list(sys.meta_path)
    know_earlier_homes()
    assert sys.meta_path == before


def test_a_prior_file_of_an_earlier_version_goes_on(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from bayesprune.models.inclusion import shrinkage_below\nevent = shrinkage_below(0.3)\n")
    done = subprocess.run(
        [sys.executable, "-c", "import bayesprune, mine; print(mine.event)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "shrinkage factor < 0.3" in done.stdout
    assert "mine.py:1: FutureWarning" in done.stderr and "Traceback" not in done.stderr
