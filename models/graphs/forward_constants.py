"""Tensors that a forward makes by itself: `torch.zeros(len(x), 6)` and the like, in graphs and in sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

__all__ = ["FACTORIES", "recorded_factories", "remedy_for"]

FACTORIES = {name: getattr(torch, name) for name in ("zeros", "ones", "full")}
"""Functions that make a tensor of one number; their sizes may be those of the input."""
_NAMES = "zeros ones full empty eye rand randn tensor arange linspace as_tensor"
_REFUSED = re.compile(rf"({'|'.join(_NAMES.split())})\(\)[: ]")
_UNLIKE = ("same dtype", "same device", "same data type", "scalar type", "on the same", "at least two devices")


def remedy_for(reason: str) -> str:
    """What to do where making a tensor failed, or what was made is of another dtype or device, as end of a sentence.

    Args:
        reason: What torch says.
    """
    if reason.startswith("'len' is not supported"):
        return ": write x.shape[0] in place of len(x)"
    if _REFUSED.match(reason):
        return ": make the tensor from the input, x.new_zeros(...), x.new_ones(...) or x.new_full(...)"
    if any(words in reason for words in _UNLIKE):
        return (
            ": give the inputs the network's dtype and device, and a tensor that its forward makes itself those of its "
            "input, x.new_zeros(...) in place of torch.zeros(...)"
        )
    return ""


@contextmanager
def recorded_factories(tracer: fx.Tracer) -> Iterator[None]:
    """Has ``torch.zeros(x.shape[0], 6)`` be recorded inside; torch.fx knows ``torch.zeros((x.shape[0], 6))`` alone."""
    for name, made in FACTORIES.items():
        setattr(torch, name, _recorded(tracer, made))
    try:
        yield
    finally:
        for name, made in FACTORIES.items():
            setattr(torch, name, made)


def _recorded(tracer: fx.Tracer, made: Callable[..., Any]) -> Callable[..., Any]:
    def call(*sizes: Any, **more: Any) -> Any:
        if not any(isinstance(leaf, fx.Proxy) for leaf in _leaves((sizes, tuple(more.values())))):
            return made(*sizes, **more)
        if made is not FACTORIES["full"] and sizes and not isinstance(sizes[0], (tuple, list)):
            sizes = (tuple(sizes),)
        return tracer.create_proxy("call_function", made, sizes, more)

    return call


def _leaves(part: Any) -> Iterator[Any]:
    if isinstance(part, (tuple, list)):
        for each in part:
            yield from _leaves(each)
    else:
        yield part
