"""Signatures: no function takes more arguments than somebody can keep in mind, and none knows a method by its name."""

from __future__ import annotations

import ast

import pytest

from tests.test_structure import CODE, ROOT

MOST = 20
"""Arguments of a function, but for the commands of the command line, each of whose options is one."""
ENGINE = ("inference/training/fit.py", "inference/training/restart_run.py", "inference/objective/objective.py")
METHODS = ("Gating", "UnitGate", "HALO", "IterateAverage", "Budget", "NetworkGates", "kappa", "theta")


def too_many(source, most=MOST):
    """The functions with more arguments than `most`."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    counts = {one.name: len([*one.args.posonlyargs, *one.args.args, *one.args.kwonlyargs]) for one in found}
    return {name: count for name, count in counts.items() if count > most}


def test_no_function_takes_more_than_twenty_arguments():
    files = [path for path in CODE if path.parts[:2] != ("bayesprune", "cli")]
    assert {str(path): wrong for path in files if (wrong := too_many((ROOT / path).read_text()))} == {}
    assert too_many("def f(" + ", ".join(f"a{n}" for n in range(21)) + "): ...") == {"f": 21}  # control


def named(source):
    """The methods that a file names, in code or in words."""
    return [name for name in METHODS if name in source]


@pytest.mark.parametrize("file", ENGINE)
def test_the_engine_knows_no_method_by_its_name(file):
    source = (ROOT / file).read_text()
    assert named(source) == []
    assert named(source + "\n# Gating\n") == ["Gating"]  # control
    if file != "inference/training/restart_run.py":
        assert len(source.splitlines()) < 250
