"""How many weights each tensor has at a density: uniform, Erdos-Renyi-kernel, or as a budget by layer says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.costs.layer_budgets import LayerBudget, counts_by_layer
from bayesprune.models.costs.layer_shares import apportioned, checked_share, erk_counts, uniform_counts
from bayesprune.models.networks.shared_blocks import extra_weights

__all__ = ["LAYOUTS", "Layout", "layout_of"]

LAYOUTS = {"erk": erk_counts, "uniform": uniform_counts}
"""Counts of weights by name of tensor, of shapes and a total."""


@dataclass(frozen=True)
class Layout:
    """Which tensors are masked, and how many weights each has in the end.

    Attributes:
        shapes: Shapes of the tensors by name, `(out, in, ...)`.
        counts: Weights of each in the end.
        virtual: Weights of the network as it would be without shared ones, which a density is of.
        rule: Name of the layout, or None for a budget by layer.
    """

    shapes: dict[str, tuple[int, ...]]
    counts: dict[str, int]
    virtual: int
    rule: str | None

    @property
    def sizes(self) -> dict[str, int]:
        """How many weights each tensor has."""
        return {name: math.prod(shape) for name, shape in self.shapes.items()}

    @property
    def total(self) -> int:
        """Weights in the end, of all tensors."""
        return sum(self.counts.values())

    @property
    def density(self) -> float:
        """The same as a share of the weights that there are."""
        return self.total / sum(self.sizes.values())

    def at(self, density: float) -> dict[str, int]:
        """Weights of each tensor at another density (share of the weights that there are), at least one each."""
        sizes = self.sizes
        total = min(max(round(density * sum(sizes.values())), len(sizes)), sum(sizes.values()))
        if total == self.total:
            return dict(self.counts)
        if self.rule is not None:
            return LAYOUTS[self.rule](self.shapes, total)
        more = total / self.total
        return apportioned({name: count * more for name, count in self.counts.items()}, sizes, total)


def layout_of(
    model: BayesianNetwork, density: float | int | None, layout: str | LayerBudget | Mapping[str, Any]
) -> Layout:
    """The layout of a model's weight matrices.

    Args:
        model: The model; its tensors with a prior of two dimensions and more are masked, or those that a budget names.
        density: Share of the weights of the network in the end, in (0, 1], or their number; None with a budget. Where
            layers share weights it is of the network without sharing, as in ES2: the same number is left, of fewer.
        layout: A name in `LAYOUTS`, or a budget by layer.

    Raises:
        ValueError: If there are no such tensors, the density is out of range, or both are given.
    """
    shapes = {name: tuple(model.declared_shapes[name]) for name in model.matrices}
    if not shapes:
        raise ValueError("masks are of weights with a prior, of two dimensions or more: give the model such priors")
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    whole = sum(sizes.values())
    if not isinstance(layout, str):
        if density is not None:
            raise ValueError("a budget by layer says itself how dense the layers are: leave density= out")
        counts = counts_by_layer(layout, sizes)
        shapes = {name: shapes[name] for name in counts}
        return Layout(shapes, counts, sum(sizes[name] for name in counts), None)
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is unknown: expected {', '.join(LAYOUTS)} or a LayerBudget")
    if density is None:
        raise ValueError(f"the layout {layout!r} needs a density: give density=0.01, or a LayerBudget as layout=")
    asked = checked_share(density, "the density of masks")
    virtual = whole + extra_weights(model.network, sizes)
    total = asked if isinstance(asked, int) else round(asked * virtual)
    if not len(sizes) <= total <= whole:
        raise ValueError(
            f"{total:,} weights do not go into {len(sizes)} tensors of {whole:,} weights, of which each keeps one at "
            f"least: give a density from {len(sizes) / virtual:.3g} to {_highest(whole, virtual)}"
        )
    return Layout(shapes, LAYOUTS[layout](shapes, total), virtual, layout)


def _highest(whole: int, virtual: int) -> str:
    """The highest density, with why where it is below 1."""
    if virtual == whole:
        return "1"
    return (
        f"{math.floor(1e4 * whole / virtual) / 1e4:g}, which is N_u / (N_u + N_s) with N_u = {whole:,} weights "
        f"and N_s = {virtual - whole:,} that shared blocks use again"
    )
