"""What the trace of a fit says of its unit gates, one restart at a time."""

from __future__ import annotations

import numpy as np
import xarray as xr

from bayesprune.inference.fit_result import Fit
from bayesprune.models.checks.given_numbers import restart_number


def gate_records(fit: Fit | xr.Dataset, restart: int = 0) -> xr.Dataset:
    """The records of the gates of one restart, without the padding of restarts that were stopped early.

    Args:
        fit: The fit, or the trace of one in progress, as `read_trace` reads it.
        restart: Which restart; default the first.

    Returns:
        ``theta`` over `(gate_record, unit)`; ``units_left`` over `(gate_record, unit_group)`, sets of units only, no
        residual branches; ``gate_step``, ``expected_macs`` and ``realised_macs`` over `gate_record`.

    Raises:
        ValueError: If the fit has no unit gates, or no such restart.
    """
    trace = fit if isinstance(fit, xr.Dataset) else fit.trace
    if "theta" not in trace:
        raise ValueError("the trace of this fit holds no unit gates: fit BayesianNetwork(..., gates=UnitGates())")
    restart = restart_number(restart, trace.sizes["restart"])
    # A trace that was read from a file may hold 0 and 1 in place of booleans.
    trace = trace.assign_coords(is_layer=trace["is_layer"].astype(bool))
    branches = trace["unit_set"].values[trace["is_layer"].values]
    one = trace.isel(restart=restart, unit_group=~np.isin(trace["unit_group"].values, branches))
    return one.isel(gate_record=np.isfinite(one["gate_step"].values)).transpose("gate_record", ...)
