"""Whether data are those that a fit was made with, where it kept their fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayesprune.data import DataSplits

__all__ = ["check_same_data"]


def check_same_data(kept: Mapping[str, Any], splits: DataSplits, path: str | Path) -> None:
    """Refuses training data of the same shape but of another content than those of a fit.

    Args:
        kept: A run's summary, or settings of a fit; without ``data_fingerprint``, as earlier versions wrote them,
            nothing is compared.
        splits: The data as they are now.
        path: The folder of the fit, for the message.

    Raises:
        ValueError: If they differ by more than rounding.
    """
    from bayesprune.inference.fingerprints import rounded_fingerprint

    before = kept.get("data_fingerprint")
    if before is not None and rounded_fingerprint(splits.train) != before:
        raise ValueError(
            f"the data {splits.name} have changed since {path} was fitted: their shape is the same, but not their "
            "content; restore them, or fit again"
        )
