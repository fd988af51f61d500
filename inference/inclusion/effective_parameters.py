"""How many weights are in a network, with the posterior interval of their number."""

from __future__ import annotations

import numpy as np
import xarray as xr

from bayesprune.inference.fitted import Fitted
from bayesprune.inference.inclusion.events import inclusion_draws, refuse_map
from bayesprune.inference.posterior.shrinkage import is_counted_by_shrinkage, shrinkage_draws

__all__ = ["effective_parameters"]


def effective_parameters(fit: Fitted, restart: int, draws: int, probability: float) -> xr.Dataset:
    """See `Fit.effective_parameters`."""
    one = fit.restart(restart)
    refuse_map(one)
    mixtures = [prior for prior in one.model.priors.values() if is_counted_by_shrinkage(prior)]
    rest = [prior for prior in one.model.priors.values() if prior not in mixtures]
    counts: dict[str, list[float]] = {name: [] for name in one.model.priors}
    if mixtures:
        for values, factors in shrinkage_draws(one, mixtures, draws):
            there = one.model.open_at(values)
            for name, kappa in factors.items():
                counts[name].append(float(((1.0 - kappa) * there.get(name, 1.0)).sum()))
    if rest:
        for included in inclusion_draws(one, rest, draws):
            for name, indicator in included.items():
                counts[name].append(float(indicator.sum()))
    table = np.array(list(counts.values()))
    tail = (1.0 - probability) / 2.0
    sizes = [int(np.prod(prior.shape)) for prior in one.model.priors.values()]
    return xr.Dataset(
        {
            "mean": ("tensor", table.mean(axis=1)),
            "lower": ("tensor", np.quantile(table, tail, axis=1)),
            "upper": ("tensor", np.quantile(table, 1.0 - tail, axis=1)),
            "weights": ("tensor", sizes),
        },
        coords={"tensor": list(counts)},
        attrs={"probability": probability, "draws": draws},
    )
