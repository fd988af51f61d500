"""Options that `FitOptions` has are made of its fields on the command line: no default and no text stands twice."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields

import pytest
from typer.main import get_command

from bayesprune.cli.app import app
from bayesprune.inference.training.fit_options import FitOptions, help_of

FIELDS = {one.name for one in fields(FitOptions)}
NOT_THERE = {
    "gate_estimator", "compiled", "clip", "sticking_the_landing", "channels_last",
    "workers", "progress", "checkpoint", "only_restart",
}  # fmt: skip
"""Options of `fit` that the command line has not, or not by this name (--quiet, RUN.part)."""
OTHERWISE = {"path": {"epochs": None, "restarts": 3, "workers": 1}}
"""A path's own: passes at each value, how many paths, and processes that fit."""


def options(command):
    return {one.name: one for one in get_command(app).commands[command].params}


def in_words(text):
    """A help text without its default, which a command may have another sentence on."""
    return text.partition("  [default")[0].removesuffix(".")


@pytest.mark.parametrize("command", ["fit", "path"])
def test_defaults_and_help_texts_are_those_of_the_fields(command):
    found, own = options(command), OTHERWISE.get(command, {})
    shared = FIELDS & set(found) - set(own)
    assert len(shared) >= 11
    for name in shared:
        default = getattr(FitOptions, name)
        assert found[name].default == default or (name, found[name].default) == ("execution", None), name
        assert found[name].help.startswith(in_words(help_of(name))), name
        stated = help_of(name).partition("  [default")[2]
        assert stated in found[name].help
    assert {name: found[name].default for name in own} == own


def test_every_field_is_an_option_or_named_here():
    assert FIELDS - set(options("fit")) == NOT_THERE


def test_the_default_of_execution_is_said_though_an_old_name_is_taken_too():
    assert options("fit")["execution"].help.endswith(f"[default: {FitOptions.execution}]")


def test_no_default_of_a_field_stands_in_a_signature_again():
    """A change of a default is made in one place: the sources name the field."""
    from bayesprune.cli import fit, path

    for module in (fit, path):
        with open(module.__file__, encoding="utf-8") as file:
            source = file.read()
        for name in FIELDS & set(options(module.__name__.rpartition(".")[2])) - {
            "epochs",
            "restarts",
            "execution",
            "workers",
        }:
            assert re.search(rf"^    (\] = |{name}: .*= )FitOptions\.{name},", source, re.M), name


@pytest.mark.parametrize("command", ["fit", "path"])
def test_help_is_told_without_pytorch(command):
    code = (
        "import sys, bayesprune.cli.app as app\n"
        f"try:\n    app.app(['{command}', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'pyro', 'numpy', 'xarray'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n" and "--batch-size" in done.stdout
