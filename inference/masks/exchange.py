"""Which weights go and come: pure functions of masks and scores, to exact counts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["grown", "kept", "kept_of_all"]


def kept(mask: Tensor, scores: Tensor, count: int, temperature: float = 0.0) -> Tensor:
    """The `count` weights of a mask with the highest scores, as a mask.

    Args:
        mask: Boolean, `(out, in, ...)`.
        scores: Of the same shape.
        count: How many, at most as many as the mask has.
        temperature: 0 (default): exactly those; else they are drawn without replacement, with weights
            exp(score / temperature) (Gumbel top-k, Kool et al. 2019).
    """
    return _highest(mask, scores, count, temperature)


def grown(mask: Tensor, scores: Tensor, count: int, temperature: float = 0.0) -> Tensor:
    """A mask with `count` more weights, those of the highest scores that it has not.

    Args:
        mask: Boolean, `(out, in, ...)`.
        scores: Of the same shape.
        count: How many come, at most as many as are out.
        temperature: As for `kept`.
    """
    return mask | _highest(~mask, scores, count, temperature)


def kept_of_all(masks: Mapping[str, Tensor], scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The `count` weights of all masks together with the highest scores; each tensor keeps its best one in any case.

    Args:
        masks: Boolean, by name of tensor.
        scores: By name of tensor.
        count: How many in all, from one a tensor on.
    """
    best = {name: kept(mask, scores[name], 1) for name, mask in masks.items()}
    others = torch.cat([(masks[name] & ~best[name]).flatten() for name in masks])
    chosen = _highest(others, torch.cat([scores[name].flatten() for name in masks]), count - len(masks), 0.0)
    parts = chosen.split([mask.numel() for mask in masks.values()])
    return {name: best[name] | part.view(masks[name].shape) for name, part in zip(masks, parts, strict=True)}


def _highest(among: Tensor, scores: Tensor, count: int, temperature: float) -> Tensor:
    """The `count` places of a mask with the highest scores; no device is waited for."""
    if temperature > 0.0:
        uniform = torch.rand_like(scores).clamp_min(torch.finfo(scores.dtype).tiny)
        scores = scores / temperature - (-uniform.log()).log()
    places = scores.masked_fill(~among, -torch.inf).flatten().topk(count).indices
    found = torch.zeros(among.numel(), dtype=torch.bool, device=among.device)
    found[places] = True
    return found.view(among.shape) & among  # a score of -inf is no place outside
