"""The number of training data by which constants of a mean loss become nats of all the data."""

from __future__ import annotations

__all__ = ["checked_data_size"]


def checked_data_size(what: str, data_size: int | None) -> int:
    """Returns the number of data.

    Args:
        what: What asks for it, for the message: ``"HALO.from_paper"``.
        data_size: What it was given; None where it was left out.

    Raises:
        ValueError: If it is missing or less than 1.
    """
    if data_size is None or data_size < 1:
        raise ValueError(
            f"{what} needs data_size=, the number of training data (at least 1), since its constants are per datum, "
            f"not {data_size}"
        )
    return data_size
