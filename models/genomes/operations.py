"""What a vertex of a genome may do: which kind of values it reads, and which kind it makes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KINDS", "OPERATIONS", "Operation", "kind_of", "kind_of_inputs"]

KINDS = ("flat", "sequence", "map")
"""Kinds of values, each of which can be made of those after it: features `(N, features)`, sequences
`(N, steps, features)`, and maps `(N, channels, height, width)`, whose rows are the steps of a sequence."""


@dataclass(frozen=True)
class Operation:
    """An operation.

    Attributes:
        reads: The kind that it needs; it reads what can be made into that, too.
        makes: The kind that it makes; None: that of its inputs.
        has_width: Whether it has a width: channels or units that it makes.
    """

    reads: str
    makes: str | None
    has_width: bool


OPERATIONS: dict[str, Operation] = {
    "linear": Operation("flat", "flat", True),
    "conv3x3": Operation("map", "map", True),
    "conv1x1": Operation("map", "map", True),
    "conv3x3-bn": Operation("map", "map", True),
    "max-pool": Operation("map", "map", False),
    "average-pool": Operation("map", "map", False),
    "global-pool": Operation("map", "flat", False),
    "gru": Operation("sequence", "sequence", True),
    "lstm": Operation("sequence", "sequence", True),
    "identity": Operation("flat", None, False),
}
"""Operations by name: linear layer and ReLU; convolution and ReLU, with batch normalisation between them or not;
pooling of 2 x 2, and over all positions; the cells of the ready recurrent networks over all steps; and nothing."""


def kind_of_inputs(shape: tuple[int, ...]) -> str:
    """The kind of inputs of a shape: one dimension of features, two of sequences, three of images.

    Args:
        shape: Of one input.

    Raises:
        ValueError: If it has another number of dimensions.
    """
    if not 1 <= len(shape) <= len(KINDS):
        raise ValueError(
            f"a genome got inputs of shape {tuple(shape)}, but it takes features (n,), sequences (steps, features), or "
            "images (channels, height, width)"
        )
    return KINDS[len(shape) - 1]


def kind_of(operation: str, inputs: list[str]) -> str | None:
    """The kind of values that a vertex makes; None where it cannot read its inputs.

    Args:
        operation: Name of its operation.
        inputs: The kinds that it is given, one at least: they are joined as the first of `KINDS` among them.
    """
    joined = KINDS[min(map(KINDS.index, inputs))]
    what = OPERATIONS[operation]
    if KINDS.index(joined) < KINDS.index(what.reads):
        return None
    return what.makes or joined
