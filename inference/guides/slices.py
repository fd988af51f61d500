"""Which slice of a guide's flat vector is which site's: the one place that says it.

It is asked by the draws of a step, by the graph of the objective, by the transfer to fewer units and by what the trace
records; an optimizer's state of a vector, and its gradient, are laid out like the vector itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from bayesprune.models.language.tensor_prior import Site

__all__ = ["Layout", "ParameterSlice"]


@dataclass(frozen=True)
class ParameterSlice:
    """The slice of a flat vector that belongs to one site.

    Attributes:
        parameter: Name of the vector in its family.
        site: The site.
        start: First entry.
        shape: Shape of the piece.
    """

    parameter: str
    site: Site
    start: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    def of(self, flat: Tensor) -> Tensor:
        """The piece of a tensor laid out like the vector (itself, its gradient, an optimizer's state), a view."""
        return flat[self.start : self.start + self.size].view(self.shape)


class Layout:
    """Sites one after the other in a flat vector.

    Args:
        sites: The sites, in order.
        numbers: Shape of what there is for each entry of a site; default `()`: one number.

    Attributes:
        sites: The sites.
        shapes: Shape of the piece of each: the site's, and after it `numbers`.
        sizes: Numbers in it.
    """

    def __init__(self, sites: Iterable[Site], numbers: tuple[int, ...] = ()) -> None:
        self.sites = tuple(sites)
        self.shapes = [(*site.shape, *numbers) for site in self.sites]
        self.sizes = [math.prod(shape) for shape in self.shapes]

    def cut(self, flat: Tensor) -> list[Tensor]:
        """Cuts a vector into the sites' pieces, by one `split`, whose gradient is one concatenation."""
        return [part.view(shape) for part, shape in zip(flat.split(self.sizes), self.shapes, strict=True)]

    def by_name(self, flat: Tensor) -> dict[str, Tensor]:
        """As `cut`, by name of site."""
        return {site.name: part for site, part in zip(self.sites, self.cut(flat), strict=True)}

    def slices(self, parameter: str) -> tuple[ParameterSlice, ...]:
        """The slices of a vector.

        Args:
            parameter: Its name.
        """
        pieces = zip(self.sites, accumulate(self.sizes[:-1], initial=0), self.shapes, strict=True)
        return tuple(ParameterSlice(parameter, site, start, shape) for site, start, shape in pieces)
