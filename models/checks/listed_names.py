"""Names in a sentence: the first three, and how many more there are."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["listed"]

SHOWN = 3


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``, or ``a, b, c and 4 more``.

    Args:
        names: At least one.
    """
    shown = [*names[:SHOWN], *([f"{len(names) - SHOWN} more"] if len(names) > SHOWN else [])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
