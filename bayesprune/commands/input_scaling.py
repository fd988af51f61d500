"""How inputs were scaled for training, so that new ones can be scaled in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayesprune.data.files import read_npz
from bayesprune.data.named_sets import DATASETS, TOKENS
from bayesprune.data.sets import DataSplits
from bayesprune.models.files.places import expanded

__all__ = ["input_scaling", "scaled_like_training"]

_BYTE = 255
_DIGITS = 16  # the images of digits count to 16


def input_scaling(splits: DataSplits) -> dict[str, Any]:
    """What was done to the inputs of a data set: they were divided, the mean was taken off, then divided by the sd.

    Args:
        splits: The data.

    Returns:
        For JSON: ``divisor`` (the byte that stands for 1.0 in images of bytes, else 1), and ``mean`` and ``sd`` of
        the training part, one number a channel for images, else of the shape of an input.
    """
    if splits.name == "digits":
        divisor = _DIGITS
    elif splits.name in TOKENS:
        divisor = 1
    elif splits.name in DATASETS or expanded(splits.name).is_dir():
        divisor = _BYTE
    else:
        divisor = read_npz(expanded(splits.name)).peak or 1
    return {"divisor": divisor, "mean": splits.mean.tolist(), "sd": splits.sd.tolist()}


def scaled_like_training(x: NDArray[Any], scaling: Mapping[str, Any]) -> NDArray[np.float64]:
    """Scales inputs in the units of the data file as the training data were.

    Args:
        x: Inputs, `(n, ...)`.
        scaling: What `input_scaling` returned.
    """
    mean, sd = (np.asarray(scaling[key], dtype=np.float64) for key in ("mean", "sd"))
    if mean.shape != x.shape[1:]:  # images: one number a channel
        mean, sd = (part.reshape(-1, 1, 1) for part in (mean, sd))
    scaled: NDArray[np.float64] = (x.astype(np.float64) / scaling["divisor"] - mean) / sd
    return scaled
