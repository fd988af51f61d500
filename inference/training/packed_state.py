"""A state as JSON and tensors: what JSON cannot hold is named in it, bit by bit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["packed", "state_digest", "unpacked"]


def packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON holds it.

    Args:
        value: Mappings, sequences, tensors, arrays, numbers, texts.
        tensors: Gets its tensors and arrays, by number.

    Raises:
        ValueError: For anything else.
    """
    if torch.is_tensor(value) or isinstance(value, np.ndarray):
        name = str(len(tensors))
        tensors[name] = torch.as_tensor(value).detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"$tensor" if torch.is_tensor(value) else "$array": name}
    if isinstance(value, Mapping):
        return {str(key): packed(each, tensors) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [packed(each, tensors) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(float(value))}
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ValueError(
        f"checkpoint= keeps tensors, numbers and texts, not {type(value).__name__}, which the optimizer or the scores "
        "of a likelihood hold: fit without checkpoint="
    )


def unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What was `packed`; sequences are lists."""
    if isinstance(value, list):
        return [unpacked(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (key, name), *_ = value.items()
        if key == "$float":
            return float(name)
        if key in ("$tensor", "$array"):
            return tensors[name] if key == "$tensor" else tensors[name].numpy()
    return {key: unpacked(each, tensors) for key, each in value.items()}


def state_digest(stored: bytes, as_json: Any) -> str:
    """Hexadecimal digits that tell a state, its tensors as bytes and the rest as JSON, from a damaged one."""
    return blake2b(stored + json.dumps(as_json).encode(), digest_size=16).hexdigest()
