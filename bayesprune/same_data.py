"""Whether data are those that a fit was made with, where it kept their fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayesprune.data import DataSplits

__all__ = ["check_same_data", "scaling_fingerprint"]


def scaling_fingerprint(splits: DataSplits) -> str | None:
    """Fingerprint of what data were standardised by, which standardised data in other units do not show."""
    from bayesprune.inference.fingerprints import rounded_fingerprint

    return rounded_fingerprint((splits.mean, splits.sd))


def check_same_data(kept: Mapping[str, Any], splits: DataSplits, path: str | Path) -> None:
    """Refuses training data of the same shape but of another content than those of a fit.

    Args:
        kept: A run's summary, or settings of a fit; of ``data_fingerprint`` and ``scaling_fingerprint`` is compared
            what is there: earlier versions wrote neither.
        splits: The data as they are now.
        path: The folder of the fit, for the message.

    Raises:
        ValueError: If they differ by more than rounding.
    """
    from bayesprune.inference.fingerprints import rounded_fingerprint

    now = {"data_fingerprint": rounded_fingerprint(splits.train), "scaling_fingerprint": scaling_fingerprint(splits)}
    if any(kept.get(key) not in (None, value) for key, value in now.items()):
        raise ValueError(
            f"the data {splits.name} have changed since {path} was fitted: their shape is the same, but not their "
            "content; restore them, or fit again"
        )
