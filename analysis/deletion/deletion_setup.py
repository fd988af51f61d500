"""What both studies of deletions are asked for alike, checked and made ready: groups, scores, network, examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from bayesprune.analysis.deletion.deletions import (
    PRECISIONS,
    Array,
    Scores,
    base_network,
    check_choices,
    checked_examples,
    deletion_differences,
    group_numbers,
    losses_of,
    scores_by_weight,
    selected_priors,
)
from bayesprune.inference.fit_result import Fit
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["DeletionSetup"]


@dataclass(frozen=True)
class DeletionSetup:
    """What is deleted from, and on what examples it is measured.

    Attributes:
        groups: Number of the group of each weight, by tensor, `(out, in, ...)`.
        by_weight: Score of each weight, alike.
        score: What the score is, in words.
        kind: Kind of the inclusion event if the score is an inclusion probability, else None.
        model: The base network.
        x: Held-out inputs.
        y: Held-out targets.
        batch_size: Examples a forward pass.
        inputs: Training inputs on which statistics of batch normalisation are estimated after each deletion, or None.
    """

    groups: dict[str, Array]
    by_weight: dict[str, Array]
    score: str
    kind: str | None
    model: BayesianNetwork
    x: Tensor
    y: Tensor
    batch_size: int
    inputs: Tensor | None

    @classmethod
    def of(
        cls,
        fit: Fit,
        data: tuple[Tensor, Tensor],
        per: str,
        scores: Scores | None,
        tensors: str | Sequence[str] | None,
        restart: int,
        base: str,
        batch_size: int,
        precision: str,
    ) -> DeletionSetup:
        """Makes it of the arguments of `deletion_calibration`, which says what they are.

        Raises:
            ValueError: As `deletion_calibration`.
        """
        check_choices(per, base, precision)
        priors = selected_priors(fit.restart(restart).model.priors, tensors)
        groups = {name: group_numbers(prior, per) for name, prior in priors.items()}
        by_weight, what, kind = scores_by_weight(fit, restart, priors, scores)
        model = base_network(fit, restart, base, PRECISIONS[precision])
        return cls(groups, by_weight, what, kind, model, *checked_examples(model, data), batch_size, fit.inputs)

    def losses(self) -> Array:
        """Loss of every held-out example without any deletion, in nats, `(n,)`."""
        return losses_of(self.model, self.x, self.y, self.batch_size)

    def differences(self, before: Array, masks: Iterable[Mapping[str, Array]]) -> Iterator[Array]:
        """What each deletion changes in the loss of each example: after minus before, `(n,)`, nats.

        Args:
            before: Of `losses`.
            masks: For each deletion what it deletes, boolean by tensor, `(out, in, ...)`.

        Raises:
            ValueError: If a loss is not finite.
        """
        return deletion_differences(self.model, self.x, self.y, before, masks, self.batch_size, self.inputs)
