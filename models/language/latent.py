"""Latents, and the words in which hierarchies are declared: reserved arguments, the name of the weights, parents."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bayesprune.models.language.inclusion import InclusionEvent
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.levels import DEFAULT_BLOCK, LEVELS, REPEATED, repeated

__all__ = [
    "OWN_DIMENSIONS", "PROGRESS", "RESERVED", "WEIGHT", "Declared", "Distribution", "Latent", "arguments",
    "is_distribution", "is_function",
]  # fmt: skip

Distribution = torch.distributions.Distribution
PROGRESS = "progress"
RESERVED: tuple[str, ...] = ("size", "fan_in", "inputs", "data_size", PROGRESS)
"""Arguments a callable may take besides the latents: entries of the tensor, those of one output, its columns (input
channels; 1 for a vector), data, and the share of a fit's steps that are done (a tensor of no dimensions in [0, 1]; 1
outside a fit and after it), by which a prior is annealed."""
WEIGHT = "weight"
OWN_DIMENSIONS = ("output", "input", "rank")
"""Named dimensions that a tensor gives the size of: its rows, its columns, and the fewer of the two."""


@dataclass(frozen=True)
class Latent:
    """A latent of a hierarchy: a distribution, a level, and optionally how the guide treats it.

    Attributes:
        distribution: A univariate Pyro distribution (its constants are float32; numbers in a callable take the dtype of
            the weights), or a callable that returns one; the names of its arguments name its parents (other latents, or
            ``size``, ``fan_in``, ``inputs``, ``data_size``, ``progress``, or a knob of the hierarchy).
        per: The level, one of `LEVELS`; default one entry a weight.
        dims: Named dimensions in place of a level, e.g. ``{"output": None, "rank": 16}``; None takes the
            tensor's own size: rows for ``"output"``, columns for ``"input"``, and the fewer of the two, the largest
            rank that it can have, for ``"rank"``. Passed to callables unexpanded.
        guide: Family of the guide for this latent whatever the fit asks for (``"delta"``, ``"normal"``,
            ``"lognormal"``, ``"logitnormal"``, ``"bernoulli"``, ``"hardconcrete"``, ``"truncatedlognormal"``); default
            None: the fit decides.
        init: Where the guide's location starts: a number, or a callable of latents' starting values, the
            reserved arguments but ``progress``, and ``weight`` (the network's current weights). Default None: from
            the network's weights where the hierarchy can be solved for them, else the prior median.
        block: Rows and columns of a tile for ``per="block"``; default 16 x 16.
        spread: Standard deviation with which the guide starts: of a real latent as a share of its root mean square, of
            others that of the logarithm or logit; default None: 0.1.
        gates: For ``per="edge"``, how many gates a unit has, whose rows stand one gate after the other: one entry is
            that of an edge for all of them. Default 1; of a GRU 3, of an LSTM 4.
    """

    distribution: Any
    per: str = "weight"
    dims: Mapping[str, int | None] | None = None
    guide: str | None = None
    init: float | Callable[..., Tensor] | None = None
    block: tuple[int, int] = DEFAULT_BLOCK
    spread: float | None = None
    gates: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.distribution, Distribution) and not callable(self.distribution):
            raise ValueError(
                f"a latent needs a Pyro distribution or a callable that returns one, not "
                f"{type(self.distribution).__name__}: write Latent(dist.Normal(0.0, 1.0))"
            )
        if isinstance(self.distribution, Distribution) and self.distribution.event_shape:
            raise ValueError(
                f"{type(self.distribution).__name__} has event shape {tuple(self.distribution.event_shape)}, but a "
                "latent takes a univariate distribution: its level or dims say how many entries there are"
            )
        if self.per not in LEVELS:
            raise ValueError(f"level {self.per!r} is unknown: per= takes one of {', '.join(LEVELS)}")
        if self.spread is not None and not self.spread > 0:
            raise ValueError(f"spread= is a standard deviation to start from and must be positive, not {self.spread}")
        for name, extent in (self.dims or {}).items():
            if extent is None and name not in OWN_DIMENSIONS:
                raise ValueError(
                    f"dims[{name!r}] has no size: give a number (only {', '.join(map(repr, OWN_DIMENSIONS))} take the "
                    "tensor's own)"
                )
            if extent is not None and extent < 1:
                raise ValueError(f"dims[{name!r}] must be at least 1, not {extent}")
        if len(self.block) != 2 or min(self.block) < 1:
            raise ValueError(f"block= takes the rows and columns of a tile, each at least 1, not {self.block}")
        if self.gates < 1 or (self.gates > 1 and self.per != "edge"):
            raise ValueError(
                f"gates={self.gates} goes with per='edge' and is at least 1: leave it out, or say per='edge'"
            )

    @property
    def is_repeated(self) -> bool:
        """Whether an entry is repeated over the rows and columns that it is for, since it does not broadcast."""
        return not self.dims and self.per in REPEATED

    def repeated(self, value: Tensor, shape: Sequence[int]) -> Tensor:
        """Its entries for a tensor of that shape as what broadcasts against it."""
        return repeated(value, self.per, shape, self.block, self.gates) if self.is_repeated else value


def arguments(function: Callable[..., Any]) -> tuple[str, ...]:
    """Returns the names of a callable's arguments without defaults: its parents."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(
        p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    )


def is_distribution(value: Any) -> bool:
    """Whether a callable's result is a distribution (the node is a latent) rather than a tensor."""
    return isinstance(value, Distribution)


def is_function(value: Any) -> bool:
    """Whether a latent, or what declares one, is a callable of its parents rather than a distribution."""
    distribution = value.distribution if isinstance(value, Latent) else value
    return not isinstance(distribution, Distribution) and callable(distribution)


class Declared(Protocol):
    """A declaration that can be bound to a parameter tensor: what `TensorPrior` and those who have one ask of it.

    `Hierarchy` is the one class that has it all, and says what each of these is.
    """

    nodes: dict[str, Latent]
    latents: dict[str, Latent]
    weight: Latent | None
    weight_value: Any
    included: InclusionEvent | None
    factor: Callable[..., Tensor] | None
    default_guide: str
    improper: str | None
    noise: str | None
    full_kl: bool
    map_options: Mapping[str, Any]
    mean_field_options: Mapping[str, Any]
    config: dict[str, Any] | None
    knobs: dict[str, Knob]
    budget: str | None

    @property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """Names of the arguments of each callable."""

    @property
    def is_annealed(self) -> bool:
        """Whether it asks for the progress of the fit."""

    def is_final(self, share: float) -> bool:
        """Whether it is at this share of the steps the one that the fit ends on."""

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when it changes."""
