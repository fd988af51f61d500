"""Constants of a declaration in the dtype and on the device of the weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform

__all__ = ["moved", "python_numbers_as"]


@contextmanager
def python_numbers_as(like: Tensor) -> Iterator[None]:
    """Python numbers inside a declaration become tensors of the weights' dtype and device, not rounded to float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(like.dtype)
    try:
        with torch.device(like.device):
            yield
    finally:
        torch.set_default_dtype(before)


def moved(value: Any, like: Tensor) -> Any:
    """Copies a distribution with its tensors in the dtype and on the device of `like`."""
    if isinstance(value, Tensor):
        return value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, (Distribution, Transform)):
        made = copy.copy(value)
        for name, part in vars(value).items():
            if isinstance(part, (Tensor, Distribution, Transform, list)):
                made.__dict__[name] = moved(part, like)
        return made
    return [moved(part, like) for part in value] if isinstance(value, list) else value
