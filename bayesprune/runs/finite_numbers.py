"""Summaries as JSON holds them: a number that is not finite is null, and a note says so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

__all__ = ["finite_numbers"]


def finite_numbers(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary with None for every number that is not finite, at any depth.

    Args:
        summary: What is to be written. Where it has ``notes``, one is added that names the keys concerned.
    """
    wrong: list[str] = []
    found = {key: _finite(value, key, wrong) for key, value in summary.items()}
    wrong = [key for key in dict.fromkeys(wrong) if key != "per_restart"]
    if wrong and "notes" in found:
        found["notes"] = [
            *found["notes"],
            f"{', '.join(key.replace('_', ' ') for key in wrong)}: not finite, so not written; look for numbers out of "
            "all proportion, such as fill values, among the data",
        ]
    return found


def _finite(value: Any, name: str, wrong: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each, name, wrong) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each, name, wrong) for each in value]
    if isinstance(value, Real) and not math.isfinite(value):
        wrong.append(name)
        return None
    return value
