"""Which weights a guide leaves in the network, by ONE rule for all that counts them, and which values these have."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesprune.inference.guides.guide import Guide
from bayesprune.models.language.inclusion import RelativeThreshold

__all__ = ["included_weights", "left_in", "nearly_zero"]

NEARLY_ZERO = RelativeThreshold(0.1)
"""What a weight that is not nearly zero exceeds: a share of its layer's root mean square."""


@torch.no_grad()
def included_weights(guide: Guide) -> dict[str, Tensor]:
    """E[weight | included] at the guide's locations, gates one, by name of tensor: see `Fit.included_weights`."""
    values = guide.means()
    for site in guide.model.sites.values():
        if site.support == "boolean":
            values[site.name] = torch.ones_like(values[site.name])
    return {name: weight.detach().clone() for name, weight in guide.model.ungated_weights_at(values).items()}


@torch.no_grad()
def left_in(guide: Guide, threshold: float = 0.5) -> dict[str, Tensor]:
    """Which weights are in the network: the rule behind every sparsity, the fraction of zeros.

    A weight is out where it is exactly zero at the guide's locations (of a soft-thresholded Normal that is its median,
    which asks for one sign, while an inclusion probability counts both), where its gate's inclusion probability is at
    most `threshold` (the median-probability model), and where a unit that makes or reads it is closed by the same rule.
    Under a prior without an atom nothing is out but units: see `nearly_zero` for what is small there.

    Args:
        guide: The guide.
        threshold: Of inclusion probabilities; default 0.5.

    Returns:
        Booleans by name of tensor, `(out, in, ...)`, without the weights of units that were removed.
    """
    weights, closed, units = included_weights(guide), guide.inclusion(), guide.open_units(threshold)
    found = {}
    for name, prior in guide.model.priors.items():
        event = prior.hierarchy.included
        left = weights[name] != 0
        gate = None if event is None or event.gate is None else closed.get(prior.sites[event.gate].name)
        if gate is not None:
            left = left & (prior.spread(str(event.gate), gate) > threshold)  # type: ignore[union-attr]
        found[name] = left & units[name] if name in units else left
    return found


@torch.no_grad()
def nearly_zero(guide: Guide) -> dict[str, Tensor]:
    """Which weights of tensors whose prior has no atom are below a tenth of their layer's root mean square, or out.

    At the guide's centre; units count where their gate is open with more than 1/2.

    Args:
        guide: The guide.

    Returns:
        Booleans by name of tensor, `(out, in, ...)`; none for tensors whose weights can be exactly zero.
    """
    centre = guide.means() | guide.ways_decided()
    weights, units = guide.model.weights_at(centre), guide.open_units(0.5)
    found = {}
    for name, prior in guide.model.priors.items():
        event = prior.hierarchy.included
        if event is None or not event.is_exact:
            small = ~NEARLY_ZERO.holds(weights[name])
            found[name] = small | ~units[name] if name in units else small
    return found
