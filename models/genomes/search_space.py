"""Search spaces: which genomes a search may try, said in one place."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from bayesprune.models.checks.given_numbers import whole_number
from bayesprune.models.checks.size_bounds import checked_count, checked_input_shape
from bayesprune.models.genomes.genome import MOST_EDGES, MOST_VERTICES, WIDEST_VERTEX, Genome
from bayesprune.models.genomes.genome_network import GenomeNetwork
from bayesprune.models.genomes.operations import KINDS, OPERATIONS, kind_of_inputs

__all__ = ["SearchSpace", "parameters_of"]

_DEFAULTS = {
    "flat": ("linear", "identity"),
    "sequence": ("gru", "lstm", "linear", "identity"),
    "map": ("conv3x3", "conv1x1", "max-pool", "average-pool", "linear", "identity"),
}
"""Operations that are tried where none are given, by kind of the inputs."""


@dataclass(frozen=True)
class SearchSpace:
    """What genomes a search may try: every rule of validity stands here, and every operator asks it.

    Args:
        input_shape: Shape of one input: `(features,)`, `(steps, features)` or `(channels, height, width)`.
        classes: Number of outputs.
        operations: Names in `OPERATIONS`; default None: by kind of the inputs, for images 3 x 3 and 1 x 1
            convolutions, maximum and average pooling, linear and identity.
        widths: Channels or units that a vertex may have; default 8, 16 and 32.
        most_vertices: Vertices with an operation at most; default 7.
        most_edges: Edges at most, those from the input and to the output among them; default 14.
        most_parameters: Parameters of the network at most; default a million.

    Raises:
        ValueError: In one sentence, if it allows nothing, or a setting is out of range.
    """

    input_shape: tuple[int, ...]
    classes: int
    operations: tuple[str, ...] | None = None
    widths: tuple[int, ...] = (8, 16, 32)
    most_vertices: int = 7
    most_edges: int = 14
    most_parameters: int = 1_000_000

    def __post_init__(self) -> None:
        shape = checked_input_shape(tuple(self.input_shape))
        kind = kind_of_inputs(shape)
        operations = _DEFAULTS[kind] if self.operations is None else tuple(self.operations)
        if unknown := [name for name in operations if name not in OPERATIONS]:
            raise ValueError(f"operation {unknown[0]!r} is unknown: expected some of {', '.join(OPERATIONS)}")
        possible = [name for name in operations if KINDS.index(OPERATIONS[name].reads) <= KINDS.index(kind)]
        if not possible:
            raise ValueError(
                f"the search space allows nothing: inputs of shape {shape} can be read by none of its operations "
                f"({', '.join(operations) or 'there are none'}): add linear"
            )
        if lacking := [name for name in operations if name not in possible]:
            raise ValueError(
                f"operation {lacking[0]} reads a {OPERATIONS[lacking[0]].reads}, which inputs of shape {shape} are "
                "not: leave it out"
            )
        widths = tuple(sorted({checked_count(width, "a width", WIDEST_VERTEX) for width in self.widths}))
        if not widths:
            raise ValueError("the search space allows nothing: it has no widths: give some, such as widths=(8, 16)")
        vertices = min(whole_number("most_vertices", self.most_vertices), MOST_VERTICES)
        edges = min(whole_number("most_edges", self.most_edges, least=2), MOST_EDGES)
        most = whole_number("most_parameters", self.most_parameters)
        settled = {
            "input_shape": shape, "classes": checked_count(self.classes, "classes"), "operations": operations,
            "widths": widths, "most_vertices": vertices, "most_edges": edges, "most_parameters": most,
        }  # fmt: skip
        for name, value in settled.items():
            object.__setattr__(self, name, value)
        smallest = [Genome((name,), (widths[0],), ((0, 1), (1, 2))) for name in operations]
        if all(self.refusal(genome) is not None for genome in smallest):
            raise ValueError(
                f"the search space allows nothing: the smallest network has more than {most:,} parameters: raise "
                "most_parameters, or add smaller widths"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its operations."""
        return self.operations or ()

    def refusal(self, genome: Genome) -> str | None:
        """Why a genome is not of this space, as the end of a sentence; None where it is.

        Args:
            genome: The genome.
        """
        if not genome.has_path:
            return "no path leads from its input to its output"
        if not genome.active:
            return "nothing stands between its input and its output"
        if genome.vertices > self.most_vertices:
            return f"it has {genome.vertices} vertices, and at most {self.most_vertices} are allowed"
        if len(genome.edges) > self.most_edges:
            return f"it has {len(genome.edges)} edges, and at most {self.most_edges} are allowed"
        for name, width in zip(genome.operations, genome.widths, strict=True):
            if name not in self.names:
                return f"its operation {name} is none of {', '.join(self.names)}"
            if OPERATIONS[name].has_width and width not in self.widths:
                return f"its width {width} is none of {', '.join(map(str, self.widths))}"
        for vertex, kind in genome.kinds(self.input_shape).items():
            if kind is None:
                return f"its vertex {vertex} ({genome.operations[vertex - 1]}) cannot read what it is given"
        if (parameters := parameters_of(genome, self.input_shape, self.classes)) > self.most_parameters:
            return f"its network has {parameters:,} parameters, and at most {self.most_parameters:,} are allowed"
        return None

    def allows(self, genome: Genome) -> bool:
        """Whether a genome is of this space."""
        return self.refusal(genome) is None

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON holds it."""
        found = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def parameters_of(genome: Genome, input_shape: Sequence[int], classes: int) -> int:
    """Parameters of a genome's network, which is not made for it.

    Args:
        genome: The genome, whose vertices can read what they are given.
        input_shape: Shape of one input.
        classes: Number of outputs.
    """
    return _parameters_of(genome, tuple(input_shape), classes)


@functools.lru_cache(maxsize=4096)  # a surrogate's features and every check of a space ask for it
def _parameters_of(genome: Genome, input_shape: tuple[int, ...], classes: int) -> int:
    with torch.device("meta"):
        return sum(one.numel() for one in GenomeNetwork(genome, input_shape, classes).parameters())
