"""How weights are ranked, and how many of them stay: what `prune` is asked for, of a fit and of a pruned network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bayesprune.inference.data.batches import Data
from bayesprune.inference.masks.spread import over_spread
from bayesprune.inference.pruning.amounts import Amount, checked_per
from bayesprune.inference.pruning.criteria import Criterion
from bayesprune.inference.pruning.masks import keep_left

__all__ = ["Ranking"]


@dataclass(frozen=True)
class Ranking:
    """What is asked for; see the arguments of `prune`.

    Attributes:
        amount: How many weights stay; None where `min_score` or `budget` says so.
        per: Over what weights are ranked, one of `PER`.
        criterion: By what.
        only: Patterns of the tensors in question; None: all.
        min_score: The score above which weights stay.
        budget: How many weights stay, as a budget.
        data: Examples for criteria that look at some.
        seed: For criteria that draw numbers.
    """

    amount: Amount | None = None
    per: str = "network"
    criterion: str | Criterion | None = None
    only: str | Sequence[str] | None = None
    min_score: float | None = None
    budget: Any = None
    data: Data | None = None
    seed: int = 0

    @classmethod
    def of(
        cls,
        sparsity: float | None = None,
        share: float | None = None,
        count: int | None = None,
        per: str = "network",
        **others: Any,
    ) -> Ranking:
        """Makes it of the arguments of `prune` by name.

        Args:
            sparsity: Fraction of zeros to reach.
            share: Fraction of what is left that goes.
            count: How many weights go.
            per: Over what weights are ranked.
            **others: The other attributes.

        Raises:
            ValueError: If one of these is out of range.
        """
        has_amount = any(one is not None for one in (sparsity, share, count))
        return cls(Amount(sparsity, share, count) if has_amount else None, checked_per(per), **others)

    @property
    def is_of_what_is_left(self) -> bool:
        """Whether it can be said of the weights that are left alone."""
        is_new = self.amount is not None and self.amount.sparsity is None
        return is_new or self.per == "distribution" or self.only is not None

    @property
    def says_nothing(self) -> bool:
        """Whether it does not say how many weights stay."""
        return self.amount is None and self.min_score is None and self.budget is None

    @property
    def where(self) -> str:
        """Over what is ranked, in words."""
        patterns = [self.only] if isinstance(self.only, str) else list(self.only or ())
        named = "".join(letter if letter.isprintable() else "?" for letter in ", ".join(patterns))
        return f"per {self.per}" + (f" of {named}" if named else "")

    def check_budget(self) -> None:
        """Refuses what a budget says itself.

        Raises:
            ValueError: If `per` or `only` are given beside it.
        """
        if self.per != "network":
            raise ValueError(
                f"per={self.per!r} is about where a sparsity is reached, which budget= says itself: "
                + ("give LayerBudget.uniform(...)" if self.per == "layer" else "give sparsity=, share= or count=")
            )
        if self.only is not None:
            raise ValueError("a budget by layer names its tensors itself: leave only= out, or give sparsity= with it")

    def kept(
        self,
        name: str,
        scores: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        left: Mapping[str, Tensor],
        least: float | None = None,
    ) -> tuple[dict[str, Tensor], str]:
        """Which of the weights that are left stay, and the rule in words.

        Args:
            name: Name of the criterion.
            scores: Its scores, by name of tensor, `(out, in, ...)`.
            weights: The weights with their signs.
            left: True where one is left.
            least: The score above which they stay; None where an amount is given.

        Raises:
            ValueError: If nothing would stay.
        """
        if self.amount is None:
            assert least is not None
            words = self.where.removeprefix(f"per {self.per}")
            return {key: left[key] & (score > least) for key, score in scores.items()}, f"score > {least:g}{words}"
        counts = {key: int(there.sum()) for key, there in left.items()}
        stay = self.amount.kept(counts, {key: there.numel() for key, there in left.items()}, self.per)
        if self.per == "distribution":
            scores = over_spread(scores, left, weights if name == "magnitude" else scores)
        return keep_left(scores, left, stay), f"{self.amount.words} {self.where}"
