"""How probable each edge of a layer is, in a random graph: what edge gates have as their prior."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["EDGE_GRAPHS", "ring_layer"]

EDGE_GRAPHS = ("erdos-renyi", "watts-strogatz")
"""Random graphs whose edges between the two sides of a layer have known probabilities."""


def ring_layer(outputs: int, inputs: int, neighbours: int, rewiring: float) -> Tensor:
    """A small world between the two sides of a layer, after Watts & Strogatz 1998.

    Outputs and inputs are laid side by side around a ring. Each output has edges from its nearest inputs, and each of
    them is moved with a probability, to an input drawn from all that are not among the nearest. An edge of a nearest
    input is so there with probability 1 - rewiring, any other with rewiring neighbours / (inputs - neighbours): every
    output has as many edges as it has neighbours in the mean.

    Args:
        outputs: Units that edges go to.
        inputs: Units that they come from.
        neighbours: How many nearest inputs each output has an edge from; fewer than there are inputs.
        rewiring: Probability with which an edge is moved.

    Returns:
        `(out, in)`, float64: the probability of each edge. Equally near inputs are taken in their order.

    Raises:
        ValueError: If there are not more inputs than neighbours, or not enough others to move edges to.
    """
    if not 1 <= neighbours < inputs:
        raise ValueError(
            f"neighbours={neighbours} of a layer of {inputs} inputs: give at least 1 and fewer than there are inputs"
        )
    there = torch.arange(inputs, dtype=torch.float64) / inputs
    here = torch.arange(outputs, dtype=torch.float64) / outputs
    apart = (here[:, None] - there[None, :]).abs()
    apart = torch.minimum(apart, 1.0 - apart)
    # Rounded, so that what is equally near is so in floating point too.
    nearest = apart.mul(1e9).round().argsort(dim=1, stable=True)[:, :neighbours]
    far = rewiring * neighbours / (inputs - neighbours)
    if far >= 1.0:
        raise ValueError(
            f"{neighbours} neighbours of {inputs} inputs leave too few others to move a share of {rewiring:g} of the "
            "edges to: give fewer neighbours, or less rewiring"
        )
    found = torch.full((outputs, inputs), far, dtype=torch.float64)
    return found.scatter(1, nearest, 1.0 - rewiring)
