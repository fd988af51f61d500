"""Costs of a training with gates: counted by a walk over the steps, and by hand."""

from __future__ import annotations

import math

import pytest
import xarray as xr

import bayesprune as bp
from bayesprune.analysis.tables.gate_records import gate_records
from tests.analysis.gated_traces import SETTINGS, gated_fit, gated_trace


def walked(trace, restart, steps):
    """MACs of the steps, of the estimator and of the whole network, one step after another."""
    one = trace.isel(restart=restart)
    training = estimator = dense = 0.0
    left_in_epoch = 10
    for step in range(steps):
        batch = min(4, left_in_epoch)
        left_in_epoch = left_in_epoch - batch or 10
        record = max(n for n, at in enumerate(one.gate_step.values) if at <= step)  # NaN is never at most
        forward = float(one.realised_macs[record])
        training += 3 * forward * batch
        estimator += 2.0 * forward * batch * (step < trace.attrs["gate_rounding_step"])
        dense += 3 * 100 * batch
    return training, estimator, dense


def test_macs_are_those_of_a_walk_over_the_steps():
    fit = gated_fit()
    for restart, steps in ((0, 20), (1, 8)):
        found = bp.training_costs(fit, restart)
        assert found.steps == steps
        expected = walked(fit.trace, restart, steps)
        assert (found.training_macs, found.estimator_macs, found.dense_macs) == expected
    # By hand: 8 steps have 2 epochs of 10 and 4 + 4 examples; 20 have 68, 16 have 54.
    first = bp.training_costs(fit)
    assert first.training_macs == 3 * (100 * 28 + 60 * 40)
    assert first.estimator_macs == 2 * (100 * 28 + 60 * 26)
    assert first.dense_macs == 3 * 100 * 68
    assert first.ratio == (15_600 + 8_720) / 20_400
    # Controls: a record does not hold backwards, batches are not all full, gates are not drawn after they are rounded.
    assert first.training_macs != 3 * (100 * 18 + 60 * 10 + 20 * 40)
    assert first.training_macs != 3 * (100 * 8 + 60 * 12) * 4
    assert bp.training_costs(gated_fit(gate_rounding_step=-1)).estimator_macs == 2 * (100 * 28 + 60 * 40)


def test_endings_are_read_from_objects_as_from_the_sentences_of_earlier_versions():
    fit = gated_fit()  # its settings hold a sentence
    expected = bp.training_costs(fit, 1)
    assert expected.steps == 8
    fit.settings["stopped_early"] = [{"restart": 1, "step": 8, "steps": 20, "reason": "restart 0 at rest"}]
    assert bp.training_costs(fit, 1) == expected and bp.training_costs(fit, 0).steps == 20
    fit.settings["stopped_early"] = ["restart 11 at step 8 of 20"]
    assert bp.training_costs(fit, 1).steps == 20
    fit.settings["stopped_early"] = ["stopped somewhere"]
    with pytest.raises(ValueError, match="stopped_early holds 'stopped somewhere'"):
        bp.training_costs(fit, 1)


def test_a_restart_that_goes_to_its_end_is_not_cut_at_its_last_record():
    fit = gated_fit()
    fit.settings["stopped_early"] = []
    assert bp.training_costs(fit, 1).training_macs == 3 * (100 * 28 + 60 * 40)


def test_early_removal_is_counted_at_a_quarter_of_the_steps():
    first = bp.training_costs(gated_fit())  # a quarter of 20 is the record at 5
    assert first.decided_early == 1 / 3  # the first unit of a, of three that go
    assert first.removed_early == 0.0
    assert first.units == {"a": (3, 1), "b": (2, 1)} and first.architecture == "3-2 -> 1-1"
    longer = gated_fit()
    longer.settings["steps"] = 32  # a quarter is the record at 8
    assert bp.training_costs(longer).decided_early == 2 / 3
    assert bp.training_costs(longer).removed_early == 1 / 3
    # Control: a gate that opens again was not decided.
    back = gated_trace()
    back["theta"][0, 2, 0] = 0.1
    assert bp.training_costs(bp.Fit([], back, SETTINGS)).decided_early == 0.0


def test_residual_branches_are_counted_apart_from_units():
    assert bp.training_costs(gated_fit()).branches == (1, 1)
    assert bp.training_costs(gated_fit(), 1).branches == (1, 0)
    without = bp.training_costs(gated_fit(layers=False))
    assert without.branches == (0, 0) and "branches" not in str(without)
    # A branch among the groups of units does not change their counts.
    trace = gated_trace()
    more = trace["units_left"].isel(unit_group=[0]).assign_coords(unit_group=["block"])
    joined = xr.concat([trace["units_left"], more], dim="unit_group")
    wider = trace.drop_vars(["units_left", "unit_group"]).assign(units_left=joined)
    assert bp.training_costs(bp.Fit([], wider, SETTINGS)) == bp.training_costs(gated_fit())


def test_the_text_says_it_all():
    assert str(bp.training_costs(gated_fit())).splitlines() == [
        "units 3-2 -> 1-1, residual branches 1 -> 1",
        "of the removal at 25% of the steps: decided 33.3%, done 0.0%",
        "2.432e+04 MACs in 20 steps, 8720 of them for the gates' gradient; without gates 2.04e+04, ratio 1.192",
    ]


def test_a_fit_that_removes_nothing_has_no_share():
    trace = gated_trace()
    trace["theta"][:] = 1.0
    trace["units_left"][:] = [3, 2]
    found = bp.training_costs(bp.Fit([], trace, SETTINGS))
    assert math.isnan(found.decided_early) and math.isnan(found.removed_early)
    assert "decided -, done -" in str(found)


def test_records_are_those_of_one_restart_without_padding():
    records = gate_records(gated_trace().transpose("unit", ...), 1)
    assert records.gate_step.values.tolist() == [0, 5, 8]
    assert records.theta.shape == (3, 6)
    # What netCDF 3 makes of booleans.
    stored = gated_trace().assign_coords(is_layer=("unit", [0, 0, 0, 0, 0, 1]))
    assert gate_records(stored).identical(gate_records(gated_trace()))


def test_wrong_input_is_told(spike):
    with pytest.raises(ValueError, match="holds no unit gates: fit BayesianNetwork"):
        bp.training_costs(spike)
    with pytest.raises(ValueError, match="there is no restart 2: this fit has 2"):
        bp.training_costs(gated_fit(), restart=2)
