"""Where guides start: at the network's weights, and at prior medians for everything else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bayesprune.models.language.iid import Iid
from bayesprune.models.language.latent import WEIGHT, Latent, arguments
from bayesprune.models.language.tensor_prior import Site, TensorPrior

PRIOR_DRAWS = 101
DENSE_START = 0.9


def starting_values(
    prior: TensorPrior, weight: Tensor, shared: dict[str, Tensor]
) -> tuple[dict[str, Tensor], str | None]:
    """Returns the starting value of every latent of one parameter tensor.

    In this order: the latent's own `init`; the network's weights where the weights are a latent; the solution for
    the one real latent per weight in which the weights are linear (horseshoe's z, the slab); 0.9 for gates; the
    prior's median (a prior draw for other real latents, whose median is often a saddle point).

    Args:
        prior: The bound hierarchy.
        weight: The network's current weights, `(out, in, ...)`.
        shared: Starts of latents of the whole network that other tensors gave already, by site; added to.

    Returns:
        Values by name of latent, and a note where the weights could not be solved for, else None.

    Raises:
        ValueError: If an `init` does not fit its latent.
    """
    values: dict[str, Tensor] = {
        latent: shared[site.name] for latent, site in prior.sites.items() if site.name in shared
    }
    specs = dict(prior.hierarchy.latents)
    if prior.hierarchy.weight is not None:
        specs[WEIGHT] = prior.hierarchy.weight
    latent_of = {site.name: latent for latent, site in prior.sites.items()}

    def start(site_name: str, fn: Iid) -> Tensor:
        latent = latent_of[site_name]
        site, spec = prior.sites[latent], specs.get(latent)
        if spec is not None and spec.init is not None:
            values[latent] = _given(latent, spec.init, site, {**prior.reserved, **values, WEIGHT: weight})
        elif latent == WEIGHT:
            values[latent] = weight
        elif site.support == "boolean":
            values[latent] = weight.new_full(site.shape, DENSE_START)
        else:
            values[latent] = _prior_middle(fn, site.support, weight)
        return values[latent]

    with torch.no_grad():
        prior.run(start, weight, shared)
        base = prior.standard_normal
        if prior.weight_is_latent or base is None or specs[base].init is not None:
            solved = prior.weight_is_latent or _is_told(specs)
        else:
            solved = _solve(prior, values, base, weight)
    note = None
    if not solved:
        note = f"{prior.name} starts from its prior: the weights cannot be solved for one latent per weight"
    return values, note


def _is_told(specs: dict[str, Latent]) -> bool:
    """Whether a latent per weight, or a factor of them, says by itself how it starts from the network's weights."""
    inits = [spec.init for spec in specs.values() if spec.per == "weight" and callable(spec.init)]
    return any(WEIGHT in arguments(init) for init in inits)


def _solve(prior: TensorPrior, values: dict[str, Tensor], base: str, weight: Tensor) -> bool:
    """Sets the latent `base` so that the hierarchy returns `weight`; False where it is not linear in `base`."""

    def weights_at(number: float) -> Tensor:
        gates = {n: torch.ones_like(v) for n, v in values.items() if prior.sites[n].support == "boolean"}
        return prior.evaluate({**values, **gates, base: torch.full_like(values[base], number)}, weight)[0]

    at_zero, at_one, at_two = weights_at(0.0), weights_at(1.0), weights_at(2.0)
    slope = at_one - at_zero
    if bool((slope == 0).any()) or not torch.allclose(at_two - at_one, slope, rtol=1e-4):
        return False
    values[base] = (weight - at_zero) / slope
    return True


def _given(latent: str, init: Any, site: Site, available: dict[str, Any]) -> Tensor:
    like = available[WEIGHT]
    if callable(init):
        if unknown := [name for name in arguments(init) if name not in available]:
            raise ValueError(
                f"init of {latent} asks for {unknown[0]!r}, but what it can be given is {', '.join(available)}: ask "
                "for one of these, or give a number"
            )
        init = init(**{name: available[name] for name in arguments(init)})
    try:
        start = torch.as_tensor(init, dtype=like.dtype, device=like.device).expand(site.shape).clone()
    except RuntimeError as problem:
        raise ValueError(f"init of {latent} does not broadcast to its shape {site.shape}: {problem}") from problem
    inside = torch.isfinite(start)
    if site.support in ("positive", "unit", "boolean"):
        inside = inside & (start > 0)
    if site.support in ("unit", "boolean"):
        inside = inside & (start < 1)
    if not bool(inside.all()):
        between = {"real": "finite", "positive": "positive"}.get(site.support, "strictly between 0 and 1")
        raise ValueError(f"init of {latent} must be {between} on {site.tensor}, but starts at {start[~inside][0]:g}")
    return start


def _prior_middle(fn: Iid, support: str, like: Tensor) -> Tensor:
    """The prior's median by draws; for real latents one draw, since the median is often a saddle point."""
    shape = fn.event_shape
    if support == "real":
        return fn.sample().to(like.dtype)
    return fn.base_dist.sample((PRIOR_DRAWS,)).median(dim=0).values.to(like.dtype).expand(shape).clone()
