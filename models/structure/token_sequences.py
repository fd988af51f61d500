"""Sequences of tokens of unequal length in one tensor: whole numbers, with zeros on the right where one has ended."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["PADDING", "at_last_token", "checked_tokens"]

PADDING = 0
"""The token that stands where a sequence has ended."""


def checked_tokens(tokens: Tensor) -> Tensor:
    """Returns tokens `(N, steps)`.

    Raises:
        ValueError: If they have another number of dimensions, or are no whole numbers.
    """
    if tokens.is_floating_point() or tokens.ndim != 2:
        kind = f"{str(tokens.dtype).removeprefix('torch.')} of shape {tuple(tokens.shape)}"
        raise ValueError(
            f"the network got {kind}, but it reads tokens, whole numbers (N, steps), with {PADDING} after the end of a "
            "sequence: give integers, not standardised"
        )
    return tokens


def at_last_token(outputs: Tensor, tokens: Tensor) -> Tensor:
    """The outputs after the last token of each sequence, whatever follows it.

    Args:
        outputs: Of each step, `(N, steps, hidden)`; those of a step depend on no later one.
        tokens: `(N, steps)`.

    Returns:
        `(N, hidden)`; of a sequence without any token those after the first step.
    """
    steps = torch.arange(tokens.shape[1], device=tokens.device)
    last = ((tokens != PADDING) * steps).amax(1)
    return outputs.gather(1, last[:, None, None].expand(-1, 1, outputs.shape[2])).squeeze(1)
