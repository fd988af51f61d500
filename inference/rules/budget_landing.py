"""Landing: how a density is met exactly when a fit ends, by the smallest change that does it.

* Gates: one common shift of their log odds. Under Bernoullis it is what a last move of the prior odds by as much would
  do to the guide at the evidence that it has seen: logit q = logit prior + evidence, gate by gate. Hard concrete gates
  have no such rule; there it only keeps the order of the gates.
* Thresholds: one common shift of the latents that they are functions of, which says which weights leave or come back;
  those that stay keep their values: see `threshold_landing`.
* Components of a matrix: the same shift of their threshold, but those that are left keep their sizes: what goes are the
  smallest components, and nothing else changes.
* Weights that count by their size: those between the threshold and the size of the last weight that is to stay are
  moved just across the threshold; no other weight changes.

By layer the same is done with every tensor for itself. A latent that several tensors share cannot be shifted for one of
them: of thresholds the entries are then moved across, each threshold staying where it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from bayesprune.inference.guides.families import Family
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.left_in import included_weights
from bayesprune.inference.rules.budget_count import component_sizes, knob_of, thresholds, weights_left
from bayesprune.inference.rules.threshold_landing import KeptValues, across_threshold, thresholded
from bayesprune.models.language.inclusion import is_undecided
from bayesprune.models.language.latent import WEIGHT

__all__ = ["landed", "landed_by_layer"]

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
        How it was done (``"by"``), the count before, and the size of the change; where log odds were shifted the share
        of probabilities that are ``"undecided"``, strictly between 0.05 and 0.95, before and after. As JSON holds it.
    """
    before, tensors = count(), list(guide.model.priors)
    shifted, sizes = _shifted(guide, tensors), component_sizes(guide)
    if shifted:
        names = dict.fromkeys(_SHIFTED[one.sign] for one in shifted)
        by = f"a common shift of {' and '.join(names)}"
        kept, open_before = KeptValues(guide, tensors), _undecided(guide, shifted)
        (shift,) = _shift([shifted], lambda: [count()], [target])
        _keep_sizes(guide, sizes)
        return {"by": by, "before": before, "shift": shift, **kept.restored(), **_both(open_before, guide, shifted)}
    return {"by": "weights between the two counts moved across", "before": before, **_across(guide, tensors, target)}


@torch.no_grad()
def landed_by_layer(
    guide: Guide, count: Callable[[Guide], Mapping[str, int]], targets: Mapping[str, int]
) -> dict[str, Any]:
    """Changes a guide, IN PLACE, so that each tensor is left with as many weights as asked for; says what it did.

    Args:
        guide: The guide.
        count: How many weights of each tensor are left now, by the priors' own rules.
        targets: How many are to be left of each; other tensors stay as they are.

    Returns:
        How it was done (``"by"``), the counts before by name, the size of each change, and ``"undecided"`` as `landed`
        has it; as JSON holds it.
    """
    before, here = dict(count(guide)), [name for name in targets if name in guide.model.priors]
    own = {name: _shifted(guide, [name]) for name in here if not _is_shared(guide, name)}
    own = {name: parts for name, parts in own.items() if parts}
    found: dict[str, Any] = {"by": "each tensor by itself", "before": {name: before.get(name, 0) for name in targets}}
    if own:
        kept, sizes = KeptValues(guide, list(own)), component_sizes(guide)
        every = [one for group in own.values() for one in group]
        open_before = _undecided(guide, every)
        shifts = _shift(
            list(own.values()), lambda: [float(count(guide)[name]) for name in own], [targets[name] for name in own]
        )
        found["shifts"] = dict(zip(own, shifts, strict=True))
        _keep_sizes(guide, sizes)
        found |= kept.restored() | _both(open_before, guide, every)
    others = [name for name in here if name not in own]
    moved = {
        name: across_threshold(guide, name, targets[name]) if thresholded(guide.model.priors[name]) is not None
        else _across(guide, [name], targets[name])["moved"]
        for name in others
    }  # fmt: skip
    return {**found, "moved": moved} if moved else found


@dataclass(frozen=True)
class _Shifted:
    """A view of what is shifted, the sign by which more is left, and its site."""

    part: Tensor
    sign: float
    site: str


