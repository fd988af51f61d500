"""Sketches of data: a few numbers that tell other data apart, and that rounding errors leave as they are.

A digest would not do: data that are standardised on another machine, or by another version of NumPy, differ in their
last digits, and are the same data none the less. Rounding first does not help, since some number always lies at the
edge of a cell. So each tensor is told by its norm and by sums of its numbers with random signs (one of the example
times one of the place within it), divided by the norm: Johnson & Lindenstrauss (1984). Rounding errors move these by
about 1e-7; another example among n moves them by about 1 / sqrt(n), one number among m by some 1 / sqrt(m).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from bayesprune.inference.data.batches import Data

__all__ = ["data_sketch", "is_same_sketch"]

TOLERANCE = 1e-5
"""By how much the numbers of two sketches of the same data may differ; the norm relatively."""
_BITS = (1, 5, 9, 13, 17, 21, 25, 29)
_SUMS = len(_BITS)
_CHUNK = 2**20
"""Numbers that are looked at together."""


def data_sketch(data: Data) -> list[dict[str, Any]] | None:
    """The sketch of tensors in memory; None for all other data, whose content is not read.

    Args:
        data: As `fit` takes them.

    Returns:
        For each tensor its ``shape``, its ``norm`` (of all numbers) and its ``sums`` with random signs, eight of
        them, divided by the norm: numbers of about the size of one. JSON holds it, where the data are finite.
    """
    if isinstance(data, TensorDataset):
        data = data.tensors
    if not isinstance(data, (tuple, list)) or not all(torch.is_tensor(part) for part in data):
        return None
    return [_of_tensor(part.detach()) for part in data]


def is_same_sketch(one: Any, other: Any) -> bool:
    """Whether two sketches are of the same data, but for rounding errors.

    Args:
        one: A sketch, as `data_sketch` made it or as it was read from JSON.
        other: Another one.
    """
    try:
        return len(one) == len(other) and all(_is_same(a, b) for a, b in zip(one, other, strict=True))
    except (TypeError, KeyError, ValueError):  # it is no sketch
        return False


def _is_same(one: Any, other: Any) -> bool:
    sums = zip(one["sums"], other["sums"], strict=True)
    return (
        list(one["shape"]) == list(other["shape"])
        and math.isclose(one["norm"], other["norm"], rel_tol=TOLERANCE)
        and all(math.isclose(a, b, rel_tol=0.0, abs_tol=TOLERANCE) for a, b in sums)
    )


def _of_tensor(part: Tensor) -> dict[str, Any]:
    rows = part.reshape(len(part), -1) if part.ndim and part.numel() else part.reshape(-1, 1)
    by_row, by_column = _signs(len(rows), 0), _signs(rows.shape[1], 1)
    square, sums = 0.0, torch.zeros(_SUMS, dtype=torch.float64)
    many = max(1, _CHUNK // rows.shape[1])
    # Float64 first: booleans have no absolute value, and that of an int8 of -128 is -128 again.
    largest = max((float(chunk.cpu().double().abs().max()) for chunk in rows.split(many) if chunk.numel()), default=0.0)
    unit = largest or 1.0  # so that no square is too large
    for start in range(0, len(rows), many):
        numbers = rows[start : start + many].cpu().double() / unit
        square += float(numbers.square().sum())
        sums += ((numbers @ by_column) * by_row[start : start + many]).sum(dim=0)
    norm = math.sqrt(square)
    return {"shape": list(part.shape), "norm": norm * unit, "sums": (sums / norm if norm else sums).tolist()}


def _signs(count: int, which: int) -> Tensor:
    """Random signs by place, `(count, 8)`: bits of a hash, the same on every machine; `which` tells two sets apart."""
    mixed = ((2 * torch.arange(count, dtype=torch.int64) + which) * 0x9E3779B1) & 0xFFFFFFFF
    for _ in range(2):  # the finalizer of MurmurHash3 (Appleby 2016), within 32 bits
        mixed = ((mixed ^ (mixed >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    mixed ^= mixed >> 16
    return torch.stack([((mixed >> bit) & 1).double() * 2.0 - 1.0 for bit in _BITS], dim=1)
