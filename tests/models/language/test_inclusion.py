"""Inclusion events: kinds, texts and what is refused."""

from __future__ import annotations

import pytest

from bayesprune.models.language.inclusion import exact_zero, relative_threshold, shrinkage_below


def test_each_event_has_its_kind_and_says_it():
    assert exact_zero().kind == exact_zero("z").kind == exact_zero("z", slab="s").kind == "atom"
    assert shrinkage_below().kind == "shrinkage" and shrinkage_below().threshold == 0.5
    assert relative_threshold().kind == "relative" and relative_threshold().threshold == 0.1
    texts = {str(event) for event in (exact_zero(), exact_zero("z"), shrinkage_below(), relative_threshold())}
    assert len(texts) == 4
    assert "0.25" in str(shrinkage_below(0.25)) and "0.3" in str(relative_threshold(0.3))


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_shrinkage_threshold_lies_strictly_between_zero_and_one(threshold):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        shrinkage_below(threshold)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_a_relative_threshold_is_positive(threshold):
    with pytest.raises(ValueError, match="positive threshold"):
        relative_threshold(threshold)


def test_a_slab_without_a_gate_is_refused():
    with pytest.raises(ValueError, match="needs gate="):
        exact_zero(slab="slab")
