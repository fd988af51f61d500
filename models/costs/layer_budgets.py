"""Budgets by layer: the density of every weight tensor, as numbers that methods hand on to each other.

What one method learned (soft thresholds, a pruned network), or a rule states (uniform, Erdos-Renyi-kernel), is what
another may be asked for: ``Budget(density=budget)`` in a fit, ``prune(fit, budget=budget)`` after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from bayesprune.models.checks.plain_numbers import is_finite, plain_number
from bayesprune.models.checks.shown_values import shown
from bayesprune.models.costs.layer_budget_files import REMEDY, read_rows, write_rows
from bayesprune.models.costs.layer_macs import macs_by_tensor
from bayesprune.models.costs.layer_shares import checked_share, erk_counts, uniform_counts
from bayesprune.models.costs.macs import count_nonzero, own_weights
from bayesprune.models.files.json_file import damaged
from bayesprune.models.files.places import expanded

__all__ = ["HasLayerBudget", "HasPriors", "LayerBudget", "LayerDensity", "counts_by_layer"]

_LISTED = 5
"""Names that a message lists."""


@runtime_checkable
class HasPriors(Protocol):
    """What knows which of its tensors count, as a `BayesianNetwork` does: those with a prior."""

    @property
    def declared_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of these tensors by name, `(out, in, ...)`."""


@runtime_checkable
class HasLayerBudget(Protocol):
    """What says itself what it has left in every layer, as a fit and a pruned network do."""

    def layer_budget(self) -> LayerBudget:
        """What it has left."""


@dataclass(frozen=True)
class LayerDensity:
    """One tensor of a budget.

    Attributes:
        tensor: Its name; in a table written by hand also a shell pattern of names.
        density: Share of its weights that are left, in [0, 1].
        weights: How many weights it has; None where that is not known.
        macs: Multiply-accumulate operations with all of them, for one example; None where that was not counted.
    """

    tensor: str
    density: float
    weights: int | None = None
    macs: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.tensor, str) or not self.tensor:
            raise ValueError(f"a layer of a budget has the name of a tensor, not {shown(self.tensor)}")
        density = plain_number(self.density)
        is_number = isinstance(density, (int, float)) and not isinstance(density, bool) and is_finite(density)
        if not is_number or not 0.0 <= density <= 1.0:
            raise ValueError(f"the density of {_short(self.tensor)} is a share in [0, 1], not {shown(density)}")
        object.__setattr__(self, "density", float(density))
        for name, least in (("weights", 1), ("macs", 0)):
            number = plain_number(getattr(self, name))
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < least):
                raise ValueError(
                    f"{name} of {_short(self.tensor)} is a whole number from {least} on, not {shown(number)}"
                )
            if number is not None and number >= 2**53:
                raise ValueError(f"{name} of {_short(self.tensor)} is more than any layer has")
            object.__setattr__(self, name, number)

    @property
    def left(self) -> int | None:
        """How many weights are left; None where it is not known how many there are."""
        return None if self.weights is None else round(self.density * self.weights)


