"""Which weights go and come: pure functions of masks and scores, to exact counts.

Of weights with the same score as the last one that is chosen as many as are needed are drawn at random: where a layer
has died every gradient is zero, and the first places of a tensor would be its first units.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["exchanged", "grown", "grown_of_all", "kept", "kept_of_all", "resized"]


def kept(mask: Tensor, scores: Tensor, count: int, temperature: float = 0.0) -> Tensor:
    """The `count` weights of a mask with the highest scores, as a mask.

    Args:
        mask: Boolean, `(out, in, ...)`.
        scores: Of the same shape; NaN is below every number.
        count: How many, at most as many as the mask has.
        temperature: 0 (default): exactly those; else they are drawn one after the other without replacement, each with
            odds exp(score / temperature) (Gumbel top-k, Kool et al. 2019).
    """
    return _highest(mask, _noisy(scores, temperature), count)


def grown(mask: Tensor, scores: Tensor, count: int, temperature: float = 0.0) -> Tensor:
    """A mask with `count` more weights, those of the highest scores that it has not.

    Args:
        mask: Boolean, `(out, in, ...)`.
        scores: Of the same shape.
        count: How many come, at most as many as are out.
        temperature: As for `kept`.
    """
    return mask | kept(~mask, scores, count, temperature)


def kept_of_all(
    masks: Mapping[str, Tensor], scores: Mapping[str, Tensor], count: int, temperature: float = 0.0
) -> dict[str, Tensor]:
    """The `count` weights of all masks together with the highest scores; each tensor keeps its best one in any case.

    Args:
        masks: Boolean, by name of tensor.
        scores: By name of tensor.
        count: How many in all, from one a tensor on.
        temperature: As for `kept`.
    """
    noisy = {name: _noisy(scores[name], temperature) for name in masks}
    best = {name: kept(mask, noisy[name], 1) for name, mask in masks.items()}
    others = torch.cat([(masks[name] & ~best[name]).flatten() for name in masks])
    chosen = _highest(others, torch.cat([noisy[name].flatten() for name in masks]), count - len(masks))
    return {name: best[name] | part for name, part in _apart(chosen, masks).items()}


def grown_of_all(
    masks: Mapping[str, Tensor], scores: Mapping[str, Tensor], count: int, temperature: float = 0.0
) -> dict[str, Tensor]:
    """Masks with `count` more weights in all, those of the highest scores in the whole network.

    Args:
        masks: Boolean, by name of tensor.
        scores: By name of tensor.
        count: How many come in all.
        temperature: As for `kept`.
    """
    there = torch.cat([mask.flatten() for mask in masks.values()])
    grown_ones = grown(there, torch.cat([scores[name].flatten() for name in masks]), count, temperature)
    return _apart(grown_ones, masks)


def resized(
    masks: Mapping[str, Tensor],
    counts: Mapping[str, int],
    wanted: Mapping[str, int],
    drop: Mapping[str, Tensor],
    grow: Mapping[str, Tensor],
    is_free: bool = False,
    temperature: float = 0.0,
) -> dict[str, Tensor]:
    """Masks of as many weights as are wanted: the lowest drop scores go, or the highest growth scores come.

    Args:
        masks: Boolean, by name of tensor.
        counts: How many weights each has.
        wanted: How many it is to have.
        drop: Scores of which the lowest go, by name.
        grow: Scores of which the highest come; of what does not grow none are read.
        is_free: Whether only the sum is wanted, wherever the scores say; default False.
        temperature: As for `kept`.
    """
    more = sum(wanted.values()) - sum(counts.values())
    if is_free and more < 0:
        return kept_of_all(masks, drop, sum(wanted.values()), temperature)
    if is_free:
        return grown_of_all(masks, grow, more, temperature) if more else dict(masks)
    found = {}
    for name, mask in masks.items():
        change = wanted[name] - counts[name]
        if change < 0:
            found[name] = kept(mask, drop[name], wanted[name], temperature)
        else:
            found[name] = grown(mask, grow[name], change, temperature) if change > 0 else mask
    return found


def exchanged(
    masks: Mapping[str, Tensor],
    counts: Mapping[str, int],
    comes: Mapping[str, int],
    drop: Mapping[str, Tensor],
    grow: Mapping[str, Tensor],
    temperature: float = 0.0,
) -> dict[str, Tensor]:
    """Masks of the same numbers of weights: the lowest drop scores go, and as many come of all that were not kept.

    Args:
        masks: Boolean, by name of tensor.
        counts: How many weights each has.
        comes: How many of them go and come.
        drop: Scores of which the lowest go, by name.
        grow: Scores of which the highest come, those that have just gone among them.
        temperature: As for `kept`.
    """
    found = {}
    for name, mask in masks.items():
        stay = kept(mask, drop[name], counts[name] - comes[name], temperature)
        found[name] = grown(stay, grow[name], comes[name], temperature)
    return found


def _noisy(scores: Tensor, temperature: float) -> Tensor:
    """Scores over the temperature with Gumbel noise: minus the logarithm of an exponential number."""
    if temperature == 0.0:
        return scores
    scores = scores.double() / temperature  # single precision has too few numbers in the tail of the noise
    return scores - torch.empty_like(scores).exponential_().log()


def _highest(among: Tensor, scores: Tensor, count: int) -> Tensor:
    """Exactly `count` places of a mask with the highest scores."""
    found = torch.zeros(among.numel(), dtype=torch.bool, device=among.device)
    places = among.flatten().nonzero().squeeze(1)
    if count >= len(places):
        return among.clone()
    if count > 0:
        values = scores.flatten()[places]
        values = values.where(~values.isnan(), -torch.inf)
        least = values.topk(count, sorted=False).values.min()
        surely, tied = places[values > least], places[values == least]
        missing = count - len(surely)
        if len(tied) > missing:
            tied = tied[torch.randperm(len(tied), device=tied.device)[:missing]]
        found[surely] = True
        found[tied] = True
    return found.view(among.shape)


def _apart(flat: Tensor, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A flat mask of all tensors as one each."""
    parts = flat.split([mask.numel() for mask in masks.values()])
    return {name: part.view(mask.shape) for (name, mask), part in zip(masks.items(), parts, strict=True)}
