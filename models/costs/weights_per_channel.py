"""Weights per channel, the factor of Erdos-Renyi-kernel: below 1 a network has fewer weights than channels.

Erdos-Renyi-kernel (Evci et al. 2020) gives a tensor epsilon (n_in + n_out + k_h + k_w) weights. Whatever the layout,
the same quotient says how many weights there are for a channel to be read or written by; where it is below 1 most
channels of a layer have none, and no choice of weights makes up for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from bayesprune.models.checks.listed_names import listed

__all__ = ["collapse_in_words", "weights_per_channel"]

COLLAPSE = 1.0
"""Weights per channel below which a network, or a layer, is in the collapse regime."""


def weights_per_channel(shapes: Mapping[str, tuple[int, ...]], counts: Mapping[str, int]) -> dict[str, float]:
    """Active weights over the sum of the dimensions, by name of tensor.

    Of several tensors together it is the sum of the counts over the sum of all dimensions, `sum(counts.values()) /
    sum(sum(shape) for shape in shapes.values())`, and with the counts of Erdos-Renyi-kernel the same for each, but for
    tensors that keep all of their weights.

    Args:
        shapes: Shapes by name of tensor, `(out, in, ...)`.
        counts: Weights that are in, by name.
    """
    return {name: count / sum(shapes[name]) for name, count in counts.items()}


def collapse_in_words(shapes: Mapping[str, tuple[int, ...]], counts: Mapping[str, int]) -> tuple[str, bool] | None:
    """What to say, before anything is trained, of a network or layers with fewer weights than channels.

    Tensors that keep all of their weights are not counted: they lack none.

    Args:
        shapes: Shapes by name of tensor, `(out, in, ...)`.
        counts: Weights that are in, by name.

    Returns:
        A sentence, and whether it is about the network as a whole; None where there is nothing to say.
    """
    whole = sum(counts.values()) / sum(sum(shapes[name]) for name in counts)
    each = weights_per_channel(shapes, counts)
    low = [name for name in counts if each[name] < COLLAPSE and counts[name] < math.prod(shapes[name])]
    if not low:
        return None
    if whole < COLLAPSE:
        return (
            f"this is the collapse regime: {sum(counts.values()):,} weights are {whole:.2g} a channel (over the sum of "
            "all dimensions, ERK's epsilon), and below 1 most channels have none: take a density above "
            f"{_enough(shapes):.2g}, a narrower network, or blocks that share their weights",
            True,
        )
    worst = [f"{name} ({each[name]:.2g} a channel)" for name in sorted(low, key=lambda name: each[name])]
    return (
        f"there are fewer weights than channels in {listed(worst)}: most channels there have none: take layout='erk', "
        "or give these tensors more in a budget by layer",
        False,
    )


def _enough(shapes: Mapping[str, tuple[int, ...]]) -> float:
    """The density at which there is one weight a channel."""
    return sum(sum(shape) for shape in shapes.values()) / sum(math.prod(shape) for shape in shapes.values())
