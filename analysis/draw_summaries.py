"""What is kept of a draw: small sites in full, large ones by layer and by output."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprune.inference.result import Fit, Restart
from bayesprune.inference.shrinkage import is_scale_mixture, shrinkage_at, shrinkage_form
from bayesprune.models.tensor_prior import Site, TensorPrior

FULL = 512
"""Sites of at most this many entries are kept in full; layers of more outputs get no summaries by output."""
AXES = ("output", "input", "kernel_row", "kernel_column", "kernel_depth")
Draw = dict[str, Tensor]


class DrawSummaries:
    """Names, dimensions and functions of all that is kept of each draw of one restart.

    Args:
        fit: The fit.
        restart: Which restart.
        weights: Pattern of the tensors whose weights are kept in full; None keeps none.

    Attributes:
        dims: Names of the dimensions of each variable, less the dimension of draws.

    Raises:
        ValueError: If the pattern matches no tensor with a prior.
    """

    def __init__(self, fit: Fit, restart: int, weights: str | None) -> None:
        self.fit = fit
        self.restart = restart
        self.one = fit.restarts[restart]
        self.dims: dict[str, tuple[str, ...]] = {}
        self._functions: dict[str, Callable[[Draw, dict[str, Tensor]], Tensor]] = {}
        model = self.one.model
        tensors = [name for name in model.priors if weights is not None and fnmatchcase(name, weights)]
        if weights is not None and not tensors:
            raise ValueError(f"weights={weights!r} matches no tensor with a prior: there are {', '.join(model.priors)}")
        self.events = all(_has_event(self.one, prior) for prior in model.priors.values())
        for name, site in model.sites.items():
            if name not in model.priors:
                self._add_site(site)
        for name, prior in model.priors.items():
            self._add_tensor(prior, full=name in tensors)

    def of(self, draw: Draw) -> dict[str, np.ndarray]:
        """The summaries of one draw by name."""
        included = self.fit.included_at(draw, self.restart) if self.events and not self.one.guide.is_map else {}
        return {name: _array(function(draw, included)) for name, function in self._functions.items()}

    def _add(self, name: str, dims: tuple[str, ...], function: Callable[[Draw, dict[str, Tensor]], Any]) -> None:
        while name in self.dims:  # a latent that is called like a summary
            name += "_"
        self.dims[name] = dims
        self._functions[name] = function

    def _add_site(self, site: Site) -> None:
        """A latent other than the weights."""
        name = site.name
        if int(np.prod(site.shape)) <= FULL:
            kept = [axis for axis, extent in enumerate(site.shape) if extent != 1]
            shape = [site.shape[axis] for axis in kept]
            dims = tuple(f"{name}.{AXES[axis] if axis < len(AXES) else axis}" for axis in kept)
            binary = site.support == "boolean"
            self._add(name, dims, lambda d, _: d[name].reshape(shape).to(torch.int8 if binary else d[name].dtype))
        elif site.support == "positive":
            self._add(f"{name}.mean_log", (), lambda d, _: d[name].log().mean())
            if self._by_output(site):
                dims = (f"{site.tensor}.output",)
                self._add(f"{name}.output_mean_log", dims, lambda d, _: d[name].log().flatten(1).mean(dim=1))
        elif site.support == "real":
            self._add(f"{name}.rms", (), lambda d, _: d[name].square().mean().sqrt())
        else:
            self._add(f"{name}.mean", (), lambda d, _: d[name].mean())

    def _by_output(self, site: Site) -> bool:
        prior = self.one.model.priors.get(site.tensor)
        return prior is not None and site.shape[0] == prior.shape[0] <= FULL

    def _add_tensor(self, prior: TensorPrior, full: bool) -> None:
        """The weights of one tensor."""
        name = prior.name
        self._add(f"{name}.rms", (), lambda d, _: d[name].square().mean().sqrt())
        if full:
            dims = tuple(f"{name}.{AXES[axis]}" for axis in range(len(prior.shape)))
            self._add(name, dims, lambda d, _: d[name])
        if self.one.guide.is_map:
            return
        if self.events:
            self._add(f"{name}.included", (), lambda _, included: included[name].sum())
            if len(prior.shape) > 1 and prior.shape[0] <= FULL:
                dims = (f"{name}.output",)
                self._add(
                    f"{name}.output_included",
                    dims,
                    lambda _, included: included[name].flatten(1).float().mean(dim=1),
                )
        if prior.hierarchy.included is not None and prior.hierarchy.included.kind == "shrinkage" and self.events:
            self._add(f"{name}.effective", (), lambda d, _: self._effective(prior, d))

    def _effective(self, prior: TensorPrior, draw: Draw) -> Tensor:
        """Sum over the tensor of one minus the shrinkage factor."""
        return (1.0 - shrinkage_at(self.one, prior, draw)).sum()


def _has_event(one: Restart, prior: TensorPrior) -> bool:
    """Whether the inclusion event of a prior can be evaluated at a draw."""
    event = prior.hierarchy.included
    if event is None or event.kind != "shrinkage":
        return event is not None
    if not is_scale_mixture(prior):
        return False
    return one.fisher is not None or shrinkage_form(one, prior) == "posterior"


def _array(value: Tensor) -> np.ndarray:
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
