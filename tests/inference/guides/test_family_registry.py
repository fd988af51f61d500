"""The registry of guide families says what each class says, and refuses what would make it say two things."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from bayesprune.inference.guides import guide
from bayesprune.inference.guides.families import Family, LogNormalFamily
from bayesprune.inference.guides.registry import (
    choosable_families,
    family,
    has_density,
    mean_field_family,
    registered_family,
)
from bayesprune.models.language.tensor_prior import Site

NAMES = choosable_families()  # at collection, before any test registers its own
WRITTEN = re.findall(
    r'^@family\("(\w+)"', "\n".join(p.read_text() for p in Path(guide.__file__).parent.glob("*.py")), flags=re.MULTILINE
)


def test_a_latent_can_choose_all_families_but_the_pair():
    assert {"delta", "normal", "lognormal", "logitnormal", "bernoulli", "hardconcrete", "paired"} <= set(WRITTEN)
    assert sorted((*NAMES, "paired")) == sorted(WRITTEN)  # whoever has a guide has all families
    assert registered_family("paired").supports == ()
    assert registered_family("lognormal").build is LogNormalFamily


@pytest.mark.parametrize("name", NAMES)
def test_a_family_has_a_density_where_its_factors_have_one(name):
    one = registered_family(name)
    for support in one.supports:
        bounds = (0.1, 2.0) if support == "interval" else None
        site = Site("a", "a", "a", (3,), support, "weight", None, bounds=bounds)
        factors = one.build([site], {"a": torch.full((3,), 0.5)}).draw()
        assert factors["a"].has_density == has_density(name)


def test_the_mean_field_family_of_a_support_is_the_one_that_says_so():
    found = {support: mean_field_family(support) for support in ("real", "positive", "unit", "boolean", "interval")}
    assert found == {
        "real": "normal",
        "positive": "lognormal",
        "unit": "logitnormal",
        "boolean": "bernoulli",
        "interval": None,
    }


def test_a_name_that_is_taken_and_a_second_mean_field_family_are_refused():
    with pytest.raises(ValueError, match="there is a guide family 'normal' already"):
        family("normal", supports=("real",))(Family)
    with pytest.raises(ValueError, match="'normal' is the mean-field family of real sites already"):
        family("another", supports=("real",), mean_field=True)(Family)
    assert choosable_families() == NAMES  # control: neither was taken


def test_an_unknown_family_is_refused_by_name():
    with pytest.raises(ValueError, match="guide family 'cauchy' is unknown: expected one of delta, normal, "):
        has_density("cauchy")
