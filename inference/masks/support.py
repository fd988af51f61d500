"""What a guide and its optimizer hold of weights that are out: nothing, and what happens to it as masks change."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bayesprune.inference.masks.out_of_support import settle_scales
from bayesprune.inference.rules.rule import Run
from bayesprune.models.language.latent import WEIGHT
from bayesprune.models.masks.mask_way import Masks

__all__ = ["Support"]

LOCATION = "location"


class Support:
    """Acts on masks, guide and optimizer alike, so that they never disagree about which weights there are.

    Where a weight is a latent itself its location is zero while it is out, and so has neither gradient nor momentum: a
    weight that comes starts at zero. Latents that a weight is calculated from (scales, gates) are left alone.

    Args:
        run: The restart.
        masks: The masks of its model.
    """

    def __init__(self, run: Run, masks: Masks) -> None:
        self.run, self.masks = run, masks

    @torch.no_grad()
    def change(self, masks: Mapping[str, Tensor]) -> None:
        """Puts other masks in place: what leaves or comes is cleared.

        Args:
            masks: Booleans by name of tensor.
        """
        for name, mask in masks.items():
            both = mask & self.masks.masks[name]
            self._multiply(name, both)
            settle_scales(self.run, name, mask, self.masks.masks[name])
        self.masks.put(masks)

    @torch.no_grad()
    def clear(self) -> None:
        """Sets what is out to nothing."""
        for name, mask in self.masks.masks.items():
            self._multiply(name, mask)
            settle_scales(self.run, name, mask)

    @torch.no_grad()
    def settle(self) -> None:
        """Sets standard deviations of what is out to the prior's again; of points nothing."""
        for name, mask in self.masks.masks.items():
            settle_scales(self.run, name, mask)

    def _multiply(self, name: str, stays: Tensor) -> None:
        """Leaves in a tensor's locations and optimizer states only what stays."""
        prior = self.run.objective.model.priors[name]
        for site in prior.sites.values():
            if tuple(site.shape) != tuple(prior.shape):
                continue
            is_weight = site.name == prior.sites[WEIGHT].name if WEIGHT in prior.sites else False
            for parameter, piece in self.run.slices(site.name):
                if is_weight and piece.parameter == LOCATION:
                    piece.of(parameter.data).mul_(stays)
                for state in self.run.optimizer.state.get(parameter, {}).values():
                    if torch.is_tensor(state) and state.shape == parameter.shape:
                        piece.of(state).mul_(stays)