@dataclass(frozen=True)
class LayerBudget:
    """How many weights every tensor is left with: a budget by layer. ``str()`` is a table.

    Made by `uniform`, `erk`, `of` and `read`, or by hand from densities, ``LayerBudget.from_densities({...})``.

    Attributes:
        layers: One entry a tensor.

    Raises:
        ValueError: If there are none, or two of one tensor.
    """

    layers: tuple[LayerDensity, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        names = [layer.tensor for layer in self.layers]
        if not names:
            raise ValueError("a budget by layer names at least one tensor: this one is empty")
        twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
        if twice is not None:
            raise ValueError(f"a budget by layer names each tensor once, and not {_short(twice)} twice")

    # -- makers ----------------------------------------------------------------------------------------------

    @classmethod
    def uniform(cls, of: nn.Module | HasPriors | Mapping[str, Any], density: float | int) -> LayerBudget:
        """The same density everywhere, to one weight a tensor; the total is exact.

        Args:
            of: A model with priors (its tensors with one), a network (all its weight tensors, of two dimensions or
                more, but biases and normalisation), or shapes by name, `(out, in, ...)`.
            density: Share of all weights, in (0, 1], or their number.

        Raises:
            ValueError: If there are no weights, or the density is impossible.
        """
        shapes = _shapes(of)
        return cls._counted(uniform_counts(shapes, density), shapes)

    @classmethod
    def erk(cls, of: nn.Module | HasPriors | Mapping[str, Any], density: float | int) -> LayerBudget:
        """Erdos-Renyi-kernel (Evci et al. 2020): density proportional to (sum of dimensions) / (their product).

        Layers that would have a density above 1 are dense, and the others share the rest; the total is exact.

        Args:
            of: As in `uniform`.
            density: Share of all weights, in (0, 1], or their number.

        Raises:
            ValueError: As `uniform`.
        """
        shapes = _shapes(of)
        return cls._counted(erk_counts(shapes, density), shapes)

    @classmethod
    def of(cls, what: HasLayerBudget | nn.Module | Mapping[str, Tensor]) -> LayerBudget:
        """What something has left, layer by layer: the budget that a method has learned.

        Args:
            what: A fit (by each prior's own rule, that `Budget` counts by), a pruned network as `prune` returns it, a
                plain network with zeros, or masks or weights by name of tensor (what is not zero is left).

        Raises:
            ValueError: If it is none of these, or has no weights.
        """
        if isinstance(what, HasLayerBudget):
            return what.layer_budget()
        tensors: Mapping[str, Any]
        if isinstance(what, nn.Module):
            tensors = {name: what.get_parameter(name) for name in _shapes(what)}
        else:
            tensors = what if isinstance(what, Mapping) else {}
        if not tensors or not all(isinstance(one, Tensor) for one in tensors.values()):
            raise ValueError(
                f"LayerBudget.of takes a fit, a pruned network, a network or masks by name of tensor, not {shown(what)}"
            )
        left = {str(name): count_nonzero(tensor) for name, tensor in tensors.items()}
        return cls._counted(left, {str(name): tuple(tensor.shape) for name, tensor in tensors.items()})

    @classmethod
    def of_counts(cls, left: Mapping[str, int], weights: Mapping[str, int]) -> LayerBudget:
        """A budget of whole numbers.

        Args:
            left: How many weights are left of each tensor.
            weights: How many there are.
        """
        return cls(tuple(LayerDensity(name, count / weights[name], weights[name]) for name, count in left.items()))

    @classmethod
    def from_densities(cls, densities: Mapping[str, float]) -> LayerBudget:
        """A budget by hand: shares by name of tensor, or by shell pattern of names."""
        return cls(tuple(LayerDensity(str(name), density) for name, density in densities.items()))

    @classmethod
    def _counted(cls, left: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> LayerBudget:
        return cls.of_counts(left, {name: math.prod(shape) for name, shape in shapes.items()})

    # -- files -----------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, file: str | Path) -> LayerBudget:
        """Reads a file that `write` made, or a table of one's own.

        Args:
            file: A .json or .csv; of a CSV the columns ``tensor`` and ``density`` are needed, ``weights`` and ``macs``
                may be missing or empty.

        Raises:
            ValueError: If it is missing or damaged, in one sentence.
        """
        rows = read_rows(file)
        try:
            return cls(tuple(LayerDensity(**row) for row in rows))
        except ValueError as problem:
            raise damaged(expanded(file), problem, REMEDY) from problem

    def write(self, file: str | Path) -> None:
        """Writes it as .json or .csv with the columns ``tensor``, ``density``, ``weights`` and ``macs``.

        Args:
            file: The file; an earlier one of a budget is replaced.

        Raises:
            ValueError: If the name ends otherwise, or something else stands in the place.
            Unwritable: If it cannot be written.
        """
        write_rows(file, self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """One object a tensor, for JSON: ``tensor``, ``density``, ``weights`` and ``macs``."""
        return [vars(layer).copy() for layer in self.layers]

    # -- what it says ----------------------------------------------------------------------------------------

    def with_macs(self, network: nn.Module, example_input: Any) -> LayerBudget:
        """The same budget with the MACs of each tensor, so that `macs` and `dense_macs` are known.

        Counted are matrix products and convolutions, exactly (`count_macs`). Published totals of ResNet-50 add its
        average pooling, 100,352, which no budget changes.

        Args:
            network: The network, with the tensors that are named.
            example_input: An input, `(n, ...)`.

        Raises:
            ValueError: If a tensor is not there, or the network does not take the input.
        """
        counted = macs_by_tensor(network, example_input, [layer.tensor for layer in self.layers])
        return LayerBudget(tuple(replace(layer, macs=counted[layer.tensor]) for layer in self.layers))

    @property
    def macs(self) -> int | None:
        """MACs with the weights that are left: those of each layer times its density; None where not counted."""
        counts = [None if one.macs is None else round(one.macs * one.density) for one in self.layers]
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def dense_macs(self) -> int | None:
        """MACs with all weights; None where they were not counted."""
        counts = [one.macs for one in self.layers]
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def weights(self) -> int | None:
        """How many weights there are in all; None where that is not known."""
        counts = [one.weights for one in self.layers]
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def left(self) -> int | None:
        """How many are left; None where it is not known how many there are."""
        counts = [one.left for one in self.layers]
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def density(self) -> float | None:
        """Share of all weights that are left; None where it is not known how many there are."""
        return None if self.left is None or self.weights is None else self.left / self.weights

    def __getitem__(self, tensor: str) -> float:
        """Density of a tensor by name.

        Raises:
            KeyError: If it is not named.
        """
        found = [one.density for one in self.layers if one.tensor == tensor]
        if not found:
            raise KeyError(f"the budget names no {tensor!r}")
        return found[0]

    def __str__(self) -> str:
        width = max(len("in all"), *(len(one.tensor) for one in self.layers))
        lines = [f"{'tensor':<{width}}  {'density':>8}  {'left':>12}  {'weights':>12}  {'MACs left':>14}"]
        cells: Iterator[tuple[str, float | None, int | None, int | None, int | None]] = (
            (
                one.tensor,
                one.density,
                one.left,
                one.weights,
                None if one.macs is None else round(one.macs * one.density),
            )
            for one in self.layers
        )
        for name, density, *counts in (*cells, ("in all", self.density, self.left, self.weights, self.macs)):
            shares = "" if density is None else f"{density:.4f}"
            left, weights, macs = ("" if count is None else f"{count:,}" for count in counts)
            lines.append(f"{name:<{width}}  {shares:>8}  {left:>12}  {weights:>12}  {macs:>14}".rstrip())
        return "\n".join(lines)


def counts_by_layer(given: LayerBudget | Mapping[str, Any], sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """How many weights a budget by layer leaves of each tensor that it names.

    Args:
        given: The budget; or shares in (0, 1] or whole numbers from 2 on, by name or shell pattern of names. A number
            is one of weights in each tensor that the pattern matches.
        sizes: How many weights each tensor has that may be named; default None: only the values are looked at, and
            nothing is returned.

    Returns:
        Counts by name of tensor, in the order of `sizes`; those that no pattern matches are not among them.

    Raises:
        ValueError: If a name matches nothing or two match one tensor, a value is out of range, or rounds to no weight,
            or the budget is one of a network of other sizes.
    """
    entries: dict[str, tuple[Any, int | None]]
    if isinstance(given, LayerBudget):
        entries = {one.tensor: (one.density, one.weights) for one in given.layers}
        empty = [name for name, (density, _) in entries.items() if density == 0.0]
        if empty:
            raise ValueError(
                f"the budget leaves nothing of {_listed(empty)}: every layer keeps one weight at least, so give it a "
                "density above 0"
            )
    else:
        if not given:
            raise ValueError("a budget by layer names at least one tensor: this one is empty")
        entries = {
            str(name): (checked_share(value, f"the density of {_short(str(name))}"), None)
            for name, value in given.items()
        }
    if sizes is None:
        return {}
    of: dict[str, str] = {}
    for pattern in entries:
        matched = [pattern] if pattern in sizes else [name for name in sizes if fnmatchcase(name, pattern)]
        if not matched:
            raise ValueError(
                f"the budget names {_short(pattern)!r}, which matches no tensor that it may be of: these are "
                f"{_listed(list(sizes))}"
            )
        for name in matched:
            if name in of:
                raise ValueError(
                    f"{_short(of[name])!r} and {_short(pattern)!r} of the budget both match {name}: narrow one of them"
                )
            of[name] = pattern
    return {name: _count(name, *entries[of[name]], size) for name, size in sizes.items() if name in of}


def _count(name: str, value: float | int, weights: int | None, size: int) -> int:
    if weights is not None and weights != size:
        raise ValueError(
            f"the budget is of another network: {name} has {size:,} weights, and {weights:,} in the budget"
        )
    if isinstance(value, int):
        if value > size:
            raise ValueError(f"the budget leaves {value:,} weights of {name}, which has {size:,}: ask for less")
        return value
    count = round(value * size)
    if count == 0:
        raise ValueError(
            f"a density of {value:g} leaves none of the {size:,} weights of {name}: give it {1 / size:.3g} at least"
        )
    return count


def _shapes(of: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that count, by name."""
    if isinstance(of, HasPriors):
        found = dict(of.declared_shapes)
    elif isinstance(of, nn.Module):
        names = {id(weight): name for name, weight in of.named_parameters()}
        held = [weight for layer in of.modules() for _, weight in own_weights(layer)]
        found = {names[id(weight)]: tuple(weight.shape) for weight in held}
        found = {name: found[name] for name in names.values() if name in found}
    elif isinstance(of, Mapping):
        found = {str(name): _shape(str(name), shape) for name, shape in of.items()}
    else:
        raise ValueError(f"a budget by layer is of a model, a network or shapes by name, not {shown(of)}")
    if not found:
        raise ValueError("there are no weight tensors to have a budget: give a network with some, or shapes by name")
    return found


def _shape(name: str, given: Any) -> tuple[int, ...]:
    try:
        shape = tuple(plain_number(one) for one in given)
    except TypeError:
        shape = ()
    if not shape or not all(isinstance(one, int) and not isinstance(one, bool) and one >= 1 for one in shape):
        raise ValueError(f"the shape of {_short(name)} is one or more whole numbers (out, in, ...), not {given!r:.60}")
    return shape


def _listed(names: list[str]) -> str:
    return ", ".join(map(_short, names[:_LISTED])) + (", ..." if len(names) > _LISTED else "")


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:60]}..."
