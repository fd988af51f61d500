"""Scores over the spread of their tensor, so that tensors of unlike scale are ranked together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["over_spread"]


def over_spread(
    scores: Mapping[str, Tensor], active: Mapping[str, Tensor], of: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Scores divided by a standard deviation of their tensor: class-distribution pruning (See, Luong & Manning 2016).

    The deviation is over the weights that are still there: over all of a tensor it would shrink with every zero, and
    the tensor that was pruned most would look the strongest. It is that of a population (n in the denominator). A
    tensor whose values are all alike, or of which one is left, has none: by the rule "|w| < lambda sd goes" nothing of
    it goes as long as there is anything else.

    Args:
        scores: A score for each weight by name of tensor, `(out, in, ...)`.
        active: True where a weight is still there, of the same shapes.
        of: What the deviation is of, of the same shapes: the weights with their signs, or the scores themselves.

    Returns:
        Scores in double precision, of the same shapes.
    """
    found = {}
    for name, score in scores.items():
        there = active[name].to(score.device)
        values = of[name].to(score.device)[there].double()
        spread = values.std(correction=0) if len(values) > 1 else values.new_zeros(())
        most = torch.full_like(score, torch.inf, dtype=torch.float64)
        found[name] = torch.where(
            spread > 0.0, score.double() / spread.clamp_min(torch.finfo(torch.float64).tiny), most
        )
    return found
