"""What gates of units did to a fit, in its pruning trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from bayesprune.inference.rules.padding import padded

__all__ = ["gate_variables"]


def gate_variables(
    trace: xr.Dataset,
    units: Sequence[tuple[str, int, bool]],
    records: Sequence[Sequence[dict[str, Any]]],
    report: dict[str, Any],
) -> xr.Dataset:
    """Adds what gates of units did to a trace.

    Args:
        trace: The trace.
        units: Set, number and whether it is a layer's gate, of every gate that was declared.
        records: One list a restart, one dict a record.
        report: Of the first restart; see `bayesprune.inference.rules.gate_training.GateTraining`.

    Returns:
        The trace with ``theta`` over `(restart, gate_record, unit)`, ``units_left`` and ``attracted`` (how many) over
        `(restart, gate_record, unit_group)`, ``gate_step``, ``expected_macs`` and ``realised_macs`` over `(restart,
        gate_record)`.
    """
    length = max(len(each) for each in records)
    groups = list(records[0][0]["units_left"])
    over = ("restart", "gate_record")
    data: dict[str, Any] = {
        "gate_step": (over, padded([[row["step"] for row in each] for each in records], length)),
        "theta": ((*over, "unit"), padded([[row["theta"] for row in each] for each in records], length)),
    }
    for key in ("units_left", "attracted"):
        rows = [[[row[key].get(group, 0) for group in groups] for row in each] for each in records]
        data[key] = ((*over, "unit_group"), padded(rows, length))
    for key in ("expected_macs", "realised_macs"):
        data[key] = (over, padded([[row[key] for row in each] for each in records], length))
    coords = {
        "unit_group": groups,
        "unit_set": ("unit", [owner for owner, _, _ in units]),
        "unit_number": ("unit", [number for _, number, _ in units]),
        "is_layer": ("unit", [is_layer for _, _, is_layer in units]),
    }
    added = trace.assign(data).assign_coords(coords)
    added["theta"] = added["theta"].astype(np.float32)
    return added.assign_attrs(
        dense_macs=report["dense_macs"],
        gate_rounding_step=report["rounding_step"],
        evaluations_a_step=report["evaluations_a_step"],
    )
