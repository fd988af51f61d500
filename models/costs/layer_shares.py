"""Shares of layers: how many weights each tensor keeps of a total, uniform or Erdos-Renyi-kernel, in whole numbers.

Sources: Mocanu et al. 2018 (Erdos-Renyi), Evci et al. 2020 ("Rigging the lottery", appendix: the kernel form).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from bayesprune.models.checks.plain_numbers import is_finite, plain_number
from bayesprune.models.checks.shown_values import shown

__all__ = ["apportioned", "checked_share", "erk_counts", "total_of", "uniform_counts"]

SHARE = "a share in (0, 1] or a whole number of weights from 2 on"


def checked_share(value: object, subject: str) -> float | int:
    """A share in (0, 1], of which 1 is all of them, or a whole number of weights, from 2 on.

    Args:
        value: What was given.
        subject: What it is of, the beginning of the sentence.

    Raises:
        ValueError: If it is neither.
    """
    number = plain_number(value)
    if isinstance(number, (int, float)) and not isinstance(number, bool) and is_finite(number):
        if 0.0 < number <= 1.0:
            return float(number)
        if 2 <= number < 2**63 and float(number).is_integer():
            return int(number)
    raise ValueError(f"{subject} is {SHARE}, not {shown(number)}")


def total_of(density: object, sizes: Mapping[str, int]) -> int:
    """How many weights a density leaves in all.

    Args:
        density: A share or a number.
        sizes: Weights of each tensor.

    Raises:
        ValueError: If it is neither, more than there are, or fewer than one a tensor.
    """
    asked, whole = checked_share(density, "the density of a budget"), sum(sizes.values())
    total = asked if isinstance(asked, int) else round(asked * whole)
    if not len(sizes) <= total <= whole:
        raise ValueError(
            f"a budget of {total:,} weights does not go into {len(sizes)} tensors of {whole:,} weights in all, of "
            f"which each keeps one at least: give a density from {len(sizes) / whole:.3g} to 1"
        )
    return total


def uniform_counts(shapes: Mapping[str, tuple[int, ...]], density: object) -> dict[str, int]:
    """The same density for every tensor, to a weight; the total is exact.

    Args:
        shapes: Shapes of the tensors by name.
        density: A share or number of all their weights.

    Raises:
        ValueError: As `total_of`.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    total = total_of(density, sizes)
    share = total / sum(sizes.values())
    return apportioned({name: share * size for name, size in sizes.items()}, sizes, total)


def erk_counts(shapes: Mapping[str, tuple[int, ...]], density: object) -> dict[str, int]:
    """Erdos-Renyi-kernel: each tensor's density proportional to (sum of its dimensions) / (product of its dimensions).

    A tensor that would keep more than all of its weights keeps all, and the others share the rest; the total is exact.
    Tensors of two dimensions have Erdos-Renyi's density, (in + out) / (in out).

    Args:
        shapes: Shapes of the tensors by name, `(out, in, ...)`.
        density: A share or number of all their weights.

    Raises:
        ValueError: As `total_of`.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    total = total_of(density, sizes)
    dense: set[str] = set()
    while True:
        others = [name for name in shapes if name not in dense]
        rest = total - sum(sizes[name] for name in dense)
        factor = rest / sum(sum(shapes[name]) for name in others) if others else 0.0
        full = {name for name in others if factor * sum(shapes[name]) > sizes[name]}
        if not full:
            break
        dense |= full  # the factor of the others only grows with it, so none of these comes back
    wanted = {name: float(sizes[name]) if name in dense else factor * sum(shapes[name]) for name in shapes}
    return apportioned(wanted, sizes, total)


def apportioned(wanted: Mapping[str, float], sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Whole numbers of that sum, from 1 to the sizes: rounded down, and up by one where the remainder is largest.

    Args:
        wanted: Numbers to be rounded, by name of tensor.
        sizes: Weights of each tensor.
        total: The sum, from one a tensor to all of them.
    """
    counts = {name: min(max(1, math.floor(one)), sizes[name]) for name, one in wanted.items()}
    while (missing := total - sum(counts.values())) != 0:
        step = 1 if missing > 0 else -1
        free = [name for name in counts if 1 <= counts[name] + step <= sizes[name]]
        free.sort(key=lambda name: step * (counts[name] - wanted[name]))
        for name in free[: abs(missing)]:
            counts[name] += step
    return counts
