"""How many weights each tensor has at a density: uniform, Erdos-Renyi-kernel, or as a budget by layer says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.costs.layer_budgets import LayerBudget, counts_by_layer
from bayesprune.models.costs.layer_shares import apportioned, checked_share, erk_counts, uniform_counts
from bayesprune.models.networks.shared_blocks import extra_weights

__all__ = ["LAYOUTS", "Layout", "counts_without_growth", "layout_of", "layout_of_masks", "scaled_counts"]

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
        return scaled_counts(self.counts, sizes, total)


def scaled_counts(counts: Mapping[str, int], sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Counts of another sum in the same proportions; a tensor that is full leaves the rest to the others.

    Args:
        counts: Weights of each tensor, at least one.
        sizes: How many each has.
        total: The sum, from one a tensor to all of them.
    """
    full: set[str] = set()
    while True:
        others = [name for name in counts if name not in full]
        rest = total - sum(sizes[name] for name in full)
        more = rest / sum(counts[name] for name in others) if others else 0.0
        over = {name for name in others if counts[name] * more > sizes[name]}
        if not over:
            break
        full |= over
    wanted = {name: float(sizes[name]) if name in full else counts[name] * more for name in counts}
    return apportioned(wanted, sizes, total)


def counts_without_growth(wanted: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    """Counts of the same sum of which none is above what there is: rounding may ask for a weight more in one layer.

    Args:
        wanted: Weights of each tensor; its sum is at most that of `now`, else `now` is returned.
        now: Weights that each has.
    """
    found = {name: min(count, now[name]) for name, count in wanted.items()}
    missing = min(sum(wanted.values()), sum(now.values())) - sum(found.values())
    while missing > 0:
        room = {name: now[name] - found[name] for name in found if found[name] < now[name]}
        each, share = missing, sum(room.values())
        for name, most in sorted(room.items(), key=lambda one: -one[1]):
            more = min(most, missing, max(1, each * most // share))
            found[name], missing = found[name] + more, missing - more
    return found


def layout_of_masks(model: BayesianNetwork, masks: Mapping[str, Tensor]) -> Layout:
    """The layout of given masks, whose counts are those of the end.

    Args:
        model: The model.
        masks: Booleans by name of tensor, `(out, in, ...)`.

    Raises:
        ValueError: If one is of no tensor that can be masked, of another shape, no boolean, or empty.
    """
    matrices = {name: tuple(model.declared_shapes[name]) for name in model.matrices}
    for name, mask in masks.items():
        if name not in matrices:
            raise ValueError(
                f"there is a mask of {name!r}, which is no weight with a prior of two dimensions or more: these are "
                f"{', '.join(matrices) or 'none'}"
            )
        if tuple(mask.shape) != matrices[name]:
            raise ValueError(f"the mask of {name} has shape {tuple(mask.shape)}, but the weights {matrices[name]}")
    shapes = {name: shape for name, shape in matrices.items() if name in masks}
    counts = {name: int(masks[name].sum()) for name in shapes}
    return Layout(shapes, counts, sum(map(math.prod, shapes.values())), None)


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
