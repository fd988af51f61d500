"""What a budget counts: what each prior's own rule leaves in the network, and what its units cost.

* A prior with an atom: the weights that `left_in` leaves (the median-probability model, exact zeros).
* A prior without one whose knob states a size, `Knob.above`: the weights with |E weight| above it (HALO: 1e-3).
* Membership of a slab: the weights that more likely than not belong to it, at the guide's centre.
* Components of a matrix: the weights of two thin layers of its rank, rank x (out + in), where these are fewer than its
  own, as `compact` folds it.
* Others: the weights that are not nearly zero, above a tenth of their layer's root mean square.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.left_in import included_weights, left_in, nearly_zero
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.inclusion import SlabMembership, SomeComponent
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = ["component_sizes", "counting_rules", "counts_left", "knob_of", "thresholds", "weights_left"]

EXACT, MEMBER, NEAR = "left in (not exactly zero)", "slab more likely than spike", "above a tenth of its layer's rms"
RANKED = "weights of two thin layers of its rank"


def knob_of(prior: TensorPrior) -> Knob | None:
    """The knob that a prior offers to a budget, or None."""
    name = prior.hierarchy.budget
    return None if name is None else prior.hierarchy.knobs[name]


def counting_rules(model: BayesianNetwork) -> dict[str, str]:
    """By which rule the weights of each tensor with a prior are counted, in words, by name."""
    return {name: _rule(prior) for name, prior in model.priors.items()}


def _rule(prior: TensorPrior) -> str:
    event, knob = prior.hierarchy.included, knob_of(prior)
    if isinstance(event, SomeComponent):
        return RANKED
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
        if rule in (EXACT, RANKED):
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
def counts_left(guide: Guide) -> dict[str, int]:
    """How many weights count as left, by name of tensor.

    Args:
        guide: The guide; it is read at its centre, without random numbers.
    """
    found, sizes = {name: int(left.sum()) for name, left in weights_left(guide).items()}, component_sizes(guide)
    for name, prior in guide.model.priors.items():
        event = prior.hierarchy.included
        if isinstance(event, SomeComponent):
            rank = int((sizes[prior.sites[event.raw].name] > 0).sum())
            found[name] = min(found[name], rank * sum(prior.shape[:2]))
    return found


@torch.no_grad()
def component_sizes(guide: Guide) -> dict[str, Tensor]:
    """How far components of matrices are beyond their threshold at the guide's centre, negative where they are zero.

    Returns:
        `(rank,)` each, by the site of the latent that is thresholded; none for a model without such priors.
    """
    ranked = [prior for prior in guide.model.priors.values() if isinstance(prior.hierarchy.included, SomeComponent)]
    centre = guide.means() if ranked else {}
    found = {}
    for prior in ranked:
        event = prior.hierarchy.included
        assert isinstance(event, SomeComponent)
        site = prior.sites[event.raw].name
        values = prior.run(lambda name, _: centre[name], centre[site], {})[1]
        found[site] = centre[site].abs() - values[event.threshold]
    return found


@torch.no_grad()
def thresholds(guide: Guide) -> dict[str, Tensor]:
    """The size above which the weights of each tensor count, where its rule is a size, `()` by name of tensor."""
    found = {}
    for name, prior in guide.model.priors.items():
        rule, knob = _rule(prior), knob_of(prior)
        if rule in (EXACT, MEMBER, RANKED) or knob is None:
            continue
        weight = included_weights(guide)[name]
        rms = 0.1 * weight.square().mean().sqrt()
        found[name] = rms if knob.above is None else weight.new_tensor(knob.above)
    return found
