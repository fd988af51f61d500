"""When a training has stopped to improve on validation data."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Stalled"]


class Stalled:
    """Tells after each epoch whether training has stopped to improve.

    An epoch improves where the validation accuracy is above the best so far by `min_gain` and more (a gain of exactly
    nothing is none); of likelihoods without an accuracy where the nll, in nats an example, is as much below.

    Args:
        patience: Epochs in a row without improvement after which it is over.
        min_gain: The least gain, at least 0.
        before: Scores before the first epoch.
    """

    def __init__(self, patience: int, min_gain: float, before: Mapping[str, float]) -> None:
        self.patience, self.min_gain = patience, min_gain
        self.best, self.waited = self._score(before), 0

    @staticmethod
    def _score(scores: Mapping[str, float]) -> float:
        return scores["accuracy"] if "accuracy" in scores else -scores["nll"]

    def is_over(self, scores: Mapping[str, float]) -> bool:
        """Whether that was the last epoch.

        Args:
            scores: The validation scores after it.
        """
        gain = self._score(scores) - self.best
        if gain > 0.0 and gain >= self.min_gain:
            self.best, self.waited = self._score(scores), 0
        else:
            self.waited += 1
        return self.waited >= self.patience
