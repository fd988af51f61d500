"""Names are cut to the room there is, stay apart, and are left alone where they fit."""

from __future__ import annotations

import pytest

from bayesprune.analysis.plots.short_names import short_names

FIRST = "feature_extraction_backbone.first_projection_layer.weight"
SECOND = "feature_extraction_backbone.second_projection_layer.weight"


def test_names_that_fit_are_left_alone():
    assert short_names(["fc1.weight", "a" * 20], 20) == {"fc1.weight": "fc1.weight", "a" * 20: "a" * 20}


@pytest.mark.parametrize("letters", [12, 20, 30, 50])
def test_long_names_fit_and_stay_apart(letters):
    found = short_names([FIRST, SECOND, "fc1.weight"], letters)
    assert all(len(short) <= letters for short in found.values()) and len({*found.values()}) == 3
    assert found["fc1.weight"] == "fc1.weight"


def test_each_part_keeps_its_beginning_and_its_end():
    found = short_names([FIRST, SECOND], 30)
    assert found[FIRST].split(".")[1].startswith("firs") and found[SECOND].split(".")[1].startswith("seco")
    assert found[FIRST].endswith("weight")


def test_names_that_would_be_the_same_are_numbered():
    names = [f"layer{'x' * 40}{number}{'y' * 40}" for number in range(3)]
    assert [short[-2:] for short in short_names(names, 16).values()] == ["#1", "#2", "#3"]
    assert all(len(short) <= 16 for short in short_names(names, 16).values())
