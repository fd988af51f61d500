"""The number of training data by which constants of a mean loss become nats of all the data."""

from __future__ import annotations

import math
from typing import Any

from bayesprune.models.plain_numbers import plain_number

__all__ = ["checked_data_size"]


def checked_data_size(what: str, data_size: Any) -> int:
    """Returns the number of data as Python's own whole number.

    Args:
        what: What asks for it, for the message: ``"HALO.from_paper"``.
        data_size: What it was given; None where it was left out.

    Raises:
        ValueError: If it is no whole number of at least 1.
    """
    count = plain_number(data_size)
    if isinstance(count, float) and math.isfinite(count) and count.is_integer():
        count = int(count)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(
            f"{what} needs data_size=, the number of training data (at least 1), since its constants are per datum, "
            f"not {data_size!r}"
        )
    return count
