"""Knobs: numbers of a declaration that a rule may move while a fit runs.

A callable of a hierarchy whose argument names a knob gets its number as a tensor of no dimensions::

    Hierarchy(weight=lambda decay: dist.Normal(0.0, decay.rsqrt()), knobs={"decay": 1e-4})
    model.knobs["decay"].set(2e-4)

Each number is a buffer of the model, so that it moves with the model, is an input of a traced objective and no constant
of it, and is followed by both executions. What `Fit.save` keeps of a knob is where it was moved to; a fingerprint is
that of the declaration, with every knob where it was declared.

The share of a fit's steps that are done, the reserved argument ``progress``, is such a number too: 1 outside a fit, and
never kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["Knob", "KnobGroup", "Knobs", "MovingNumber", "declared_knobs"]

Direction = Literal["sparser", "denser"]


@dataclass(frozen=True)
class Knob:
    """A number of a declaration that a rule may move, positive.

    The ready priors' knobs are factors on the constant they are named after, 1 as declared: what a prior states for
    each tensor by its fan-in then moves alike on all of them.

    Attributes:
        value: Where it is declared to stand; default 1.
        more: What more of it leads to, ``"sparser"`` (default) or ``"denser"`` weights.
        low: Lowest value that a rule may give it; default a 1e12th of `value`.
        high: Highest; default 1e12 times `value`.
        above: The size |E weight| above which a weight counts as left, where the prior has no atom; default None: a
            tenth of its layer's root mean square, or by the prior's own inclusion event where that can be had at a
            point.
        shift: Name of the latent by a common shift of whose guide the count is met in the end, such as the gate's log
            odds; default None: weights that stand between two counts are moved across.
        shift_to: What a positive shift of it leads to, ``"denser"`` (default, as of log odds) or ``"sparser"`` weights.
        ramp: Shares of the fit at which a budget's ramp begins and ends by default; None (default): the rule's own.
        begins: Factor at which a budget begins to move it; default 1. What is declared for fits without a budget may be
            too strong to come down from.
        pace: How many times as far as other knobs a rule moves the logarithm of this one; default 1. Prior odds have
            further to go than a price.
    """

    value: float = 1.0
    more: Direction = "sparser"
    low: float | None = None
    high: float | None = None
    above: float | None = None
    shift: str | None = None
    shift_to: Direction = "denser"
    ramp: tuple[float, float] | None = None
    begins: float = 1.0
    pace: float = 1.0

    def __post_init__(self) -> None:
        for name in ("value", "low", "high", "above", "begins", "pace"):
            given = getattr(self, name)
            if given is None and name not in ("value", "begins", "pace"):
                continue
            if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0.0 < given < math.inf:
                raise ValueError(f"Knob({name}=...) must be a positive number, not {given!r}: it is moved by factors")
            object.__setattr__(self, name, float(given))
        for name in ("more", "shift_to"):
            if getattr(self, name) not in ("sparser", "denser"):
                raise ValueError(f"Knob({name}=...) takes 'sparser' or 'denser', not {getattr(self, name)!r}")
        if self.ramp is not None and not 0.0 <= self.ramp[0] < self.ramp[1] <= 1.0:
            raise ValueError(f"Knob(ramp=...) takes two shares of the fit, the first one smaller, not {self.ramp}")
        least, most = self.bounds
        if not least <= self.value <= most:
            raise ValueError(f"a knob is declared between its bounds, not at {self.value:g} with {least:g} to {most:g}")

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value."""
        return (
            1e-12 * self.value if self.low is None else self.low,
            1e12 * self.value if self.high is None else self.high,
        )


class MovingNumber(nn.Module):
    """One number of a declaration as a buffer, written in place, so that what holds it sees the change.

    Args:
        value: Where it stands.

    Attributes:
        declared: Where it was declared to stand.
        value: The number, a tensor of no dimensions; float64 until the model is moved to another dtype.
        is_moved: Whether it was ever set.
    """

    value: Tensor

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.declared = float(value)
        self.is_moved = False
        # It is kept with a fit by its name and only where it was moved, not by its place in a state.
        self.register_buffer("value", torch.tensor(self.declared, dtype=torch.float64), persistent=False)

    def set(self, value: float) -> None:
        """Sets the number."""
        self.value.fill_(value)
        self.is_moved = True

    def like(self, like: Tensor) -> Tensor:
        """The number in the dtype and on the device of a tensor."""
        return self.value.to(like.device, like.dtype)


