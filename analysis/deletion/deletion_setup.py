"""What both studies of deletions are asked for alike, checked and made ready: groups, scores, network, examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bayesprune.analysis.deletion.deletions import (
    PRECISIONS,
    Array,
    check_choices,
    checked_examples,
    deletion_differences,
    losses_of,
)
from bayesprune.analysis.deletion.predictors import Predictor, predictors_of
from bayesprune.inference.data.batches import Data
from bayesprune.inference.data.kept_inputs import evenly_spaced
from bayesprune.inference.deletion.what_is_deleted import base_network, base_weights, group_numbers, selected_priors
from bayesprune.inference.fit_result import Fit
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["DeletionSetup", "Examples"]

Examples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class DeletionSetup:
    """What is deleted from, and on what examples it is measured.

    Attributes:
        groups: Number of the group of each weight, by tensor, `(out, in, ...)`.
        predictors: Scores of the groups, by name; the first says what is sampled.
        model: The base network.
        held_out: Held-out `(x, y)`.
        elsewhere: Other `(x, y)`, on which the same deletions are measured for the ceiling; None: none.
        batch_size: Examples a forward pass.
        inputs: Training inputs on which statistics of batch normalisation are estimated after each deletion, or None.
    """

    groups: dict[str, Array]
    predictors: dict[str, Predictor]
    model: BayesianNetwork
    held_out: Examples
    elsewhere: Examples | None
    batch_size: int
    inputs: Tensor | None

    @classmethod
    def of(
        cls,
        fit: Fit,
        data: Examples,
        per: str,
        scores: Any,
        tensors: str | Sequence[str] | None,
        restart: int,
        base: str,
        batch_size: int,
        precision: str,
        train: Data | None,
        ceiling: Examples | int | None,
    ) -> DeletionSetup:
        """Makes it of the arguments of `deletion_calibration`, which says what they are.

        Raises:
            ValueError: As `deletion_calibration`.
        """
        check_choices(per, base, precision)
        priors = selected_priors(fit.restart(restart).model.priors, tensors)
        groups = {name: group_numbers(prior, per) for name, prior in priors.items()}
        model = base_network(fit, restart, base_weights(fit, restart, base), PRECISIONS[precision])
        held_out = checked_examples(model, data)
        elsewhere = None if ceiling is None else checked_examples(model, _others(fit, ceiling))
        found = predictors_of(fit, restart, priors, groups, scores, per, base, train)
        return cls(groups, found, model, held_out, elsewhere, batch_size, fit.inputs)

    @property
    def first(self) -> Predictor:
        """The score that says what is sampled, and that reliability is about."""
        return next(iter(self.predictors.values()))

    def losses(self, examples: Examples | None = None) -> Array:
        """Loss of every example without any deletion, in nats, `(n,)`.

        Args:
            examples: Which `(x, y)`; default None: those held out.
        """
        return losses_of(self.model, *(examples or self.held_out), self.batch_size)

    def differences(
        self, before: Array, masks: Iterable[Mapping[str, Array]], examples: Examples | None = None
    ) -> Iterator[Array]:
        """What each deletion changes in the loss of each example: after minus before, `(n,)`, nats.

        Args:
            before: Of `losses`.
            masks: For each deletion what it deletes, boolean by tensor, `(out, in, ...)`.
            examples: Which `(x, y)`; default None: those held out.

        Raises:
            ValueError: If a loss is not finite.
        """
        x, y = examples or self.held_out
        return deletion_differences(self.model, x, y, before, masks, self.batch_size, self.inputs)

    def means_elsewhere(self, masks: Iterable[Mapping[str, Array]]) -> list[float]:
        """Mean change of the loss on the other examples, of each deletion, nats an example."""
        assert self.elsewhere is not None
        before = self.losses(self.elsewhere)
        return [float(one.mean()) for one in self.differences(before, masks, self.elsewhere)]


def _others(fit: Fit, ceiling: Examples | int) -> Examples:
    """The examples on which the ceiling is measured.

    Raises:
        ValueError: If the fit does not keep so many.
    """
    if not isinstance(ceiling, int):
        return ceiling
    kept = 0 if fit.examples is None else len(fit.examples[0])
    if not 2 <= ceiling <= kept:
        raise ValueError(
            f"ceiling={ceiling} takes so many of the training examples that the fit keeps, from 2 to {kept}: "
            "pass ceiling=(x, y)"
        )
    assert fit.examples is not None
    x, y = fit.examples
    return evenly_spaced(x, ceiling), evenly_spaced(y, ceiling)
