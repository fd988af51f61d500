"""The plan of the house names what is there: rooms in their order, files that exist; and registries are whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_structure import ALL, CODE, FLOORS, ROOT, home_of, imported_modules
from tests.wings import WINGS

PAGES = ("ARCHITECTURE.md", "CONTRIBUTING.md", "docs/inside.md")
PLACEHOLDER = "NAME.py"


def rooms(page, floor):
    """The wings that a page's table of a floor names, in its order."""
    part = page.split(f"\n**{floor}**", 1)[1].split("\n**", 1)[0]
    found = []
    for first, second in re.findall(r"^\| (.+?) \|(.+)\|$", part, flags=re.MULTILINE):
        found += re.findall(r"`(\w+)\.py`", second) if "on the floor" in first else re.findall(r"`(\w+)`", first)
    return found


@pytest.mark.parametrize("floor", FLOORS[:2])
def test_the_plan_has_every_wing_of_a_floor_below_those_that_it_imports(floor):
    named = rooms((ROOT / "ARCHITECTURE.md").read_text(), floor)
    assert sorted(named) == sorted(WINGS[floor])
    for place, wing in enumerate(named):
        assert set(WINGS[floor][wing].split()) <= set(named[:place]), wing


@pytest.mark.parametrize("floor", FLOORS[2:])
def test_the_plan_has_every_wing_of_an_upper_floor(floor):
    paragraph = re.search(rf"^\*\*{floor}\*\*: .*?\n\n", (ROOT / "ARCHITECTURE.md").read_text(), re.M | re.S)
    assert set(WINGS[floor]) <= set(re.findall(r"`(\w+)(?:\.py)?`", paragraph[0]))


def test_a_wing_that_is_missing_or_stands_too_high_is_seen():  # the control
    plan = (
        "\n**models**: what\n\n| wing | holds |\n|---|---|\n| `a`, `b` | c |\n| *on the floor* | `d.py` |\n\n**rest**"
    )
    assert rooms(plan, "models") == ["a", "b", "d"]


def missing_files(page):
    """Names of Python files on a page that no file of the checkout has, or that several have and no folder tells."""
    paths = [path.as_posix() for path in ALL]
    wrong = []
    for name in re.findall(r"[A-Za-z_./]*[A-Za-z_]\.py\b", page):
        found = [path for path in paths if path == name or path.endswith(f"/{name}")]
        several = "/" not in name and name != "__init__.py" and len([one for one in found if Path(one) in CODE]) > 1
        if name.rpartition("/")[2] not in (PLACEHOLDER, "network.py") and (not found or several):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_files_that_are_there_so_that_they_can_be_told_apart(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert re.search(r"\w\.py\b", text)
    assert missing_files(text) == []


def test_a_file_that_is_gone_or_one_of_several_is_seen():  # the control
    assert missing_files("terms.py, `models/priors/nobody.py`, reduction.py") == [
        "terms.py",
        "models/priors/nobody.py",
        "reduction.py",
    ]
    assert missing_files("guide.py, models/priors/reduction.py, models/priors/NAME.py") == []


# ------------------------------------------------------------------------------------------ what registers itself

REGISTERING = {
    "@family(": ("inference/guides", "inference/guides/guide.py"),
    "@ready_term(": ("inference/terms", "inference/terms/registry.py"),
    "@event_rule(": ("inference/inclusion", "inference/inclusion/events.py"),
}


def unheard(decorator, imported):
    """The files of the folder that register something, but that the one who asks does not import."""
    folder, _ = REGISTERING[decorator]
    found = [path for path in CODE if path.parent == Path(folder)]
    speaking = [path for path in found if f"\n{decorator}" in (ROOT / path).read_text().split('"""', 2)[2]]
    assert len(speaking) > 1  # they were found
    return [str(path) for path in speaking if not any(name.startswith(home_of(path)) for name in imported)]


@pytest.mark.parametrize("decorator", REGISTERING)
def test_whoever_asks_a_registry_imports_every_file_that_registers_something(decorator):
    imported = [name for _, name in imported_modules((ROOT / REGISTERING[decorator][1]).read_text())]
    assert unheard(decorator, imported) == []
    assert len(unheard(decorator, [])) > 1  # the control
