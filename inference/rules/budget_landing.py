"""Landing: how a density is met exactly when a fit ends, by the smallest change that does it.

* Gates: one common shift of their log odds. Under Bernoullis it is what a last move of the prior odds by as much would
  do to the guide at the evidence that it has seen: logit q = logit prior + evidence, gate by gate. Hard concrete gates
  have no such rule; there it only keeps the order of the gates.
* Components of a matrix: the same shift of their threshold, but those that are left keep their sizes: what goes are the
  smallest components, and nothing else changes.
* Weights that count by their size: those between the threshold and the size of the last weight that is to stay are
  moved just across the threshold; no other weight changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor

from bayesprune.inference.guides.families import Family
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.left_in import included_weights
from bayesprune.inference.rules.budget_count import component_sizes, knob_of, thresholds, weights_left
from bayesprune.models.language.latent import WEIGHT

__all__ = ["landed"]

_HALVINGS = 60
_BEYOND = 0.01
"""How far beyond its threshold a weight is put, as a share of it: it costs as little as the rule lets it."""
_SHIFTED = {1.0: "log odds", -1.0: "thresholds, downwards"}
_FARTHEST = 64.0
"""Largest common shift, in nats: no gate is that sure."""


@torch.no_grad()
def landed(guide: Guide, count: Callable[[], float], target: int) -> dict[str, Any]:
    """Changes a guide, IN PLACE, so that as many weights are left as asked for; says what it did.

    Args:
        guide: The guide.
        count: How many weights are left now, by the priors' own rules.
        target: How many are to be left.

    Returns:
        How it was done (``"by"``), the count before, and the size of the change; as JSON holds it.
    """
    before = count()
    shifted, sizes = list(_shifted(guide)), component_sizes(guide)
    if shifted:
        names = dict.fromkeys(_SHIFTED[sign] for _, sign in shifted)
        by = f"a common shift of {' and '.join(names)}"
        shift = _shift(shifted, count, target)
        _keep_sizes(guide, sizes)
        return {"by": by, "before": before, "shift": shift}
    return {"by": "weights between the two counts moved across", "before": before, **_across(guide, target)}


def _shifted(guide: Guide) -> Iterator[tuple[Tensor, float]]:
    """Views of what is shifted in common, of every prior whose knob says so, and the sign by which more is left."""
    signs: dict[str, float] = {}
    for prior in guide.model.priors.values():
        knob = knob_of(prior)
        if knob is not None and knob.shift is not None:
            signs[prior.sites[knob.shift].name] = 1.0 if knob.shift_to == "denser" else -1.0
    for module in guide.families:
        family = cast(Family, module)
        for piece in family.slices():
            if piece.site.name in signs and piece.parameter != "log_scale":
                yield piece.of(family.get_parameter(piece.parameter).data), signs[piece.site.name]


def _shift(parts: list[tuple[Tensor, float]], count: Callable[[], float], target: int) -> float:
    kept = [part.clone() for part, _ in parts]

    def at(shift: float) -> float:
        for (part, sign), was in zip(parts, kept, strict=True):
            part.copy_(was + sign * shift)
        return count()

    shift = _nearest(at, target)
    at(shift)
    return shift


def _keep_sizes(guide: Guide, sizes: dict[str, Tensor]) -> None:
    """Moves components that were there before a shift and still are to the sizes beyond the threshold that they had.

    Args:
        guide: The guide, after the shift.
        sizes: Sizes beyond the threshold before it, by site of the latent that is thresholded.
    """
    after = component_sizes(guide)
    for module in guide.families:
        family = cast(Family, module)
        for piece in family.slices():
            if piece.site.name in sizes and piece.parameter == "location":
                before, now = sizes[piece.site.name], after[piece.site.name]
                value = piece.of(family.get_parameter("location").data)
                value += value.sign() * torch.where((before > 0) & (now > 0), before - now, 0.0)


def _nearest(at: Callable[[float], float], target: int) -> float:
    """The shift of the count nearest to the target, where a larger shift leaves more; the smallest such change."""
    low, high = -1e-3, 1e-3
    while at(low) > target and low > -_FARTHEST:
        low *= 2.0
    while at(high) < target and high < _FARTHEST:
        high *= 2.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        found = at(middle)
        if found == target:
            return middle
        low, high = (middle, high) if found < target else (low, middle)
    return low if abs(at(low) - target) <= abs(at(high) - target) else high


def _across(guide: Guide, target: int) -> dict[str, float]:
    """Moves weights across their thresholds; returns how many, and how far their threshold was off, as a factor."""
    left, weights, least = weights_left(guide), included_weights(guide), thresholds(guide)
    others = sum(int(value.sum()) for name, value in left.items() if name not in least)
    keep = target - others
    ratios = {name: weights[name].abs() / least[name].clamp_min(1e-30) for name in least}
    flat = torch.cat([ratio.flatten() for ratio in ratios.values()]).double()
    wanted = min(max(keep, 0), int((flat > 0).sum()))
    order = flat.sort(descending=True).values
    inner = float(order[wanted - 1]) if wanted else math.inf
    outer = float(order[wanted]) if wanted < len(order) else 0.0
    cut = math.sqrt(max(inner, 1e-30) * max(outer, 1e-30)) if math.isfinite(inner) else 2.0 * outer
    moved = 0
    for name, ratio in ratios.items():
        gap = (ratio > min(1.0, cut)) & (ratio <= max(1.0, cut)) & (left[name] if cut > 1.0 else ~left[name])
        if bool(gap.any()):
            _scale(guide, name, gap, (1.0 - _BEYOND if cut > 1.0 else 1.0 + _BEYOND) / ratio.clamp_min(1e-30))
            moved += int(gap.sum())
    return {"moved": moved, "factor": cut}


def _scale(guide: Guide, tensor: str, where: Tensor, factor: Tensor) -> None:
    """Multiplies some weights of a tensor, by the place of their latent in the guide."""
    prior = guide.model.priors[tensor]
    latent = WEIGHT if prior.weight_is_latent else prior.standard_normal
    if latent is None:
        return  # no latent per weight: what is left stays what the fit came to, and the report says so
    site = prior.sites[latent].name
    for module in guide.families:
        family = cast(Family, module)
        for piece in family.slices():
            if piece.site.name == site and piece.parameter == "location":
                value = piece.of(family.get_parameter("location").data)
                value.copy_(torch.where(where, value * factor, value))
