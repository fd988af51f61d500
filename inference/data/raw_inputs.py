"""Inputs in units far from one: what says so, on a few examples, and whether `standardise=True` is the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bayesprune.models.networks.placing import looks_up
from bayesprune.models.networks.standardisation import UNITS, units_of

__all__ = ["ASKED", "NO_NOISE", "are_raw", "standardising_helps"]

ASKED, NO_NOISE = "it was asked for", "the targets are no real numbers with a noise to learn"
"""Reasons for which a fit standardises nothing although it could."""
FAR = 10.0
"""Root mean square of inputs above which, or below the inverse of which, they are far from standardised ones."""
APART = 50.0
"""How often the sd of the widest feature may be that of the middle one."""


def are_raw(x: Tensor) -> bool:
    """Whether inputs are far from standardised ones, as measurements in units of their own are.

    Args:
        x: Some inputs, `(n, ...)`. Features of different size are looked for in vectors `(n, features)` only.
    """
    if not x.is_floating_point() or len(x) < 2:
        return False
    x = x.detach().double()
    size = float(x.square().mean().sqrt())
    if not 1.0 / FAR <= size <= FAR:
        return 0.0 < size < float("inf")
    if x.ndim != 2:
        return False
    sds = x.std(dim=0)
    sds = sds[sds > 0.0]  # constant features say nothing
    return len(sds) > 1 and float(sds.max()) > APART * float(sds.median())


def standardising_helps(network: nn.Module, x: Tensor | None, done: Mapping[str, Any] | None = None) -> bool:
    """Whether inputs are raw where a network takes them, and `fit(standardise=True)` would mend that.

    Args:
        network: The network.
        x: Some inputs; None where none were kept.
        done: The settings' ``standardised``; None: not known.
    """
    if x is None or UNITS[0] in units_of(network):
        return False
    if done is not None and (done.get("inputs") or done.get("reason") not in (ASKED, NO_NOISE)):
        return False
    return not looks_up(network) and are_raw(x)
