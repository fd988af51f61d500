"""What a budget counts: what each prior's own rule leaves in the network, and what its units cost.

* A prior with an atom: the weights that `left_in` leaves (the median-probability model, exact zeros).
* A prior without one whose knob states a size, `Knob.above`: the weights with |E weight| above it (HALO: 1e-3).
* Membership of a slab: the weights that more likely than not belong to it, at the guide's centre.
* Others: the weights that are not nearly zero, above a tenth of their layer's root mean square.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.left_in import included_weights, left_in, nearly_zero
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.inclusion import SlabMembership
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = ["counting_rules", "knob_of", "thresholds", "weights_left"]

EXACT, MEMBER, NEAR = "left in (not exactly zero)", "slab more likely than spike", "above a tenth of its layer's rms"


def knob_of(prior: TensorPrior) -> Knob | None:
    """The knob that a prior offers to a budget, or None."""
    name = prior.hierarchy.budget
    return None if name is None else prior.hierarchy.knobs[name]


def counting_rules(model: BayesianNetwork) -> dict[str, str]:
    """By which rule the weights of each tensor with a prior are counted, in words, by name."""
    return {name: _rule(prior) for name, prior in model.priors.items()}


def _rule(prior: TensorPrior) -> str:
    event, knob = prior.hierarchy.included, knob_of(prior)
    if event is not None and event.is_exact:
        return EXACT
    if knob is not None and knob.above is not None:
        return f"|weight| > {knob.above:g}"
    return MEMBER if isinstance(event, SlabMembership) else NEAR


@torch.no_grad()
def weights_left(guide: Guide) -> dict[str, Tensor]:
    """Which weights each prior's own rule leaves in, booleans `(out, in, ...)` by name of tensor.

    Args:
        guide: The guide; it is read at its centre, without random numbers.
    """
    found, near = left_in(guide), None
    centre: Mapping[str, Tensor] | None = None
    for name, prior in guide.model.priors.items():
        rule, knob = _rule(prior), knob_of(prior)
        if rule == EXACT:
            continue
        if knob is not None and knob.above is not None:
            found[name] = found[name] & (included_weights(guide)[name].abs() > knob.above)
        elif rule == MEMBER:
            centre = guide.means() if centre is None else centre
            values = {latent: centre[site.name] for latent, site in prior.sites.items()}
            found[name] = found[name] & (prior.membership_log_odds(values) > 0)
        else:
            near = nearly_zero(guide) if near is None else near
            found[name] = found[name] & ~near[name]
    return found


@torch.no_grad()
def thresholds(guide: Guide) -> dict[str, Tensor]:
    """The size above which the weights of each tensor count, where its rule is a size, `()` by name of tensor."""
    found = {}
    for name, prior in guide.model.priors.items():
        rule, knob = _rule(prior), knob_of(prior)
        if rule in (EXACT, MEMBER) or knob is None:
            continue
        weight = included_weights(guide)[name]
        rms = 0.1 * weight.square().mean().sqrt()
        found[name] = rms if knob.above is None else weight.new_tensor(knob.above)
    return found
