"""What a guide and its optimizer hold of weights that are out: nothing, and what happens to it as masks change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayesprune.inference.guides.slices import ParameterSlice
from bayesprune.inference.masks.out_of_support import settle_scales
from bayesprune.inference.rules.rule import Run
from bayesprune.models.language.latent import WEIGHT
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.masks.mask_way import Masks

__all__ = ["Support", "zeroing_latent"]

LOCATION = "location"


def zeroing_latent(prior: TensorPrior, values: Mapping[str, Tensor], like: Tensor) -> str | None:
    """The latent by whose zero a weight is zero: the weights themselves, or a factor of them, one a weight.

    That of a spike and slab is the slab, that of a scale mixture declared by its factors the standard normal.

    Args:
        prior: The prior of a tensor.
        values: Values of the sites, by name, as the guide has them.
        like: A tensor whose dtype and device the declaration runs in.

    Returns:
        Name of its site; None where there is none, as in a product of matrices.
    """
    if prior.weight_is_latent:
        return prior.sites[WEIGHT].name
    for site in prior.one_a_weight:
        if site.support == "real":
            at_zero = {**values, site.name: torch.zeros_like(values[site.name])}
            weight, _ = prior.run(lambda name, _, at_zero=at_zero: at_zero[name], like, {})
            if not bool(weight.any()):
                return site.name
    return None


@dataclass(frozen=True)
class Held:
    """Where a latent of a masked tensor lives, one number a weight.

    Attributes:
        parameter: The guide's flat parameter.
        piece: Where in it.
        start: What it is set to where a weight comes, `(out, in, ...)`; None: zero, to which it is set where one goes.
    """

    parameter: nn.Parameter
    piece: ParameterSlice
    start: Tensor | None


class Support:
    """Acts on masks, guide and optimizer alike, so that they never disagree about which weights there are.

    A weight that is out is zero, and so is its location, where it is a latent itself, or that of the latent which it is
    a product of (`zeroing_latent`): neither the data nor a prior around zero move it. What else the guide has of single
    weights, such as scales and gates, follows the prior meanwhile. A weight that comes begins as it would have in the
    first step, but at zero: there its scales and gates are where the fit began. The one exception are the standard
    deviations of weights that are themselves latents under a fixed Normal prior, with Normal factors: out they are the
    prior's, and where one comes they are the mean of its tensor's (`settle_scales`). The optimizer remembers nothing of
    a weight that goes or comes. Latents of whole rows, layers or the network are left alone.

    Args:
        run: The restart, whose guide is where it begins.
        masks: The masks of its model.

    Raises:
        ValueError: If the guide holds more than one number a weight in a parameter: a weight that is out is then not
            alone in it.
    """

    @torch.no_grad()
    def __init__(self, run: Run, masks: Masks) -> None:
        self.run, self.masks = run, masks
        model, values = run.objective.model, run.objective.guide.means()
        self._held: dict[str, list[Held]] = {}
        for name in masks.masks:
            prior, held = model.priors[name], list[Held]()
            zeroing = zeroing_latent(prior, values, model.network.get_parameter(name))
            for site in prior.one_a_weight:
                for parameter, piece in run.slices(site.name):
                    if piece.shape != prior.shape:
                        raise ValueError(
                            f"masks that change need one number a weight of every parameter of the guide, but that of "
                            f"{site.name} has {piece.parameter!r} of shape {piece.shape}: fit with guide='meanfield'"
                        )
                    is_zero = site.name == zeroing and piece.parameter == LOCATION
                    held.append(Held(parameter, piece, None if is_zero else piece.of(parameter.data).clone()))
            self._held[name] = held

    @torch.no_grad()
    def change(self, masks: Mapping[str, Tensor]) -> None:
        """Puts other masks in place: what leaves or comes is cleared.

        Args:
            masks: Booleans by name of tensor.
        """
        for name, mask in masks.items():
            before = self.masks.masks[name]
            both, comes = mask & before, mask & ~before
            for held in self._held[name]:
                value = held.piece.of(held.parameter.data)
                if held.start is None:
                    value.mul_(both)
                else:
                    value.copy_(torch.where(comes, held.start, value))
                for state in self.run.optimizer.state.get(held.parameter, {}).values():
                    if torch.is_tensor(state) and state.shape == held.parameter.shape:
                        held.piece.of(state).mul_(both)
            settle_scales(self.run, name, mask, before)
        self.masks.put(masks)

    @torch.no_grad()
    def clear(self) -> None:
        """Sets the locations of what is out to zero."""
        for name, mask in self.masks.masks.items():
            for held in self._held[name]:
                if held.start is None:
                    held.piece.of(held.parameter.data).mul_(mask)
            settle_scales(self.run, name, mask)

    @torch.no_grad()
    def settle(self) -> None:
        """Sets standard deviations of what is out to the prior's again; of points nothing."""
        for name, mask in self.masks.masks.items():
            settle_scales(self.run, name, mask)
