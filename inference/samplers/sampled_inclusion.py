"""How often a weight is in the masks of collected networks."""

from __future__ import annotations

import itertools

import numpy as np
import xarray as xr
from torch import Tensor

from bayesprune.inference.fitted import SAMPLES, Fitted
from bayesprune.inference.posterior.axis_names import dimensions
from bayesprune.inference.restart import Restart

__all__ = ["sampled_inclusion"]


def sampled_inclusion(fit: Fitted, run: int = 0) -> xr.Dataset:
    """The share of the networks collected in one run whose mask has a weight in: PIP_i as the average of z_i.

    What it means: a run is one chain, in which a unit of a later network is the unit of the same number before, trained
    on. So the average is one over the same weights, while networks of other runs number their units otherwise and are
    never averaged. Masks are moved by scores to an exact count (a mode under a constraint), at temperature 0 by their
    order alone. So this is how often the rule has chosen a weight along its way, which estimates the posterior
    inclusion probability only as far as masks are drawn from it. A weight that no cycle has moved is at 0 or 1, however
    uncertain it is; the more cycles reach other modes, the nearer all come to the density. The attribute ``overlap`` of
    a tensor says which it is: by chance it is the density, 1 says that masks did not move.

    Args:
        fit: A fit with `CyclicalSampling` and masks.
        run: Which of the restarts that were trained; default the first.

    Returns:
        One variable a tensor with a mask, `(out, in, ...)`, in [0, 1]; its attributes are ``kind`` ``"atom"``,
        ``samples``, their number, ``density``, the mean share of weights that are in, and ``overlap``, the share of a
        sample's weights that another one has too, mean over pairs (NaN for one sample).

    Raises:
        ValueError: If networks were not collected, there is no such run, or they have no masks.
    """
    origin = fit.settings.get(SAMPLES)
    if not origin:
        raise ValueError(
            "this fit has no samples to average masks over: fit with rules=[DynamicMasks(...), CyclicalSampling(...)]"
        )
    mine = [one for one, said in zip(fit.restarts, origin, strict=True) if said["run"] == run]
    if not mine:
        raise ValueError(f"there is no run {run}: they are 0 to {max(said['run'] for said in origin)}")
    masks = [_masks(one) for one in mine]
    if not masks[0]:
        raise ValueError("the networks have no masks, so that all weights are in: fit with DynamicMasks beside")
    found = {}
    for name, prior in fit.model.priors.items():
        if name in masks[0]:
            stacked = np.stack([each[name].cpu().numpy() for each in masks])
            flat = stacked.reshape(len(stacked), -1).astype(float)
            shared = [float(a @ b / a.sum()) for a, b in itertools.permutations(flat, 2)]
            attrs = {
                "kind": "atom",
                "samples": len(stacked),
                "density": float(flat.mean()),
                "overlap": float(np.mean(shared)) if shared else float("nan"),
            }
            found[name] = (dimensions(name, prior), stacked.mean(axis=0), attrs)
    return xr.Dataset(found)


def _masks(one: Restart) -> dict[str, Tensor]:
    """Which weights are in, by name of tensor with a mask."""
    return one.guide.open_units(0.5)
