"""Layers that a fit has lost: no weight or unit is left in them, or they are at the prior."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace

import torch

from bayesprune.inference.fitted import Fitted
from bayesprune.inference.guides.starting_values import starting_values
from bayesprune.inference.inclusion.weight_inclusion import unit_inclusion
from bayesprune.inference.watching.pruning_trace import inclusion_record
from bayesprune.models.checks.listed_names import listed

__all__ = ["EmptiedLayers", "collapsed_layers", "emptied_layers", "fallen_scales"]

NEGLIGIBLE = 1e-3
"""Weights whose root mean square is below this share of He's scale, sqrt(2 / fan_in), are none."""
NATS = 1.0
"""What the means of a layer may have cost against its prior at most, in nats of all the data, for it to be at it."""
SHARE = 0.05
"""Largest mean square of the means, as a share of the posterior variances, of a layer that is at its prior."""
FALLEN = 0.25
"""Share of where it started below which a scale that is learned beside gates has fallen."""
DRAWS = 16
"""Draws of the weights from which their standard deviations are taken."""


@dataclass(frozen=True)
class EmptiedLayers:
    """Names of layers, each in one list at most.

    Attributes:
        units: Sets of units whose gates are all closed.
        gone: Tensors all of whose weights are negligible.
        excluded: Tensors all of whose inclusion probabilities are at most 1/2.
        at_prior: Tensors whose posterior has learned nothing.
    """

    units: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    at_prior: tuple[str, ...] = ()

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors among them."""
        return (*self.gone, *self.excluded, *self.at_prior)

    def without(self, told: Collection[str]) -> EmptiedLayers:
        """The same without tensors of which a user has been told before."""
        lists = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "units"}
        return replace(self, **{key: tuple(n for n in names if n not in told) for key, names in lists.items()})

    def __bool__(self) -> bool:
        return bool(self.units or self.gone or self.excluded or self.at_prior)

    def __str__(self) -> str:
        parts = [
            f"all units of {listed(self.units)} are closed" if self.units else "",
            f"nothing is left of {listed(self.gone)}" if self.gone else "",
            f"no inclusion probability of {listed(self.excluded)} is above 1/2: pruning there would leave nothing"
            if self.excluded
            else "",
            f"the weights of {listed(self.at_prior)} are where the prior has them" if self.at_prior else "",
        ]
        return "; ".join(part for part in parts if part)


def collapsed_layers(fit: Fitted) -> list[str]:
    """Tensors of the first restart whose inclusion probabilities are all at most 1/2."""
    guide = fit.restarts[0].guide
    sparsity = inclusion_record(guide)["sparsity"]
    events = {name: prior.hierarchy.included for name, prior in guide.model.priors.items()}
    return [name for name, event in events.items() if event is not None and event.gate and sparsity[name] == 1.0]


@torch.no_grad()
def emptied_layers(fit: Fitted, collapsed: list[str]) -> EmptiedLayers:
    """Looks for layers that the first restart has lost; tensors of one dimension, such as biases, may be zero.

    A layer has learned nothing where the means of its weights, at which its draws are centred, differ from zero by so
    little that all of them together cost less than a nat, 1/2 sum (mean / sd)^2: the data had no say in them.

    Args:
        fit: The fit.
        collapsed: What `collapsed_layers` found.
    """
    one = fit.restarts[0]
    if one.model.closes_units:
        closed = _closed_sets(fit)
        if closed:
            return EmptiedLayers(units=closed)
    matrices = {name: prior for name, prior in one.model.priors.items() if len(prior.shape) > 1}
    centre = one.model.weights_at(one.guide.means())
    squares = {name: float(centre[name].double().square().mean()) for name in matrices}
    he = {name: 2.0 / prior.reserved["fan_in"] for name, prior in matrices.items()}
    gone = [name for name in matrices if squares[name] <= NEGLIGIBLE**2 * he[name]]
    excluded = [name for name in collapsed if name not in gone]
    rest = [name for name in matrices if name not in (*gone, *excluded)]
    at_prior: list[str] = []
    if rest and not one.guide.is_certain:
        spread = dict.fromkeys(rest, 0.0)

        def add(draw: dict[str, torch.Tensor]) -> None:
            for name in rest:
                spread[name] += float((draw[name] - centre[name]).double().square().mean()) / DRAWS

        fit.map_draws(add, DRAWS)
        for name in rest:
            if not 0.0 < spread[name] < float("inf"):
                continue
            share = squares[name] / spread[name]
            if share < SHARE and 0.5 * share * centre[name].numel() < NATS:
                at_prior.append(name)
    return EmptiedLayers((), tuple(gone), tuple(excluded), tuple(at_prior))


@torch.no_grad()
def fallen_scales(fit: Fitted, tensors: Collection[str]) -> str:
    """Which scales that are learned beside gates have fallen with their layers, in words; "" for none.

    A slab's sd, or an inclusion probability, that is learned by few data follows the gates down: what they lose costs
    their prior nothing, and is noise less for the data. It is the trap of empirical Bayes.

    Args:
        fit: The fit; its first restart is looked at.
        tensors: Names of the layers that are lost.
    """
    one = fit.restarts[0]
    means, found = one.guide.means(), []
    for name in tensors:
        prior = one.model.priors.get(name)
        if prior is None or prior.hierarchy.included is None or not prior.hierarchy.included.is_exact:
            continue
        starts, _ = starting_values(prior, one.model.starting_weights(name), {})
        for latent, site in prior.sites.items():
            if site.support in ("positive", "unit"):
                share = float((means[site.name] / starts[latent].to(means[site.name])).median())
                if share < FALLEN:
                    found.append(f"{site.name} to {share:.2g} of where it started")
    if not found:
        return ""
    return f"; the scales that were learned went with them, {listed(found)}: fix them, or learn them by 'normal'"


def _closed_sets(fit: Fitted) -> tuple[str, ...]:
    """Sets of units none of which is more likely open than closed; branches may go as a whole."""
    branches = set(fit.trace["unit_set"].values[fit.trace["is_layer"].values.astype(bool)].tolist())
    found = unit_inclusion(fit)
    return tuple(str(name) for name in found if name not in branches and not bool((found[name] > 0.5).any()))
