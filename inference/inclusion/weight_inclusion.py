"""Posterior inclusion probabilities of weights and of units, in closed form where there is one, else by draws."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from bayesprune.inference.fit_result import Fit, Restart, dimensions
from bayesprune.inference.inclusion.inclusion_notes import inclusion_notes, meaning_of
from bayesprune.inference.inclusion.membership import membership_log_odds
from bayesprune.inference.inclusion.reduction import event_log_odds
from bayesprune.inference.posterior.shrinkage import stated_event
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = ["probabilities_at", "unit_inclusion", "weight_inclusion"]


def weight_inclusion(fit: Fit, restart: int = 0, draws: int = 200, units: bool = True) -> xr.Dataset:
    """See `Fit.inclusion_probabilities`."""
    one = fit.restart(restart)
    found = probabilities_at(fit, restart, draws, units)
    variables = {}
    for name, prior in one.model.priors.items():
        event, meaning = stated_event(one, prior), meaning_of(prior.hierarchy)
        attrs = {"kind": event.kind, "event": str(event)} if event else {}
        attrs |= {} if meaning is None else {"meaning": meaning}
        variables[name] = (dimensions(name, prior), found[name].numpy(), attrs)
    notes = inclusion_notes(fit, restart)
    return xr.Dataset(variables, attrs={"notes": "; ".join(notes)} if notes else {})


def probabilities_at(fit: Fit, restart: int = 0, draws: int = 200, units: bool = True) -> dict[str, Tensor]:
    """Inclusion probabilities of one restart by name of tensor, on the CPU; arguments and errors as above."""
    one = fit.restart(restart)
    fit._refuse_map(one)
    found: dict[str, Tensor] = {}
    sampled: list[TensorPrior] = []
    closed = one.guide.inclusion()
    for name, prior in one.model.priors.items():
        event = prior.hierarchy.included
        if event is None:
            raise ValueError(f"the prior on {name} declares no inclusion event: add included=... to its hierarchy")
        if event.gate is not None:
            found[name] = prior.spread(event.gate, closed[prior.sites[event.gate].name])
        elif event.kind == "reduction":
            found[name] = event_log_odds(one, prior).sigmoid()
        elif _is_left_to_units(one, prior):
            found[name] = torch.ones(prior.shape)
        elif event.kind != "membership":
            sampled.append(prior)
    found |= {name: odds.sigmoid() for name, odds in membership_log_odds(fit, restart, draws).items()}
    if sampled:
        found |= fit._inclusion_by_draws(one, sampled, draws)
    if units and one.guide.gates is not None:
        theta = one.guide.gates.probabilities()
        for name, there in one.guide.gates.gates.open_probabilities(theta, one.model.network).items():
            if name in found:
                found[name] = found[name].to(there) * there
    return {name: found[name].detach().cpu() for name in one.model.priors}


def unit_inclusion(fit: Fit, restart: int = 0) -> xr.Dataset:
    """See `Fit.unit_inclusion`."""
    one = fit.restart(restart)
    q = one.guide.gates
    if q is None or "theta" not in fit.trace:
        raise ValueError("the model has no gates of units: declare gates=UnitGates(...)")
    sets, numbers = fit.trace["unit_set"].values, fit.trace["unit_number"].values
    theta = np.zeros(len(sets), dtype=np.float32)
    theta[q.origin.cpu().numpy()] = q.theta.detach().float().cpu().numpy()
    variables = {}
    for name in dict.fromkeys(sets.tolist()):
        unit, mine = f"{name}.unit", sets == name
        variables[name] = xr.DataArray(theta[mine], {unit: numbers[mine]}, (unit,), attrs={"kind": "atom"})
    return xr.Dataset(variables)


def _is_left_to_units(one: Restart, prior: TensorPrior) -> bool:
    """Whether gates of units alone decide on a tensor: its weights are points, or never zero by themselves."""
    event = prior.hierarchy.included
    if one.model.gates is None or event is None or event.kind == "membership":
        return False
    return event.kind == "atom" or all(one.guide.family_of[site.name] == "delta" for site in prior.sites.values())
