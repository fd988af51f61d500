"""The weights that a network keeps: those that are in it, at the guide's locations."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesprune.inference.restart import Restart

__all__ = ["included_weights"]


@torch.no_grad()
def included_weights(one: Restart) -> dict[str, Tensor]:
    """See `Fit.included_weights`."""
    values = one.guide.means()
    for site in one.model.sites.values():
        if site.support == "boolean":
            values[site.name] = torch.ones_like(values[site.name])
    return {name: weight.detach().clone() for name, weight in one.model.ungated_weights_at(values).items()}
