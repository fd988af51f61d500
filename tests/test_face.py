"""The public face: every name is there, comes from its home, and is seen by static tools too."""

from __future__ import annotations

import ast
import importlib
import os
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import bayesprune
from bayesprune.public_homes import HOMES
from tests.test_structure import FACE, FLOORS

ROOT = Path(__file__).parents[1]


def away_from_home(homes):
    """The names that are another object at the face than in their home."""
    return [
        name
        for name, home in homes.items()
        if getattr(bayesprune, name) is not getattr(importlib.import_module(home), name, None)
    ]


def test_every_public_name_resolves_to_the_object_in_its_home():
    assert away_from_home(HOMES) == []
    assert away_from_home({"HALO": "bayesprune.models.priors.mcp"}) == ["HALO"]  # control


def test_every_public_name_has_a_docstring():
    assert [name for name in HOMES if not getattr(bayesprune, name).__doc__] == []


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="spike_and_slob"):
        _ = bayesprune.spike_and_slob


def test_dir_and_all_list_every_public_name():
    assert set(HOMES) <= set(dir(bayesprune))
    assert set(bayesprune.__all__) == {*HOMES, "__version__"}


def names_for_static_tools(source):
    """Name -> module, from the imports under `if TYPE_CHECKING`."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for statement in node.body:
                assert isinstance(statement, ast.ImportFrom)
                found.update({alias.asname: statement.module for alias in statement.names})
    return found


def test_static_tools_see_the_same_names_as_python():
    source = Path(bayesprune.__file__).read_text()
    assert names_for_static_tools(source) == HOMES
    # Control: a name that only one of the two knows is noticed.
    assert names_for_static_tools(source.replace("import HALO as HALO", "import HALO as HELLO")) != HOMES


def test_the_version_is_the_installed_one_and_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "bayesprune.__version__"}
    assert bayesprune.__version__ == version("bayesprune")


def homes_imported(page):
    """Lines of a page that import from a home, in place of the face."""
    return [line.strip() for line in page.splitlines() if re.match(r"\s*(from|import) bayesprune\.", line)]


@pytest.mark.parametrize("page", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))])
def test_a_page_imports_from_the_face_alone(page):
    assert homes_imported((ROOT / page).read_text()) == []


def test_a_page_that_imports_from_a_home_is_seen():
    """Control for the test above."""
    assert homes_imported("import bayesprune as bp\n    from bayesprune.inference.training.fit import fit\n") != []
    assert homes_imported("import bayesprune as bp\nfrom bayesprune import fit\n") == []


@pytest.mark.parametrize("floor", FLOORS[:FACE])
def test_the_face_reaches_each_floor_by_a_relative_link(floor):
    link = ROOT / "bayesprune" / floor
    assert link.is_symlink()
    assert os.readlink(link) == f"../{floor}"
    assert (link / "__init__.py").samefile(ROOT / floor / "__init__.py")
