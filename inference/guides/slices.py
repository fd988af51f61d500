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

    Attributes:
        sites: The sites.
        sizes: Entries of each.
    """

    def __init__(self, sites: Iterable[Site]) -> None:
        self.sites = tuple(sites)
        self.sizes = [math.prod(site.shape) for site in self.sites]

    def cut(self, flat: Tensor) -> list[Tensor]:
        """Cuts a vector into tensors of the sites' shapes, by one `split`, whose gradient is one concatenation."""
        return [part.view(site.shape) for part, site in zip(flat.split(self.sizes), self.sites, strict=True)]

    def by_name(self, flat: Tensor) -> dict[str, Tensor]:
        """As `cut`, by name of site."""
        return {site.name: part for site, part in zip(self.sites, self.cut(flat), strict=True)}

    def slices(self, parameter: str) -> tuple[ParameterSlice, ...]:
        """The slices of a vector.

        Args:
            parameter: Its name.
        """
        sites = zip(self.sites, accumulate(self.sizes[:-1], initial=0), strict=True)
        return tuple(ParameterSlice(parameter, site, start, tuple(site.shape)) for site, start in sites)
