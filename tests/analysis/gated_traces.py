"""Small traces of fits with unit gates, written by hand so that costs can be counted by hand."""

from __future__ import annotations

import numpy as np
import xarray as xr

import bayesprune as bp

SETTINGS = {"steps": 20, "batch_size": 4, "stopped_early": ["restart 1 at step 8 of 20"]}
NAN = float("nan")


def gated_trace(layers: bool = True, **changes: object) -> xr.Dataset:
    """Sets a (3 units) and b (2 units), and a layer gate, over records at 0, 5, 8 and 20; restart 1 ends at 8.

    20 steps of 4 examples, of 10 in all: an epoch is two batches of 4 and one of 2.
    """
    # Columns: three units of a, two of b, the gate of a residual branch.
    first = [
        [0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
        [0.0, 0.6, 0.2, 0.4, 0.7, 0.6],
        [0.0, 0.8, 0.0, 0.3, 0.8, 0.7],
        [0.0, 1.0, 0.0, 0.0, 1.0, 1.0],
    ]
    second = [[0.5] * 6, [0.6] * 6, [0.0, 0.7, 0.7, 0.7, 0.7, 0.0], [NAN] * 6]
    left = [[[3, 2], [3, 2], [2, 2], [1, 1]], [[3, 2], [3, 2], [2, 2], [NAN, NAN]]]
    units = 6 if layers else 5
    trace = xr.Dataset(
        {
            "theta": (("restart", "gate_record", "unit"), np.array([first, second], dtype=np.float32)[..., :units]),
            "gate_step": (("restart", "gate_record"), [[0.0, 5.0, 8.0, 20.0], [0.0, 5.0, 8.0, NAN]]),
            "units_left": (("restart", "gate_record", "unit_group"), np.array(left, dtype=np.float64)),
            "expected_macs": (("restart", "gate_record"), [[50.0, 40.0, 30.0, 20.0], [50.0, 60.0, 50.0, NAN]]),
            "realised_macs": (("restart", "gate_record"), [[100.0, 100.0, 60.0, 20.0], [100.0, 100.0, 60.0, NAN]]),
        },
        coords={
            "unit_set": ("unit", ["a", "a", "a", "b", "b", "block"][:units]),
            "unit_number": ("unit", [0, 1, 2, 0, 1, 0][:units]),
            "is_layer": ("unit", [False] * 5 + [True] * (units - 5)),
            "unit_group": ["a", "b"],
        },
        attrs={"data_size": 10, "dense_macs": 100, "gate_rounding_step": 16, "evaluations_a_step": 2.0},
    )
    return trace.assign_attrs(**changes)


def gated_fit(**changes: object) -> bp.Fit:
    """A fit that has nothing but the trace."""
    return bp.Fit([], gated_trace(**changes), dict(SETTINGS))
