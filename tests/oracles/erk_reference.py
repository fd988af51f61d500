"""Erdos-Renyi-kernel densities from the formula of the paper alone, without its loop over layers that are full.

Evci et al. 2020: a layer's density is proportional to (n_in + n_out + w + h) / (n_in n_out w h), no layer has more than
all of its weights, and the total is as asked. So it is min(1, e r_l) for one number e, which bisection finds: the total
grows with e.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

__all__ = ["erk_densities"]


def erk_densities(shapes: Mapping[str, tuple[int, ...]], total: int, halvings: int = 200) -> dict[str, float]:
    """Densities by name, not rounded to whole weights.

    Args:
        shapes: Shapes by name.
        total: Weights that are left in all.
        halvings: Of the interval of e.
    """
    sizes, rates = {}, {}
    for name, shape in shapes.items():
        size = 1
        for extent in shape:
            size *= extent
        sizes[name], rates[name] = size, Fraction(sum(shape), size)

    def kept(e: Fraction) -> Fraction:
        return sum((min(Fraction(1), e * rates[name]) * sizes[name] for name in shapes), Fraction(0))

    low, high = Fraction(0), max(1 / rate for rate in rates.values())  # all are full there
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) < total else (low, middle)
    return {name: float(min(Fraction(1), high * rates[name])) for name in shapes}
