"""What is kept of a draw: small sites in full, large ones by layer and by output."""

from __future__ import annotations

import math
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.seeded import seeded
from bayesprune.inference.inclusion.events import included_at
from bayesprune.inference.posterior.axis_names import axis_names
from bayesprune.inference.posterior.shrinkage import shrinkage_at
from bayesprune.models.language.inclusion import ShrinkageBelow
from bayesprune.models.language.tensor_prior import Site, TensorPrior
from bayesprune.models.ways.way import WaySites

FULL = 512
"""Sites of at most this many entries are kept in full; layers of more outputs get no summaries by output."""
Draw = dict[str, Tensor]


class DrawSummaries:
    """Names, dimensions and functions of all that is kept of each draw of one restart.

    Args:
        fit: The fit.
        restart: Which restart.
        weights: Pattern of the tensors whose weights are kept in full whatever their size; None: only small ones are.

    Attributes:
        dims: Names of the dimensions of each variable, less the dimension of draws.
        coords: Values along dimensions that are not simply counted, by name of dimension.
        left_out: Why a variable is left out, by its name.

    Raises:
        ValueError: If the pattern matches no tensor with a prior.
    """

    def __init__(self, fit: Fit, restart: int, weights: str | None) -> None:
        self.fit = fit
        self.restart = restart
        self.one = fit.restarts[restart]
        self.dims: dict[str, tuple[str, ...]] = {}
        self.coords: dict[str, np.ndarray] = {}
        self.left_out: dict[str, str] = {}
        self._functions: dict[str, Callable[[Draw, dict[str, Tensor]], Tensor]] = {}
        model = self.one.model
        tensors = [name for name in model.priors if weights is not None and fnmatchcase(name, weights)]
        if weights is not None and not tensors:
            raise ValueError(f"weights={weights!r} matches no tensor with a prior: there are {', '.join(model.priors)}")
        self._events = self._with_event()
        for name, site in model.sites.items():
            if name not in model.priors:
                self._add_site(site)
        for name, prior in model.priors.items():
            self._add_tensor(prior, asked=name in tensors)
        for drawn in model.way_sites.values():
            self._add_drawn(drawn)

    def of(self, draw: Draw) -> dict[str, np.ndarray]:
        """The summaries of one draw by name."""
        included = {prior.name: included_at(self.one, prior, draw, draw[prior.name]) for prior in self._events}
        return {name: _array(function(draw, included)) for name, function in self._functions.items()}

    def _with_event(self) -> list[TensorPrior]:
        """The tensors whose inclusion event can be evaluated at a draw; of the others it is said why not."""
        one, found = self.one, []
        if one.guide.is_map:
            return []  # said once, of the whole fit
        with torch.no_grad(), seeded(one.guide, one.seed):
            values = one.guide.means()
            weights = one.model.weights_at(values)
            for prior in one.model.priors.values():
                try:
                    included_at(one, prior, values, weights[prior.name])
                except ValueError as reason:
                    self.left_out[f"{prior.name}.included"] = str(reason)
                else:
                    found.append(prior)
        return found

    def _add(self, name: str, dims: tuple[str, ...], function: Callable[[Draw, dict[str, Tensor]], Any]) -> None:
        while name in self.dims:  # a latent that is called like a summary
            name += "_"
        self.dims[name] = dims
        self._functions[name] = function

    def _add_site(self, site: Site) -> None:
        """A latent other than the weights."""
        name = site.name
        if math.prod(site.shape) <= FULL:
            kept = [axis for axis, extent in enumerate(site.shape) if extent != 1]
            shape = [site.shape[axis] for axis in kept]
            names = axis_names(name, len(site.shape))
            dims = tuple(names[axis] for axis in kept)
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

    def _add_tensor(self, prior: TensorPrior, asked: bool) -> None:
        """The weights of one tensor."""
        name, size = prior.name, math.prod(prior.shape)
        self._add(f"{name}.rms", (), lambda d, _: d[name].square().mean().sqrt())
        if not asked and size > FULL:
            self.left_out[name] = f"{size:,} weights, above {FULL}: weights={name!r} keeps them"
        else:
            self._add(name, axis_names(name, len(prior.shape)), lambda d, _: d[name])
        if not any(prior is one for one in self._events):
            return
        self._add(f"{name}.included", (), lambda _, included: included[name].sum())
        if len(prior.shape) > 1 and prior.shape[0] <= FULL:
            dims = (f"{name}.output",)
            self._add(
                f"{name}.output_included", dims, lambda _, included: included[name].flatten(1).float().mean(dim=1)
            )
        if isinstance(prior.hierarchy.included, ShrinkageBelow):
            self._add(f"{name}.effective", (), lambda d, _: self._effective(prior, d))

    def _add_drawn(self, drawn: WaySites) -> None:
        """What a way draws: the gates of units, or of a branch."""
        name = drawn.site
        self._add(f"{name}.open", (), lambda d, _: d[name].sum().to(torch.int64))
        if drawn.count <= FULL:
            unit = f"{name}.unit"
            self.coords[unit] = drawn.numbers.cpu().numpy()
            self._add(name, (unit,), lambda d, _: d[name].to(torch.int8))

    def _effective(self, prior: TensorPrior, draw: Draw) -> Tensor:
        """Sum over the tensor of one minus the shrinkage factor."""
        return (1.0 - shrinkage_at(self.one, prior, draw)).sum()


def _array(value: Tensor) -> np.ndarray:
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
