"""How many weights stay: a fraction of zeros, a share of what is left, or a number that goes, of some tensors."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from bayesprune.models.checks.listed_names import listed
from bayesprune.models.checks.plain_numbers import is_finite, plain_number
from bayesprune.models.checks.shown_values import shown
from bayesprune.models.costs.layer_shares import apportioned

__all__ = ["PER", "Amount", "checked_per", "matching"]

PER = ("network", "layer", "distribution")
"""Over what weights are ranked: the whole network, each tensor, or the network with scores over their tensor's sd."""


def checked_per(per: Any) -> str:
    """`per` where it is one of `PER`.

    Raises:
        ValueError: If not.
    """
    if per not in PER:
        raise ValueError(f"per= takes {', '.join(map(repr, PER[:-1]))} or {PER[-1]!r}, not {shown(per)}")
    return str(per)


def matching(only: str | Sequence[str] | None, names: Sequence[str]) -> tuple[str, ...]:
    """The tensors that patterns name, in their own order.

    Args:
        only: A name or shell pattern, or several; None: all.
        names: Names of the tensors that may be pruned.

    Raises:
        ValueError: If it is no text, or a pattern matches no tensor; close names are suggested.
    """
    if only is None:
        return tuple(names)
    patterns = [only] if isinstance(only, str) else list(only) if isinstance(only, Sequence) else []
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"only= takes names or shell patterns of tensors, such as '*.weight_hh*', not {shown(only)}")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
            meant = f"did you mean {listed(close)}?" if close else f"these are {listed(names)}"
            raise ValueError(f"only={shown(pattern)} matches no tensor that is pruned: {meant}")
    return tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


@dataclass(frozen=True)
class Amount:
    """How many weights stay, by one of three rules.

    Attributes:
        sparsity: Fraction of zeros to reach among all weights in question, in [0, 1).
        share: Fraction of the weights that are left which goes, in (0, 1].
        count: How many weights go.

    Raises:
        ValueError: If one is out of range.
    """

    sparsity: float | None = None
    share: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        for name in ("sparsity", "share", "count"):
            object.__setattr__(self, name, plain_number(getattr(self, name)))
        if self.sparsity is not None and not (_is_number(self.sparsity) and 0.0 <= self.sparsity < 1.0):
            raise ValueError(f"sparsity is a fraction of zeros in [0, 1), not {shown(self.sparsity)}")
        if self.share is not None and not (_is_number(self.share) and 0.0 < self.share <= 1.0):
            raise ValueError(
                f"share= is the fraction of the weights left that goes, in (0, 1], not {shown(self.share)}"
            )
        if self.count is not None:
            if not _is_number(self.count) or self.count < 1 or not float(self.count).is_integer():
                raise ValueError(f"count= is the number of weights that go, at least 1, not {shown(self.count)}")
            object.__setattr__(self, "count", int(self.count))

    @property
    def words(self) -> str:
        """The rule in words."""
        if self.sparsity is not None:
            return f"sparsity {self.sparsity:g}"
        return f"share {self.share:g} of what was left" if self.share is not None else f"{self.count:,} fewer weights"

    def kept(self, left: Mapping[str, int], sizes: Mapping[str, int], per: str) -> dict[str, int] | int:
        """How many weights stay, in all or of each tensor.

        Args:
            left: Weights that are left, by name of tensor.
            sizes: Weights that there are, zeros among them.
            per: ``"layer"`` for numbers by name of tensor, else one for all; a `count` is then spread over the tensors
                in proportion to what is left of them.

        Returns:
            The number, or the numbers by name.

        Raises:
            ValueError: If nothing would stay, of all or of a tensor by itself, or more than is left.
        """
        if per != "layer":
            return self._of_one(sum(left.values()), sum(sizes.values()), listed(list(left)))
        if self.count is None:
            return {name: self._of_one(left[name], sizes[name], name) for name in left}
        total = self._of_one(sum(left.values()), sum(sizes.values()), listed(list(left)))
        there = {name: count for name, count in left.items() if count > 0}
        if total < len(there):
            raise ValueError(
                f"{self.words} leave {total:,} in {len(there)} tensors, of which each keeps one at least with "
                "per='layer': ask for fewer, or use per='network'"
            )
        stay = {name: count * total / sum(left.values()) for name, count in there.items()}
        return {**dict.fromkeys(left, 0), **apportioned(stay, there, total)}

    def _of_one(self, left: int, size: int, name: str) -> int:
        if self.sparsity is not None:
            kept = size - round(self.sparsity * size)
        else:
            kept = left - (round(self.share * left) if self.share is not None else int(self.count or 0))
        if kept <= 0:
            verb = "leave" if self.count is not None else "leaves"
            one = f": ask for less; count={left - 1} leaves one" if left > 1 else ": leave it out"
            raise ValueError(f"{self.words} {verb} none of the {left:,} weights of {name}{one}")
        if kept > left:
            raise ValueError(
                f"{left:,} of {size:,} weights of {name} are left, fewer than the {kept:,} that sparsity "
                f"{self.sparsity:g} keeps: ask for more, or say share= or count= of what is left"
            )
        return kept


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and is_finite(value)
