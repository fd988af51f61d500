"""E[weight | included] of a restart: the weights that a pruned network keeps."""

from __future__ import annotations

from torch import Tensor

from bayesprune.inference.guides.left_in import included_weights
from bayesprune.inference.inclusion.events import rule_of
from bayesprune.inference.restart import Restart

__all__ = ["deployed_weights"]


def deployed_weights(one: Restart) -> dict[str, Tensor]:
    """E[weight | included] by name of tensor, `(out, in, ...)`: by the event's rule, else at the guide's locations.

    Args:
        one: The restart.
    """
    found = included_weights(one.guide)
    for name, prior in one.model.priors.items():
        known = None if prior.hierarchy.included is None else rule_of(prior).deployed(one, prior)
        if known is not None:
            found[name] = known.to(found[name].dtype)
    return found
