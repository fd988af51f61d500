"""Whether data are those that a fit was made with, where it kept a sketch of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayesprune.data.sets import DataSplits

__all__ = ["check_same_data", "scaling_sketch"]


def scaling_sketch(splits: DataSplits) -> Any:
    """Sketch of what data were standardised by, which standardised data in other units do not show."""
    import torch

    from bayesprune.inference.data.data_sketch import data_sketch

    # One tensor: means near zero are of rounding errors alone, and are told beside the standard deviations.
    return data_sketch((torch.cat([splits.mean.reshape(-1), splits.sd.reshape(-1)]),))


def check_same_data(kept: Mapping[str, Any], splits: DataSplits, path: str | Path) -> None:
    """Refuses training data of the same shape but of another content than those of a fit.

    Args:
        kept: A run's summary, or settings of a fit; of ``data_sketch`` and ``scaling_sketch`` is compared what is
            there: earlier versions wrote neither.
        splits: The data as they are now.
        path: The folder of the fit, for the message.

    Raises:
        ValueError: If they differ by more than rounding.
    """
    from bayesprune.inference.data.data_sketch import data_sketch, is_same_sketch

    now = {"data_sketch": data_sketch(splits.train), "scaling_sketch": scaling_sketch(splits)}
    if any(kept.get(key) is not None and not is_same_sketch(kept[key], value) for key, value in now.items()):
        raise ValueError(
            f"the data {splits.name} have changed since {path} was fitted: their shape is the same, but not their "
            "content; restore them, or fit again"
        )
