"""Scores as JSON holds them: what is not finite is null, with a note that says so."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["finite_scores", "note_on"]


def finite_scores(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    """The scores, with None for those that are not finite."""
    return {name: value if value is not None and math.isfinite(value) else None for name, value in scores.items()}


def note_on(scores: Mapping[str, float | None]) -> list[str]:
    """A note that names the scores that are not finite; none where all are.

    Args:
        scores: By name, as they were computed: ``"test_nll"``.
    """
    wrong = [name.replace("_", " ") for name, value in scores.items() if value is not None and not math.isfinite(value)]
    if not wrong:
        return []
    return [
        f"{', '.join(wrong)}: not finite, so not written; look for targets out of all proportion, such as fill values, "
        "among those data"
    ]
