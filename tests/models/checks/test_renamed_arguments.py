"""An argument that has a new name is taken by the old one for one release, and old files are read by the new one."""

from __future__ import annotations

import inspect

import pytest

from bayesprune.models.checks.renamed_arguments import by_new_names, takes_old_names


@takes_old_names
def run(number, *, execution="auto", **others):
    """Returns what it was given."""
    return number, execution, others


def test_the_old_name_is_the_new_one_with_a_sentence_that_says_what_to_type():
    said = r"^path= of run has a new name, and the old one goes with the next release: write execution='fused'$"
    with pytest.warns(FutureWarning, match=said) as told:
        assert run(3, path="fused", other=1) == (3, "fused", {"other": 1})
    assert told[0].filename == __file__  # the place is the caller's
    assert run(3, execution="fused", other=1) == (3, "fused", {"other": 1})  # control: no warning, which is an error


def test_both_names_are_refused():
    with pytest.raises(ValueError, match="run takes execution=, which was called path=, once: leave path= out"):
        run(3, execution="auto", path="auto")


def test_a_decorated_function_is_described_as_before():
    assert run.__doc__ == "Returns what it was given."
    assert list(inspect.signature(run).parameters) == ["number", "execution", "others"]


def test_what_an_earlier_version_wrote_is_read_by_new_names():
    assert by_new_names({"seed": 1, "path": "plain"}) == {"seed": 1, "execution": "plain"}
    assert by_new_names({"path": "old", "execution": "new"}) == {"path": "old", "execution": "new"}
    assert by_new_names({"paths": 1}) == {"paths": 1}  # control
