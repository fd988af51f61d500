"""What `bayesprune show` says of gates of units: what is left, when it was decided, and what training cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from bayesprune.analysis.tables.gate_records import gate_records
from bayesprune.analysis.tables.training_costs import training_costs
from bayesprune.commands.console import percent
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.rules.gate_training import INTERIOR
from bayesprune.models.units.architecture import architecture

__all__ = ["gate_lines", "progress_gate_lines", "what_is_left"]

Line = tuple[str, str]


def gate_lines(fit: Fit, summary: Mapping[str, Any]) -> list[Line]:
    """Name and text of what there is to say of the gates of a fit; nothing where it has none.

    Args:
        fit: The fit.
        summary: That of its run.
    """
    model = fit.model
    if not model.closes_units:
        return []
    before = model.network if model.declared is None else model.declared
    example = model.example_input
    lines = [
        ("gates", what_is_left(summary)),
        ("architecture", f"{architecture(before, example)} -> {architecture(model.network, example)}"),
        ("rounding", _rounding(summary["gating"][0], summary["steps"])),
    ]
    costs = training_costs(fit)
    removals = summary["gating"][0]["removals"]
    if removals:
        went = f"{sum(row['gates'] for row in removals):,} gates in {len(removals)} removals"
        when = f"steps {removals[0]['step']:,} to {removals[-1]['step']:,} of {costs.steps:,}"
        early = f"{percent(costs.removed_early)} of the units by a quarter of the steps"
        lines.append(("removal", f"{went}, {when}; {early}"))
    lines.append(
        (
            "training",
            f"{costs.training_macs + costs.estimator_macs:.3g} MACs, {costs.estimator_macs:.3g} of them for the gates' "
            f"gradient; {percent(costs.ratio)} of what the whole network would have taken",
        )
    )
    if len(fit.restarts) > 1:
        each = [training_costs(fit, number).architecture for number in range(len(fit.restarts))]
        lines.append(("restarts", f"units {'; '.join(each)}"))
    return lines


def what_is_left(summary: Mapping[str, Any]) -> str:
    """How many units and residual branches are left, by the summary of a run with gates."""
    text, rows = f"units left: {_left(summary['units'])}", summary["branches"]
    if not rows:
        return text
    gone = [name for name, row in rows.items() if not row["left"]]
    without = f", without {', '.join(gone)}" if gone else ""
    return f"{text}; residual branches left: {len(rows) - len(gone)} of {len(rows)}{without}"


def progress_gate_lines(trace: xr.Dataset) -> list[Line]:
    """The same of a fit in progress, from its trace: units in the network, gates undecided, operations.

    Args:
        trace: The trace, as `read_trace` reads it.
    """
    if "theta" not in trace:
        return []
    records = gate_records(trace, trace.sizes["restart"] - 1)
    left, last = records["units_left"].values, records.isel(gate_record=-1)
    rows = {
        str(name): {"of": int(start), "left": int(end)}
        for name, start, end in zip(records["unit_group"].values, left[0], left[-1], strict=True)
    }
    theta = last["theta"].values
    macs = float(last["realised_macs"]) / float(records.attrs["dense_macs"])
    step, rounding = int(last["gate_step"]), int(records.attrs["gate_rounding_step"])
    state = f"{_interior(theta)} of {theta.size:,} gates lie in {INTERIOR}"
    if rounding > step:
        state += f", to be rounded at step {rounding:,}"
    return [("gates", f"units in the network: {_left(rows)}; {percent(macs)} of the MACs"), ("theta", state)]


def _left(rows: Mapping[str, Mapping[str, int]]) -> str:
    """Units that are left by set."""
    return ", ".join(f"{name} {row['left']} of {row['of']}" for name, row in rows.items())


def _rounding(report: Mapping[str, Any], steps: int) -> str:
    """When theta was rounded, and how many gates were undecided then."""
    if report["rounding_step"] < 0:
        return "never"
    at = f"step {report['rounding_step']:,} of {steps:,}"
    if "interior" not in report:
        return f"at {at}, which was not reached"
    before, after = (sum(report[f"open_{when}_rounding"].values()) for when in ("before", "after"))
    noise = f"; noise of their gradient {report['noise']:.2g} times the price" if "noise" in report else ""
    return f"at {at}: {report['interior']} gates lay in {INTERIOR}; of {before} above zero {after} stay{noise}"


def _interior(theta: np.ndarray) -> int:
    return int(((theta > INTERIOR[0]) & (theta < INTERIOR[1])).sum())
