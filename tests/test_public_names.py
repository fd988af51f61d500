"""The index of public names says what there is."""

from __future__ import annotations

import bayesprune as bp
from tests import public_names


def test_the_index_is_what_its_command_writes():
    written = public_names.PAGE.read_text(encoding="utf-8")
    assert written == public_names.page(), "docs/index.md is stale: python -m tests.public_names"


def test_every_public_name_stands_in_one_group_with_a_line():
    names = [name for group in public_names.groups().values() for name in group]
    assert sorted(names) == sorted(set(bp.__all__) - {"__version__"})
    silent = [name for name in names if len(public_names.first_line(name)) < 15]
    assert silent == []


def test_a_name_that_is_missing_or_said_otherwise_is_seen(monkeypatch):
    """Control for the first test."""
    before = public_names.page()
    monkeypatch.setattr(bp.HALO, "__doc__", "Another line.")
    assert public_names.page() != before
