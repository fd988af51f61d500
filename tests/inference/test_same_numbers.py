"""Small fits come to the numbers that they came to before, on either execution: a guard while code is rearranged.

What is compared, and when the stored numbers may be renewed, stands in same_numbers.py.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from tests.inference.same_numbers import (
    CASES,
    REMOVING,
    STEPS,
    asked,
    differences,
    fitted,
    learned,
    measured,
    stored,
    taken,
)

plain = functools.cache(fitted)
FUSED = [name for name, case in CASES.items() if "fused" in case.executions]
WITH_CONSTANT = [name for name, case in CASES.items() if case.has_constant]


@pytest.mark.parametrize("name", CASES)
def test_a_fit_learns_the_stored_numbers(name):
    assert taken(plain(name)) == "plain"
    assert differences(stored()[name]["learned"], measured(learned(plain(name)))) == []


@pytest.mark.parametrize("name", CASES)
def test_a_fit_answers_with_the_stored_numbers(name):
    assert differences(stored()[name]["asked"], measured(asked(plain(name)))) == []


@pytest.mark.parametrize("name", FUSED)
def test_the_fused_execution_learns_the_same_numbers(name):
    fit = fitted(name, "fused")
    assert taken(fit) == "fused"
    assert differences(stored()[name]["learned"], measured(learned(fit))) == []


@pytest.mark.parametrize("name", REMOVING)
def test_units_are_removed_in_the_cases_that_say_so(name):
    fit = plain(name)
    assert 1 < fit.model.network.fc1.out_features < fit.model.declared.fc1.out_features
    (share,) = fit.unit_inclusion().data_vars.values()
    assert int((share.values == 0).sum()) > 0  # units that are gone


def test_no_unit_is_removed_where_the_case_says_that_they_stay():
    assert plain("units that stay").model.declared is None


def test_the_regression_is_fitted_in_standard_units():
    found = plain("regression").settings["standardised"]
    assert found["inputs"] and found["targets"]


def test_one_layer_draws_its_outputs_and_one_its_weights_where_the_case_says_so():
    drawn = {name: plain(name).settings["outputs_drawn"] for name in CASES}
    assert drawn.pop("outputs drawn") == ["fc2.weight"] and not any(drawn.values())


# -- what would be seen -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Gaussian meanfield", "HALO map", "Horseshoe", "SpikeAndSlab", "units removed"])
@pytest.mark.parametrize("changed", [{"seed": 4}, {"steps": STEPS + 1}], ids=["seed", "steps"])
def test_another_seed_and_one_more_step_are_seen(name, changed):
    off = differences(stored()[name]["learned"], measured(learned(fitted(name, **changed))))
    assert any(line.startswith("loss") for line in off) and len(off) > 1


@pytest.mark.parametrize("name", WITH_CONSTANT)
def test_a_prior_whose_constant_is_off_by_a_millionth_is_seen(name):
    off = differences(stored()[name]["learned"], measured(learned(fitted(name, factor=1.0 + 1e-6))))
    assert any(line.startswith("loss") for line in off)


def test_what_is_missing_new_or_of_another_shape_is_seen():
    now = measured([("a", np.ones(3)), ("b", np.ones((2, 3)))])
    assert differences(now, now) == []
    assert differences(now, measured([("b", np.ones((3, 2))), ("c", np.ones(1))])) == [
        "a: there is none any more",
        "c: there was none",
        "b: shape [3, 2], not [2, 3]",
    ]


@pytest.mark.parametrize("change", ["swapped", "moved"])
def test_numbers_in_another_order_or_off_by_little_are_seen(change):
    before = np.linspace(1.0, 2.0, 7)
    after = before[[1, 0, *range(2, 7)]] if change == "swapped" else before + 1e-7 * np.eye(7)[3]
    assert differences(measured([("a", before)]), measured([("a", after)])) != []
    assert differences(measured([("a", before)]), measured([("a", before * (1.0 + 1e-11))])) == []