def _shifted(guide: Guide, tensors: Iterable[str]) -> list[_Shifted]:
    """What is shifted in common of these tensors, of every prior whose knob says so."""
    signs: dict[str, float] = {}
    for name in tensors:
        prior = guide.model.priors[name]
        knob = knob_of(prior)
        if knob is not None and knob.shift is not None:
            signs[prior.sites[knob.shift].name] = 1.0 if knob.shift_to == "denser" else -1.0
    found = []
    for module in guide.families:
        family = cast(Family, module)
        for piece in family.slices():
            if piece.site.name in signs and piece.parameter not in ("log_scale", "loading"):
                view = piece.of(family.get_parameter(piece.parameter).data)
                found.append(_Shifted(view, signs[piece.site.name], piece.site.name))
    return found


def _undecided(guide: Guide, shifted: Iterable[_Shifted]) -> float | None:
    """Share of the probabilities of gates that are undecided; None where no log odds are shifted."""
    sites, known = {one.site for one in shifted if one.sign > 0.0}, guide.log_odds()
    log_odds = [known[site].flatten() for site in known if site in sites]
    if not log_odds:
        return None
    every = torch.cat(log_odds)
    return int(is_undecided(every.double().sigmoid()).sum()) / every.numel()


def _both(before: float | None, guide: Guide, shifted: Iterable[_Shifted]) -> dict[str, dict[str, float]]:
    """The share before a shift and after it, where there is one."""
    after = _undecided(guide, shifted)
    return {} if before is None or after is None else {"undecided": {"before": before, "after": after}}


def _is_shared(guide: Guide, tensor: str) -> bool:
    """Whether what is shifted of a tensor is another's too."""
    knob = knob_of(guide.model.priors[tensor])
    if knob is None or knob.shift is None:
        return False
    site = guide.model.priors[tensor].sites[knob.shift].name
    return any(
        site == one.name for name, prior in guide.model.priors.items() if name != tensor for one in prior.sites.values()
    )


def _shift(groups: list[list[_Shifted]], count: Callable[[], list[float]], targets: list[int]) -> list[float]:
    """Shifts every group, IN PLACE, by what comes nearest to its target; returns by how much."""
    kept = [[one.part.clone() for one in group] for group in groups]

    def at(shifts: list[float]) -> list[float]:
        for group, were, shift in zip(groups, kept, shifts, strict=True):
            for one, was in zip(group, were, strict=True):
                one.part.copy_(was + one.sign * shift)
        return count()

    shifts = _nearest(at, targets)
    at(shifts)
    return shifts


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


def _nearest(at: Callable[[list[float]], list[float]], targets: list[int]) -> list[float]:
    """The shifts of the counts nearest to the targets, where a larger one leaves more; the smallest such changes.

    No group's shift changes the count of another, so that all are looked for at once.
    """
    low, high = _bracketed(at, targets, -1.0), _bracketed(at, targets, 1.0)
    met: dict[int, float] = {}
    for _ in range(_HALVINGS):
        middle = [met.get(n, 0.5 * (one + other)) for n, (one, other) in enumerate(zip(low, high, strict=True))]
        for n, (found, target) in enumerate(zip(at(middle), targets, strict=True)):
            if found == target:
                met[n] = middle[n]
            elif found < target:
                low[n] = middle[n]
            else:
                high[n] = middle[n]
        if len(met) == len(targets):
            return [met[n] for n in range(len(targets))]
    below, above = at(low), at(high)
    return [
        met[n] if n in met else low[n] if abs(below[n] - target) <= abs(above[n] - target) else high[n]
        for n, target in enumerate(targets)
    ]


def _bracketed(at: Callable[[list[float]], list[float]], targets: list[int], sign: float) -> list[float]:
    """Shifts of that sign at which at most (negative) or at least (positive) as many are left as asked for."""
    found = [sign * 1e-3] * len(targets)
    while True:
        far = [
            sign * (target - count) > 0.0 and abs(shift) < _FARTHEST
            for count, target, shift in zip(at(found), targets, found, strict=True)
        ]
        if not any(far):
            return found
        found = [2.0 * shift if more else shift for shift, more in zip(found, far, strict=True)]


def _across(guide: Guide, tensors: list[str], target: int) -> dict[str, float]:
    """Moves weights across their thresholds; returns how many, and how far their threshold was off, as a factor.

    Args:
        guide: The guide.
        tensors: Whose weights are counted.
        target: How many are to be left of them.
    """
    left, weights, least = weights_left(guide), included_weights(guide), thresholds(guide)
    least = {name: value for name, value in least.items() if name in tensors}
    others = sum(int(left[name].sum()) for name in tensors if name not in least)
    keep = target - others
    ratios = {name: weights[name].abs() / least[name].clamp_min(1e-30) for name in least}
    if not ratios:
        return {"moved": 0, "factor": 1.0}
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
