"""Likelihoods of labels: of one in several classes, and of 0 and 1."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional as F

from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.likelihoods.observation_checks import check_one_output, check_shape, wide, without_single_column

__all__ = ["Bernoulli", "BernoulliLabels", "Categorical"]


class BernoulliLabels(dist.Bernoulli):
    """Pyro's Bernoulli that also takes integer and boolean observations, which PyTorch's refuses."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of labels 0 and 1 of any dtype, in nats."""
        return super().log_prob(value.to(self._param.dtype))


class _SmoothedCategorical(dist.Categorical):
    """Pyro's Categorical whose log probability is that of smoothed labels; it is drawn from as without."""

    smoothing = 0.0

    @staticmethod
    def of(logits: Tensor, smoothing: float) -> _SmoothedCategorical:
        """With these logits, `(N, classes)`, and this smoothing."""
        made = _SmoothedCategorical(logits=logits)
        made.smoothing = smoothing
        return made

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Of another batch shape, as smooth."""
        made = super().expand(batch_shape, _instance)
        made.smoothing = self.smoothing
        return made

    def log_prob(self, value: Tensor) -> Tensor:
        """(1 - smoothing) log p(value) + smoothing times the mean of all classes' log p, in nats."""
        return (1.0 - self.smoothing) * super().log_prob(value) + self.smoothing * self.logits.mean(dim=-1)


class Categorical(Likelihood):
    """Labels 0..classes-1; the outputs are logits `(N, classes)`, the observations integers `(N,)`.

    With `label_smoothing` a, the log probability is (1 - a) log p(label) + a / classes times the sum of all log p
    (Szegedy et al. 2016), minus `torch.nn.functional.cross_entropy` with that argument. It is no likelihood any more
    but a tempered one times a factor of the outputs that draws them together: it does not sum to one over labels. So
    it is what is trained by, and what the ELBO and leave-one-out are of; scores (`nll`, `accuracy`) and predictions
    are those of the plain likelihood, `scored`, and are compared with those of any other fit.

    Args:
        label_smoothing: Share a of each label that is spread evenly over all classes, in [0, 1); default 0.

    Raises:
        ValueError: If it is out of range.
    """

    name = "categorical"
    is_labels = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = float(label_smoothing)
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(
                f"Categorical(label_smoothing=...) is a share of each label in [0, 1), not {self.label_smoothing:g}: "
                "0.1 is usual"
            )

    def distribution(self, outputs: Tensor) -> dist.Categorical:
        """Pyro's Categorical over classes, `batch_shape` `(N,)`."""
        if self.label_smoothing:
            return _SmoothedCategorical.of(wide(outputs), self.label_smoothing)
        return dist.Categorical(logits=wide(outputs))

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Minus the cross-entropy of each example, `(N,)`, in nats."""
        return -F.cross_entropy(wide(outputs), y.long(), reduction="none", label_smoothing=self.label_smoothing)

    @property
    def scored(self) -> Categorical:
        """That without smoothing."""
        return Categorical() if self.label_smoothing else self

    def config(self) -> dict[str, Any]:
        """The name, and the smoothing where there is one."""
        return super().config() | ({"label_smoothing": self.label_smoothing} if self.label_smoothing else {})

    def predict(self, outputs: Tensor) -> Tensor:
        """Probabilities of the classes, `(N, classes)`."""
        return wide(outputs).softmax(dim=-1)

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Asks for logits `(N, classes)` and integer labels `(N,)` in 0..classes-1.

        Raises:
            ValueError: In one sentence.
        """
        if outputs.ndim != 2:
            raise ValueError(
                f"the network returns shape {tuple(outputs.shape)}, but Categorical needs logits "
                "(N, classes): let the last layer have one output per class"
            )
        if y.dtype == torch.bool or y.is_floating_point() or y.is_complex():
            raise ValueError(
                f"labels have dtype {y.dtype}, but Categorical needs integers: pass y.long(), or a Normal "
                "likelihood for a regression"
            )
        check_shape(self, outputs, y, expected=outputs.shape[:1])
        classes = outputs.shape[1]
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels run from {low} to {high}, but the network has {classes} outputs: labels must lie in "
                f"0..{classes - 1}"
            )

    def scores(self, mean_prediction: Tensor, y: Tensor) -> dict[str, float]:
        """The key `accuracy`: fraction of examples whose most probable class is the label.

        Raises:
            ValueError: If the shapes do not fit.
        """
        check_shape(self, mean_prediction, y, expected=mean_prediction.shape[:1])
        return {"accuracy": float((mean_prediction.argmax(dim=-1) == y).double().mean())}


class Bernoulli(Likelihood):
    """Labels 0 and 1; the outputs are logits of label 1, `(N,)` or `(N, 1)`, the observations `(N,)`."""

    name = "bernoulli"
    is_labels = True

    def distribution(self, outputs: Tensor) -> BernoulliLabels:
        """Pyro's Bernoulli, `batch_shape` `(N,)`."""
        return BernoulliLabels(logits=without_single_column(wide(outputs)))

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Minus the binary cross-entropy of each example, `(N,)`, in nats."""
        logits = without_single_column(wide(outputs))
        return -F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction="none")

    def predict(self, outputs: Tensor) -> Tensor:
        """Probability of label 1, `(N,)`."""
        return without_single_column(wide(outputs)).sigmoid()

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Asks for logits `(N,)` or `(N, 1)` and observations `(N,)` that are 0 or 1, of any dtype.

        Raises:
            ValueError: In one sentence.
        """
        check_one_output(self, outputs, y)
        if not bool(((y == 0) | (y == 1)).all()):
            raise ValueError(
                f"labels run from {y.min().item()} to {y.max().item()}, but Bernoulli needs 0 or 1: "
                "use Categorical for more classes"
            )

    def scores(self, mean_prediction: Tensor, y: Tensor) -> dict[str, float]:
        """The key `accuracy`: fraction of examples where a probability above 0.5 goes with label 1.

        Raises:
            ValueError: If the shapes do not fit.
        """
        check_shape(self, mean_prediction, y, expected=mean_prediction.shape)
        return {"accuracy": float(((mean_prediction > 0.5) == (y == 1)).double().mean())}
