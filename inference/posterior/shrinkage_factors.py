"""Posterior means of shrinkage factors, of every weight whose prior is a scale mixture."""

from __future__ import annotations

import torch
import xarray as xr

from bayesprune.inference.fitted import Fitted
from bayesprune.inference.posterior.axis_names import dimensions
from bayesprune.inference.posterior.shrinkage import shrinkage_draws, shrinkage_form
from bayesprune.models.language.scale_mixture import is_scale_mixture

__all__ = ["shrinkage_factors"]


def shrinkage_factors(fit: Fitted, restart: int = 0, draws: int = 200) -> xr.Dataset:
    """See `Fit.shrinkage_factors`."""
    one = fit.restart(restart)
    mixtures = [prior for prior in one.model.priors.values() if is_scale_mixture(prior)]
    if not mixtures:
        raise ValueError(
            "no prior of this fit is a scale mixture with random scales, so there are no shrinkage factors: "
            "use inclusion_probabilities()"
        )
    means = {prior.name: torch.zeros(prior.shape) for prior in mixtures}
    count = 1 if one.guide.is_map else draws
    for _, factors in shrinkage_draws(one, mixtures, count):
        for name, kappa in factors.items():
            means[name] += kappa.cpu() / count
    attrs = {prior.name: {"by": shrinkage_form(one, prior)} for prior in mixtures}
    return xr.Dataset({p.name: (dimensions(p.name, p), means[p.name].numpy(), attrs[p.name]) for p in mixtures})
