"""Landing of thresholded latents: which entries leave or come back, while the values of those that stay are kept.

A soft threshold is subtracted from what exceeds it, so that a shift of the threshold alone would also shrink or grow
every weight that stays, with no training after it. Asked is the event `BeyondThreshold`, which names the latent that is
thresholded and the threshold; no method is asked for by name.

* An entry that stays is moved with its threshold, by as much and to its own side of zero: its weight is the same.
* One that leaves stays where it is, below the threshold: its weight is zero.
* One that comes back stays where it is, above the threshold: its weight is what the lowered threshold leaves of it, at
  most by how much it was lowered, and least for what was farthest from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor

from bayesprune.inference.guides.families import Family
from bayesprune.inference.guides.guide import Guide
from bayesprune.models.language.inclusion import BeyondThreshold
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = ["KeptValues", "across_threshold", "thresholded"]

_BEYOND = 0.01
"""How far beyond its threshold an entry is put, as a share of it."""


def thresholded(prior: TensorPrior) -> BeyondThreshold | None:
    """The event that names what is thresholded, where a prior has one and that is a latent of it on the real line."""
    event = prior.hierarchy.included
    if not isinstance(event, BeyondThreshold):
        return None
    site = prior.sites.get(event.raw)
    return event if site is not None and site.support == "real" else None


class KeptValues:
    """What exceeds its threshold now, so that it can keep its value when the threshold has been moved.

    Args:
        guide: The guide, at its centre.
        tensors: The tensors that are looked at; those without thresholds are passed over.
    """

    def __init__(self, guide: Guide, tensors: Iterable[str]) -> None:
        self._guide = guide
        self._names = [name for name in tensors if thresholded(guide.model.priors[name]) is not None]
        values = guide.means() if self._names else {}
        self._before = {name: _raw_and_threshold(guide, name, values) for name in self._names}

    def restored(self) -> dict[str, Any]:
        """Moves what still exceeds its threshold by as much as that was moved, IN PLACE.

        Returns:
            How many entries kept their values (``"kept"``), how many left and came back, and the largest change of a
            threshold; nothing where there are no thresholds.
        """
        if not self._names:
            return {}
        said = {"kept": 0, "left": 0, "came_back": 0, "threshold_moved": 0.0}
        values = self._guide.means()
        for name, (raw, before) in self._before.items():
            _, after = _raw_and_threshold(self._guide, name, values)
            was, stays = raw.abs() > before, raw.abs() > after
            moved = raw.sign() * _beyond((raw.abs() - before) + after, after)
            _put(self._guide, name, torch.where(was & stays, moved, raw))
            said["kept"] += int((was & stays).sum())
            said["left"] += int((was & ~stays).sum())
            said["came_back"] += int((~was & stays).sum())
            said["threshold_moved"] = max(said["threshold_moved"], float((after - before).abs().max()))
        return said


def across_threshold(guide: Guide, tensor: str, target: int) -> int:
    """Moves the entries of one tensor that stand between two counts across their threshold, IN PLACE.

    For thresholds that other tensors share, which are not moved. Those that leave are put 1 % below it, those that come
    back 1 % above: their weights are a hundredth of the threshold. All others stay.

    Args:
        guide: The guide.
        tensor: Its name.
        target: How many are to exceed their threshold.

    Returns:
        How many entries were moved.
    """
    raw, threshold = _raw_and_threshold(guide, tensor, guide.means())
    there = guide.open_units(0.5).get(tensor)
    excess = (raw.abs() - threshold).flatten()
    if there is not None and there.shape == raw.shape:
        excess = torch.where(there.flatten(), excess, -math.inf)
    stays = torch.zeros_like(excess, dtype=torch.bool)
    stays[torch.sort(excess, descending=True, stable=True).indices[:target]] = True
    stays = stays.view(raw.shape)
    if there is not None and there.shape == raw.shape:
        stays = stays | ~there  # what a closed unit holds is not counted, and left alone
    is_over, side = raw.abs() > threshold, torch.where(raw < 0, -1.0, 1.0)
    over = _beyond((1.0 + _BEYOND) * threshold, threshold)
    leaves, comes = is_over & ~stays, ~is_over & stays
    if there is not None and there.shape == raw.shape:
        comes = comes & there
    moved = torch.where(leaves, side * (1.0 - _BEYOND) * threshold, raw)
    _put(guide, tensor, torch.where(comes, side * over, moved))
    return int((leaves | comes).sum())


def _beyond(value: Tensor, threshold: Tensor) -> Tensor:
    """The value, or the next number above the threshold where rounding has brought it there."""
    return torch.maximum(value, torch.nextafter(threshold, torch.full_like(threshold, math.inf)))


def _raw_and_threshold(guide: Guide, tensor: str, values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What is thresholded and its threshold, of the same shape, at values of the sites."""
    prior, event = guide.model.priors[tensor], thresholded(guide.model.priors[tensor])
    assert event is not None
    like = guide.model.network.get_parameter(tensor)
    _, found = prior.run(lambda site, _: values[site], like, {})
    raw = found[event.raw].detach().clone()
    return raw, found[event.threshold].detach().expand(raw.shape).clone()


def _put(guide: Guide, tensor: str, value: Tensor) -> None:
    """Sets the place of what is thresholded in the guide."""
    prior, event = guide.model.priors[tensor], thresholded(guide.model.priors[tensor])
    assert event is not None
    site = prior.sites[event.raw].name
    for module in guide.families:
        family = cast(Family, module)
        for piece in family.slices():
            if piece.site.name == site and piece.parameter == "location":
                piece.of(family.get_parameter("location").data).copy_(value)
