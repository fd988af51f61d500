"""Networks of genomes: a layer for each vertex that lies on a path from input to output."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bayesprune.models.checks.size_bounds import checked_count, checked_input_shape, checked_width, require_holdable
from bayesprune.models.genomes.genome import Genome
from bayesprune.models.genomes.operations import KINDS, OPERATIONS
from bayesprune.models.networks.recurrent import GRU, LSTM, Cell
from bayesprune.models.networks.widths import scaled

__all__ = ["GENOME", "GenomeNetwork", "Unrolled", "network_of"]

GENOME = "genome"
"""Name of these networks, and key of `network.config` that holds the genome."""
_POSITIONS = 4
"""Positions on a side of a map at most, when it is flattened."""
_CELLS: dict[str, type[GRU] | type[LSTM]] = {"gru": GRU, "lstm": LSTM}


class Unrolled(nn.Module):
    """A recurrent cell over all steps of sequences.

    Args:
        cell: The cell.
        steps: Steps of a sequence.
    """

    def __init__(self, cell: Cell, steps: int) -> None:
        super().__init__()
        self.cell, self.steps = cell, steps

    def forward(self, x: Tensor) -> Tensor:
        """Hidden units after each step, `(N, steps, hidden)`, of sequences `(N, steps, features)`."""
        read, state, outputs = self.cell.input(x), self.cell.start(x), []
        for at in range(self.steps):
            hidden, state = self.cell.step(read[:, at], state)
            outputs.append(hidden)
        return torch.stack(outputs, dim=1)


class GenomeNetwork(nn.Module):
    """The network of a genome.

    What several edges bring to a vertex is concatenated, once it is of one kind and size: maps are reduced to the
    smallest of them by the maximum; of sequences of different lengths the last steps are taken; the rows of a map are
    the steps of a sequence. Before a linear layer and the output, maps are averaged to at most 4 x 4 positions and
    flattened, sequences stand at their last step; inputs of the network are flattened as they are.

    Args:
        genome: The genome; `network_of` has checked it.
        input_shape: Shape of one input.
        classes: Number of outputs.
        width: Multiplies the widths of all vertices; they are rounded and at least 1. Default 1.

    Attributes:
        genome: The genome, pruned.
        vertex1, vertex2, ...: Its layers, by number of the vertex there.
        head: The last layer, linear.
    """

    def __init__(self, genome: Genome, input_shape: Sequence[int], classes: int, width: float = 1.0) -> None:
        super().__init__()
        self.genome = genome.pruned()
        self.input_shape = tuple(input_shape)
        # What each vertex makes: for maps (channels, height, width), for sequences (steps, features), else (features,).
        shapes: list[tuple[int, ...]] = [self.input_shape]
        for vertex, name in enumerate(self.genome.operations, start=1):
            wide = scaled([self.genome.widths[vertex - 1]], width)[0] if OPERATIONS[name].has_width else 0
            given = self._joined_shape([shapes[one] for one in self.genome.inputs[vertex]], vertex)
            layer, made = _layer(name, given, wide)
            self.add_module(f"vertex{vertex}", layer)
            shapes.append(made)
        self.shapes = tuple(shapes)
        last = self._joined_shape([shapes[one] for one in self.genome.inputs[self.genome.output]], self.genome.output)
        self.head = nn.Linear(last[0], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs `(N, classes)` of inputs `(N, *input_shape)`."""
        values = [x]
        for vertex in range(1, self.genome.output):
            values.append(getattr(self, f"vertex{vertex}")(self._joined(values, vertex)))
        return self.head(self._joined(values, self.genome.output))

    def _kind(self, vertex: int, given: Sequence[tuple[int, ...]]) -> str:
        """The kind into which what is given to a vertex is brought: as it comes, if the vertex can read that."""
        joined = min(len(shape) for shape in given) - 1
        if vertex == self.genome.output or self.genome.operations[vertex - 1] == "linear":
            return KINDS[0]
        reads = OPERATIONS[self.genome.operations[vertex - 1]].reads
        return reads if reads == "sequence" else KINDS[joined]

    def _joined_shape(self, given: Sequence[tuple[int, ...]], vertex: int) -> tuple[int, ...]:
        kind, begins = self._kind(vertex, given), self.genome.inputs[vertex]
        if kind == "map":
            return (sum(shape[0] for shape in given), min(s[1] for s in given), min(s[2] for s in given))
        if kind == "sequence":
            sequences = [_as_sequence(shape) for shape in given]
            return (min(shape[0] for shape in sequences), sum(shape[1] for shape in sequences))
        return (sum(_as_flat(shape, begin == 0) for begin, shape in zip(begins, given, strict=True)),)

    def _joined(self, values: Sequence[Tensor], vertex: int) -> Tensor:
        """What the edges to a vertex bring, as one tensor."""
        begins = self.genome.inputs[vertex]
        given = [self.shapes[one] for one in begins]
        kind = self._kind(vertex, given)
        steps = min(_as_sequence(shape)[0] for shape in given) if kind == "sequence" else 0
        least = min(shape[-2] for shape in given) if kind == "map" else 0
        parts = []
        for begin, shape in zip(begins, given, strict=True):
            value = values[begin]
            if kind == "map":
                # All maps are halvings of the input, rounded down, so one is larger by a power of two and a remainder.
                times = 2 ** ((shape[-2] // least).bit_length() - 1)
                value = nn.functional.max_pool2d(value, times) if times > 1 else value
            elif kind == "sequence":
                value = _rows(value, shape) if len(shape) == 3 else value
                value = value[:, -steps:] if _as_sequence(shape)[0] > steps else value
            else:
                value = _flattened(value, shape, begin == 0)
            parts.append(value)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1 if kind != "sequence" else 2)


def network_of(genome: Genome, input_shape: Sequence[int], classes: int, width: float = 1.0) -> GenomeNetwork:
    """Makes the network of a genome, with plain layers and random weights.

    Args:
        genome: The genome.
        input_shape: Shape of one input: `(features,)`, `(steps, features)` or `(channels, height, width)`.
        classes: Number of outputs.
        width: Multiplies the widths of all vertices; default 1.

    Returns:
        A network from `(N, *input_shape)` to `(N, classes)`; its `config` says how to make it again.

    Raises:
        ValueError: In one sentence, if no path leads from input to output, a vertex cannot read what it is given, the
            width is not positive, or it has more parameters than can be held.
    """
    shape, classes, width = checked_input_shape(tuple(input_shape)), checked_count(classes, "classes"), float(width)
    checked_width(width)
    if not genome.has_path:
        raise ValueError("no path leads from the genome's input to its output: give it edges")
    kinds = genome.kinds(shape)
    wrong = [vertex for vertex, kind in kinds.items() if kind is None]
    if wrong:
        name = genome.operations[wrong[0] - 1]
        raise ValueError(
            f"vertex {wrong[0]} ({name}) of the genome needs a {OPERATIONS[name].reads}, which cannot be made of what "
            f"it is given from inputs of shape {shape}: take another operation or other edges"
        )
    require_holdable(lambda: GenomeNetwork(genome, shape, classes, width), "the network of this genome")
    made = GenomeNetwork(genome, shape, classes, width)
    made.config = {  # type: ignore[assignment]
        "name": GENOME,
        "input_shape": list(shape),
        "classes": classes,
        "width": width,
        GENOME: made.genome.as_dict(),
    }
    return made


def _layer(name: str, given: tuple[int, ...], width: int) -> tuple[nn.Module, tuple[int, ...]]:
    """The layer of an operation on values of a shape, and the shape that it makes."""
    if name == "linear":
        return nn.Sequential(nn.Linear(given[0], width), nn.ReLU()), (width,)
    if name in _CELLS:
        return Unrolled(_CELLS[name](given[1], width), given[0]), (given[0], width)
    if name.startswith("conv"):
        size, has_bn = (3 if "3x3" in name else 1), name.endswith("-bn")
        convolution = nn.Conv2d(given[0], width, size, padding=size // 2, bias=not has_bn)
        norm = [nn.BatchNorm2d(width)] if has_bn else []
        return nn.Sequential(convolution, *norm, nn.ReLU()), (width, *given[1:])
    if name in ("max-pool", "average-pool"):
        if min(given[1:]) < 2:  # one position is left, which cannot be halved
            return nn.Identity(), given
        pool = nn.MaxPool2d(2) if name == "max-pool" else nn.AvgPool2d(2)
        return pool, (given[0], given[1] // 2, given[2] // 2)
    if name == "global-pool":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), (given[0],)
    return nn.Identity(), given


def _as_sequence(shape: tuple[int, ...]) -> tuple[int, int]:
    """Steps and features of a sequence, or of the rows of a map."""
    return (shape[1], shape[0] * shape[2]) if len(shape) == 3 else (shape[0], shape[1])


def _as_flat(shape: tuple[int, ...], is_input: bool) -> int:
    """Features of values that are flattened."""
    if is_input or len(shape) == 1:
        return math.prod(shape)
    if len(shape) == 2:
        return shape[1]
    down, across = (_coarse(size) for size in shape[1:])
    return shape[0] * (shape[1] // down) * (shape[2] // across)


def _flattened(value: Tensor, shape: tuple[int, ...], is_input: bool) -> Tensor:
    if len(shape) == 1:
        return value
    if is_input:
        return value.flatten(1)
    if len(shape) == 2:
        return value[:, -1]
    kernel = (_coarse(shape[1]), _coarse(shape[2]))
    return (nn.functional.avg_pool2d(value, kernel) if max(kernel) > 1 else value).flatten(1)


def _rows(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The rows of maps `(N, channels, height, width)` as steps, `(N, height, channels x width)`."""
    return value.transpose(1, 2).reshape(value.shape[0], *_as_sequence(shape))


def _coarse(size: int) -> int:
    """The side of the square whose average is taken, so that at most so many positions are left."""
    return math.ceil(size / _POSITIONS)
