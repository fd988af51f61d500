"""The first line of an error's message."""

from __future__ import annotations

import pytest

from bayesprune.models.checks.first_line import first_line


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one \n two"), "one"),
        (ValueError(), "ValueError"),
        (AssertionError("  \n"), "AssertionError"),
    ],
)
def test_an_error_is_told_by_its_first_line_or_by_its_type(problem, line):
    assert first_line(problem) == line
