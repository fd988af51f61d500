"""What the rules of all restarts recorded, in the pruning trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import xarray as xr

from bayesprune.inference.rules.rule import ActiveRule

__all__ = ["with_rules"]


def with_rules(trace: xr.Dataset, restarts: Sequence[Mapping[str, ActiveRule]]) -> xr.Dataset:
    """The pruning trace with what rules recorded.

    Args:
        trace: What `trace_dataset` made.
        restarts: The rules at work in each restart, by name, each of the same names.
    """
    for name, first in restarts[0].items():
        trace = type(first).trace(trace, [rules[name] for rules in restarts])
    return trace
