"""Pruning step by step, with training between the steps: what is pruned when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from bayesprune.inference.pruning.amounts import Amount, checked_per
from bayesprune.inference.pruning.criteria import Criterion
from bayesprune.models.checks.plain_numbers import plain_number
from bayesprune.models.checks.setting_types import checked_types
from bayesprune.models.costs.layer_shares import checked_share

__all__ = ["IterativePruning", "numbers_left"]

MOST = 1000
"""Steps."""


@dataclass(frozen=True)
class IterativePruning:
    """Prunes a network step by step, each of which `finetune` follows by a training (Han et al. 2015).

        dense = bp.prune(fit, sparsity=0)
        result = bp.finetune(dense, (x, y), epochs=2, pruning=bp.IterativePruning(down_to=0.1))

    The number in the end is exact: the last step takes what is left to take.

    Attributes:
        down_to: Weights that are left in the end of the tensors in question: a share of all there are, in (0, 1], or
            a number from 2 on.
        share: Fraction of what is left that goes in each step, in (0, 1); default None: 0.25, unless `count` is given.
        count: How many weights go in each step, in place of `share`; default None.
        per: As in `prune`: ``"network"`` (default), ``"layer"`` or ``"distribution"``.
        criterion: Name of a criterion of networks without a posterior, or a callable; default ``"magnitude"``.
        only: Names or shell patterns of the tensors in question; default None: all that have a mask.

    Raises:
        ValueError: If an argument is out of range, or both `share` and `count` are given.
    """

    down_to: float | int
    share: float | None = None
    count: int | None = None
    per: str = "network"
    criterion: str | Criterion = "magnitude"
    only: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        plain = {"share": self.share, "count": self.count, "per": self.per}
        for name, value in checked_types("IterativePruning", IterativePruning, plain).items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "down_to", checked_share(self.down_to, "IterativePruning(down_to=...)"))
        if self.share is not None and self.count is not None:
            raise ValueError("IterativePruning takes one of share= and count=: leave the other one out")
        if self.share is None and self.count is None:
            object.__setattr__(self, "share", 0.25)
        if self.share is not None and not 0.0 < plain_number(self.share) < 1.0:
            raise ValueError(
                f"IterativePruning(share=...) is the fraction of the weights left that goes in a step, in (0, 1), not "
                f"{self.share}"
            )
        Amount(share=self.share, count=self.count)
        checked_per(self.per)

    def steps(self, masks: Mapping[str, Tensor]) -> tuple[int, ...]:
        """How many weights of the tensors in question are left after each step.

        Args:
            masks: True where a weight is left, by name of those tensors.

        Raises:
            ValueError: If fewer are left than it is to come down to.
        """
        left, whole = (sum(int(one) for one in numbers) for numbers in _counted(masks))
        last = self.down_to if isinstance(self.down_to, int) else round(self.down_to * whole)
        if not 1 <= last <= left:
            raise ValueError(
                f"IterativePruning(down_to={self.down_to:g}) leaves {last:,} weights, but {left:,} of {whole:,} are "
                "left now: ask for at least one, and no more than there are"
            )
        return numbers_left(left, last, self.share, self.count)


def numbers_left(left: int, last: int, share: float | None = None, count: int | None = None) -> tuple[int, ...]:
    """The number of weights after each step, down to exactly the last one.

    Args:
        left: How many there are before the first step.
        last: How many in the end.
        share: Fraction of what is left that goes in a step; at least one weight goes.
        count: How many go in a step, where `share` is None.

    Raises:
        ValueError: If it takes more than 1,000 steps.
    """
    found: list[int] = []
    while left > last:
        goes = max(1, round(share * left)) if share is not None else int(count or 1)
        left = max(last, left - goes)
        found.append(left)
        if len(found) > MOST:
            raise ValueError(f"it takes more than {MOST} steps to come down to {last:,} weights: let more go in a step")
    return tuple(found)


def _counted(masks: Mapping[str, Tensor]) -> tuple[list[int], list[int]]:
    return [int(mask.sum()) for mask in masks.values()], [mask.numel() for mask in masks.values()]
