"""The collapse regime, said before training: fewer weights than channels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from bayesprune.models.costs.weights_per_channel import collapse_in_words

__all__ = ["CollapseWarning", "collapse_notes", "warn_of_collapse"]


class CollapseWarning(UserWarning):
    """A network is trained with fewer weights than channels; ``warnings.simplefilter("ignore", CollapseWarning)``."""


def warn_of_collapse(shapes: Mapping[str, tuple[int, ...]], counts: Mapping[str, int]) -> None:
    """Warns where a network as a whole has less than one weight a channel.

    Args:
        shapes: Shapes by name of tensor, `(out, in, ...)`.
        counts: Weights of each in the end.
    """
    found = collapse_in_words(shapes, counts)
    if found is not None and found[1]:
        warnings.warn(found[0], CollapseWarning, stacklevel=2)


def collapse_notes(shapes: Mapping[str, tuple[int, ...]], counts: Mapping[str, int]) -> list[str]:
    """The same as a note of a fit, and one where it is so of single layers only.

    Args:
        shapes: Shapes by name of tensor, `(out, in, ...)`.
        counts: Weights of each in the end.
    """
    found = collapse_in_words(shapes, counts)
    return [] if found is None else [found[0]]
