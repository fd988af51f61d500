"""Normal priors of mean zero and one fixed scale, of which a term needs sums over the site only."""

from __future__ import annotations

import math
from typing import Any

from bayesprune.inference.guides.functional import is_functional

_SEEN = "_bayesprune_seen"


def fixed_normal(prior: Any) -> tuple[float, float] | None:
    """Log s and 1 / (2 s^2) of a Normal(0, s) that depends on no latent, or None for any other.

    Remembered on the distribution, which is made once a model where it depends on no latent. Values are not looked
    at while the objective is traced: there a distribution that is new has none, though the answer may be other.
    """
    if prior.scale.numel() > 1 or prior.scale.requires_grad or prior.loc.requires_grad:
        return None
    if not hasattr(prior, "_bayesprune_constants"):
        if is_functional() or not (prior.scale.is_cpu or _is_seen_again(prior)):
            return None
        scale = float(prior.scale)
        prior._bayesprune_constants = (math.log(scale), 0.5 / scale**2) if is_centred(prior) else None
    found: tuple[float, float] | None = prior._bayesprune_constants
    return found


def _is_seen_again(prior: Any) -> bool:
    """Whether a distribution on a device has come before: one that is new in every step is not worth a wait for it."""
    seen = hasattr(prior, _SEEN)
    setattr(prior, _SEEN, True)
    return seen


def is_centred(prior: Any) -> bool:
    """Whether a prior's location is zero and fixed."""
    loc = prior.loc
    if loc.requires_grad or not (loc.is_cpu or hasattr(prior, _SEEN)):
        return False
    one_number = all(stride == 0 for stride in loc.stride())  # a number that was broadcast to the scale's shape
    return bool(loc[(0,) * loc.ndim] == 0) if one_number else bool((loc == 0).all())
