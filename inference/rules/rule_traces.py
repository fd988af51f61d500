"""What the rules of all restarts recorded, in the pruning trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import xarray as xr

from bayesprune.inference.rules.rule import ActiveRule

__all__ = ["over_tensors", "with_rules"]


def with_rules(trace: xr.Dataset, restarts: Sequence[Mapping[str, ActiveRule]]) -> xr.Dataset:
    """The pruning trace with what rules recorded.

    Args:
        trace: What `trace_dataset` made.
        restarts: The rules at work in each restart, by name, each of the same names.
    """
    for name, first in restarts[0].items():
        trace = type(first).trace(trace, [rules[name] for rules in restarts])
    return trace


def over_tensors(trace: xr.Dataset, variables: Iterable[str]) -> xr.Dataset:
    """The trace with what a rule recorded by name of tensor over its own tensors, NaN where it said nothing of one.

    Args:
        trace: What `trace_dataset` made.
        variables: Keys of the rule's rows.
    """
    for key in variables:
        if key in trace and f"{key}_name" in trace.dims:
            by_tensor = trace[key].rename({f"{key}_name": "tensor"}).reindex(tensor=trace["tensor"].values)
            trace = trace.drop_dims(f"{key}_name").assign({key: by_tensor})
    return trace