class KnobGroup:
    """The knobs of one name, which are moved together: by a common factor, where they were declared apart.

    Args:
        name: Their name.
        numbers: The numbers, by pattern of the prior that declares each; at least one.
    """

    def __init__(self, name: str, numbers: Mapping[str, MovingNumber]) -> None:
        self.name = name
        self._numbers = dict(numbers)

    @property
    def values(self) -> dict[str, float]:
        """Where each stands, by pattern."""
        return {pattern: float(one.value) for pattern, one in self._numbers.items()}

    @property
    def value(self) -> float:
        """Where all of them stand.

        Raises:
            ValueError: If they stand at several places.
        """
        found = set(self.values.values())
        if len(found) > 1:
            raise ValueError(f"the knob {self.name} has several values: ask for values, or for {self._one_alone()}")
        return found.pop()

    @property
    def factor(self) -> float:
        """By how much they were moved from where they were declared; of the first, if they were moved apart."""
        first = next(iter(self._numbers.values()))
        return float(first.value) / first.declared

    def set(self, value: float) -> None:
        """Sets all of them to one value.

        Raises:
            ValueError: If they were declared with several, which one value would not respect; or it is not positive.
        """
        if len({one.declared for one in self._numbers.values()}) > 1:
            raise ValueError(
                f"the knob {self.name} was declared with several values, so that one for all would change the model: "
                f"move them together by scale(factor), or set {self._one_alone()} alone"
            )
        for one in self._numbers.values():
            one.set(_positive(value, f"the knob {self.name}"))

    def scale(self, factor: float) -> None:
        """Sets each to its declared value times a common factor."""
        for one in self._numbers.values():
            one.set(one.declared * _positive(factor, f"the factor on the knob {self.name}"))

    def _one_alone(self) -> str:
        return f"knobs[{f'{next(iter(self._numbers))}.{self.name}'!r}]"

    def __repr__(self) -> str:
        return f"{self.name}: " + ", ".join(f"{value:g} on {pattern}" for pattern, value in self.values.items())


class Knobs(nn.Module):
    """The knobs of a model, a mapping: ``model.knobs["kappa"]`` are all of that name, moved together.

    ``model.knobs["fc1.weight.kappa"]``, with the pattern of the prior before it, is one of them alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[tuple[str, str], int] = {}
        self._numbers = nn.ModuleList()

    def add(self, pattern: str, name: str, number: MovingNumber) -> None:
        """Adds the knob of a name that the prior on a pattern declares."""
        self._names[pattern, name] = len(self._numbers)
        self._numbers.append(number)

    def of(self, pattern: str) -> dict[str, MovingNumber]:
        """The numbers of the prior on a pattern, by name."""
        return {name: one for where, name, one in self._each() if where == pattern}

    def moved(self) -> dict[str, float]:
        """Where every knob that was moved stands, by ``"pattern.name"``."""
        return {f"{where}.{name}": float(one.value) for where, name, one in self._each() if one.is_moved}

    def go_on_from(self, moved: Mapping[str, float]) -> None:
        """Sets those that were moved, as `moved` has them; the others stay.

        Raises:
            ValueError: If one is not declared here, or its value is not positive.
        """
        known = {f"{where}.{name}": one for where, name, one in self._each()}
        for key, value in moved.items():
            if key not in known:
                raise ValueError(f"there is no knob {key!r}, only {', '.join(known) or 'none'}")
            known[key].set(_positive(float(value), f"the knob {key}"))

    def __getitem__(self, key: str) -> KnobGroup:
        found = {where: one for where, name, one in self._each() if key in (name, f"{where}.{name}")}
        if not found:
            raise KeyError(f"there is no knob {key!r}: the model's knobs are {', '.join(self) or 'none'}")
        return KnobGroup(next(name for where, name, _ in self._each() if where in found and key.endswith(name)), found)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for _, name, _ in self._each()))

    def __contains__(self, key: object) -> bool:
        return any(key in (name, f"{where}.{name}") for where, name, _ in self._each())

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"Knobs({'; '.join(repr(self[name]) for name in self)})"

    def _each(self) -> Iterator[tuple[str, str, MovingNumber]]:
        for (where, name), place in self._names.items():
            one = self._numbers[place]
            assert isinstance(one, MovingNumber)
            yield where, name, one


def declared_knobs(knobs: Mapping[str, Any] | None, budget: str | None, taken: Iterable[str]) -> dict[str, Knob]:
    """The knobs of a hierarchy as they were given, numbers as `Knob`s.

    Args:
        knobs: Numbers or `Knob`s by name.
        budget: Name of the one that `Budget` may move, or None.
        taken: Names that cannot be knobs.

    Raises:
        ValueError: If a name is taken, a value is no positive number, or `budget` names no knob.
    """
    if knobs is not None and not isinstance(knobs, Mapping):
        raise ValueError(f"knobs= takes numbers by name, such as {{'decay': 1e-4}}, not {knobs!r}")
    names, found = set(taken), {}
    for name, value in (knobs or {}).items():
        if not isinstance(name, str) or not name.isidentifier() or name in names:
            raise ValueError(f"{name!r} cannot be a knob: take the name of an argument that is no latent nor reserved")
        try:
            found[name] = value if isinstance(value, Knob) else Knob(value)
        except ValueError as problem:
            raise ValueError(f"knobs={{{name!r}: ...}}: {problem}") from problem
    if budget is not None and budget not in found:
        raise ValueError(
            f"budget={budget!r} names no knob of this hierarchy: the knobs are {', '.join(found) or 'none'}, "
            "so declare it in knobs={...}"
        )
    return found


def _positive(value: float, what: str) -> float:
    if not 0.0 < value < math.inf:
        raise ValueError(f"{what} must be a positive number, not {value}")
    return float(value)
