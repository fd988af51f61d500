"""Summaries as JSON holds them: a number that is not finite is null, and a note says so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["finite_numbers"]


def finite_numbers(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary with None for every number that is not finite, at any depth.

    Args:
        summary: What is to be written. Where it has ``notes``, one is added that names the keys concerned.
    """
    found = {key: _finite(value) for key, value in summary.items()}
    wrong = [key for key, value in summary.items() if found[key] != value and key != "per_restart"]
    if wrong and "notes" in found:
        found["notes"] = [
            *found["notes"],
            f"{', '.join(key.replace('_', ' ') for key in wrong)}: not finite, so not written; look for numbers out of "
            "all proportion, such as fill values, among the data",
        ]
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
