"""The Normals of a guide, as its families store them."""

from __future__ import annotations

from torch import Tensor

from bayesprune.inference.guides.families import NormalFamily
from bayesprune.inference.guides.guide import Guide

__all__ = ["normals"]


def normals(guide: Guide) -> dict[str, tuple[Tensor, Tensor]]:
    """Location and standard deviation of every site that a guide holds as Normals, by name of site.

    Of LogNormal and logit-Normal sites these are the logarithm's and the logit's.

    Args:
        guide: The guide; its parameters are left as they are.

    Returns:
        Pairs of the site's shape, in float64, without gradients.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for family in guide.families:
        if isinstance(family, NormalFamily):
            # Widened before the exponential, so that nothing is lost to float32 but what the guide itself stores.
            locations = family.cut(family.location.detach().double())
            sds = family.cut(family.log_scale.detach().double().exp())
            found |= {site.name: (locations[k], sds[k]) for k, site in enumerate(family.sites)}
    return found
