"""Posterior inclusion probabilities of weights and of units, in closed form where there is one, else by draws."""

from __future__ import annotations

import numpy as np
import xarray as xr

from bayesprune.inference.fitted import Fitted
from bayesprune.inference.guides.gate_family import GateFamily
from bayesprune.inference.inclusion.events import stated_event
from bayesprune.inference.inclusion.inclusion_notes import inclusion_notes, meaning_of
from bayesprune.inference.inclusion.probabilities import probabilities_at
from bayesprune.inference.posterior.axis_names import dimensions

__all__ = ["unit_inclusion", "weight_inclusion"]


def weight_inclusion(fit: Fitted, restart: int = 0, draws: int = 200, units: bool = True) -> xr.Dataset:
    """See `Fit.inclusion_probabilities`."""
    one = fit.restart(restart)
    found = probabilities_at(fit, restart, draws, units)
    variables = {}
    for name, prior in one.model.priors.items():
        event = stated_event(one, prior)
        meaning = None if one.guide.are_points(prior) else meaning_of(prior.hierarchy)
        attrs = {"kind": event.kind, "event": str(event)} if event else {}
        attrs |= {} if meaning is None else {"meaning": meaning}
        variables[name] = (dimensions(name, prior), found[name].numpy(), attrs)
    notes = inclusion_notes(fit, restart)
    return xr.Dataset(variables, attrs={"notes": "; ".join(notes)} if notes else {})


def unit_inclusion(fit: Fitted, restart: int = 0) -> xr.Dataset:
    """See `Fit.unit_inclusion`."""
    one = fit.restart(restart)
    q = GateFamily.among(one.guide.ways)
    sets, numbers = fit.trace["unit_set"].values, fit.trace["unit_number"].values
    theta = np.zeros(len(sets), dtype=np.float32)
    theta[q.origin.cpu().numpy()] = q.theta.detach().float().cpu().numpy()
    variables = {}
    for name in dict.fromkeys(sets.tolist()):
        unit, mine = f"{name}.unit", sets == name
        variables[name] = xr.DataArray(theta[mine], {unit: numbers[mine]}, (unit,), attrs={"kind": "atom"})
    return xr.Dataset(variables)
