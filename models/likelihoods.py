"""What a network's outputs mean: the distribution of one observation given the outputs for it.

Likelihoods are modules, because one of them may own a parameter (`Normal()` learns its scale). All log
probabilities are in nats, one number per example; scaling to all the data is the model's business.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesprune.models.likelihood_names import likelihood_class

__all__ = ["Bernoulli", "Categorical", "Likelihood", "Normal", "Poisson"]


class BernoulliLabels(dist.Bernoulli):
    """Pyro's Bernoulli that also takes integer and boolean observations, which PyTorch's refuses."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of labels 0 and 1 of any dtype, in nats."""
        return super().log_prob(value.to(self._param.dtype))


class PoissonCounts(dist.Poisson):
    """Pyro's Poisson with `log k!` in the dtype of the rate; PyTorch's is float32 for integer counts."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of counts of any dtype, in nats."""
        return super().log_prob(value.to(self.rate.dtype))

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of at most that count; 0 below zero."""
        count = value.to(self.rate.dtype).floor()
        below = torch.special.gammaincc(count.clamp_min(0.0) + 1.0, self.rate)
        return torch.where(count < 0, 0.0, below)


class Likelihood(nn.Module, ABC):
    """Base of the likelihoods: what `BayesianNetwork` and `fit` ask of one.

    Five methods have to be written; the others say by default that there is nothing to do. See docs/extending.md.

    Attributes:
        name: Name in summaries and in saved fits.
        is_ordered: Whether observations are numbers, of which there are intervals; default False: labels.
        is_labels: Whether observations are labels, whose entropy is all that can be gained; default False.
    """

    name: ClassVar[str]
    is_ordered: ClassVar[bool] = False
    is_labels: ClassVar[bool] = False

    @abstractmethod
    def distribution(self, outputs: Tensor) -> Any:
        """Pyro distribution of the observations, with `batch_shape` `(N,)`.

        Args:
            outputs: Outputs of the network, `(N, ...)`.
        """

    @abstractmethod
    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Log probability of each observation, `(N,)`, in nats: `distribution(outputs).log_prob(y)`, faster.

        Args:
            outputs: Outputs of the network, `(N, ...)`.
            y: Observations in the form that `check` accepts.
        """

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """Mean of the observation given the outputs: probabilities `(N, classes)` for labels, else like `y`.

        Means of several draws may be averaged; outputs may not.

        Args:
            outputs: Outputs of the network, `(N, ...)`.
        """

    @abstractmethod
    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Refuses outputs and observations that do not fit each other, before training starts.

        Args:
            outputs: Outputs of the network, `(N, ...)`.
            y: Observations.

        Raises:
            ValueError: In one sentence.
        """

    @abstractmethod
    def scores(self, mean_prediction: Tensor, y: Tensor) -> dict[str, float]:
        """How good predictions are, by name of the score.

        Args:
            mean_prediction: What `predict` returns, possibly averaged over draws.
            y: Observations in the form that `check` accepts.
        """

    @classmethod
    def outputs_for(cls, targets: int) -> int:
        """How many outputs of a network so many numbers to predict take: as many."""
        return targets

    @property
    def learns_noise(self) -> bool:
        """Whether targets are real numbers with noise of an unknown scale, so that `fit` standardises by default."""
        return False

    def in_units(self, shift: Tensor, unit: Tensor) -> tuple[Tensor, Tensor] | None:
        """How outputs for standardised targets are put back into the targets' own units: shift + factor * outputs.

        Args:
            shift: Means of the targets, `()` or `(d,)`.
            unit: Their standard deviations, of that shape.

        Returns:
            Shift and factor, which broadcast to outputs `(N, ...)`; None where targets have no units, as labels have.
        """
        return None

    def begin_noise(self, sd: float) -> None:
        """Starts a learned scale of the noise at a standard deviation, IN PLACE, if it was not started by the user."""

    def config(self) -> dict[str, Any]:
        """What it takes to make this likelihood again, as JSON; learned values are in the state dict."""
        return {"name": self.name}

    def learned_config(self) -> dict[str, Any]:
        """As `config`, with what was learned as fixed arguments."""
        return self.config()

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Likelihood:
        """Makes a likelihood from what `config` returned.

        Args:
            config: The name and the arguments.

        Raises:
            ValueError: If the name or an argument is unknown.
        """
        if not isinstance(config, Mapping):
            raise ValueError(f"a likelihood is stored by its name and arguments, not as a {type(config).__name__}")
        arguments = dict(config)
        name = arguments.pop("name", None)
        kind = likelihood_class(name)
        try:
            return kind(**arguments)
        except (TypeError, OverflowError):
            raise ValueError(
                f"the likelihood {name!r} does not take the arguments {sorted(arguments)}: "
                "use what its config() returned"
            ) from None

    def extra_repr(self) -> str:
        """The arguments, for printing."""
        return ", ".join(f"{key}={value}" for key, value in self.config().items() if key != "name")


class Categorical(Likelihood):
    """Labels 0..classes-1; the outputs are logits `(N, classes)`, the observations integers `(N,)`."""

    name = "categorical"
    is_labels = True

    def distribution(self, outputs: Tensor) -> dist.Categorical:
        """Pyro's Categorical over classes, `batch_shape` `(N,)`."""
        return dist.Categorical(logits=wide(outputs))

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Minus the cross-entropy of each example, `(N,)`, in nats."""
        return -F.cross_entropy(wide(outputs), y.long(), reduction="none")

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


class Normal(Likelihood):
    """Real numbers with Gaussian noise of one scale; the outputs are the means.

    Outputs `(N,)` or `(N, 1)` go with observations `(N,)`; outputs `(N, d)` with observations `(N, d)`, of
    which each row is one event.

    Args:
        scale: Standard deviation of the noise in the units of the observations; None learns it as a positive
            point estimate that starts at 1, or where `fit` standardises at the standard deviation of the targets.

    Attributes:
        log_scale: The learned log scale, a scalar parameter; None where the scale is fixed.

    Raises:
        ValueError: If the scale is not a positive finite number.
    """

    name = "normal"
    is_ordered = True

    def __init__(self, scale: float | None = None) -> None:
        super().__init__()
        if scale is not None and not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale is {scale}, but a positive finite number is expected: None learns it")
        self.fixed_scale = None if scale is None else float(scale)
        self.log_scale: nn.Parameter | None
        self.register_parameter("log_scale", nn.Parameter(torch.zeros(())) if scale is None else None)

    @property
    def scale(self) -> Tensor | float:
        """Standard deviation of the noise: a float if fixed, a scalar tensor with gradient if learned."""
        if self.log_scale is not None:
            return self.log_scale.exp()
        assert self.fixed_scale is not None  # one of the two always is there
        return self.fixed_scale

    def distribution(self, outputs: Tensor) -> Any:
        """Pyro's Normal with `batch_shape` `(N,)`; with d > 1 outputs, `event_shape` `(d,)`."""
        means = without_single_column(wide(outputs))
        normal = dist.Normal(means, self.scale)
        return normal.to_event(1) if means.ndim == 2 else normal

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Gaussian log density of each observation, `(N,)`, in nats; summed over the d outputs."""
        means = without_single_column(wide(outputs))
        scale = self.scale
        log_scale = math.log(scale) if isinstance(scale, float) else scale.log()
        each = -0.5 * ((y - means) / scale) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)
        return each.sum(dim=-1) if means.ndim == 2 else each

    def predict(self, outputs: Tensor) -> Tensor:
        """The means: the outputs, `(N,)` or `(N, d)`."""
        return without_single_column(wide(outputs))

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Asks for outputs `(N,)`, `(N, 1)` or `(N, d)` and finite observations `(N,)`, or `(N, d)` if d > 1.

        Raises:
            ValueError: In one sentence.
        """
        if outputs.ndim not in (1, 2) or outputs.shape[-1] == 0:
            raise ValueError(
                f"the network returns shape {tuple(outputs.shape)}, but {type(self).__name__} needs means (N,) or "
                "(N, d): let the last layer have one output per number to predict"
            )
        check_shape(self, outputs, y, expected=without_single_column(outputs).shape)
        check_real(self, y)

    def scores(self, mean_prediction: Tensor, y: Tensor) -> dict[str, float]:
        """The key `rmse`: root mean squared error over all numbers, in the units of the observations.

        Raises:
            ValueError: If the shapes do not fit.
        """
        return {"rmse": rmse(self, mean_prediction, y)}

    @property
    def learns_noise(self) -> bool:
        """Whether the scale is learned: one that is given is in the units in which the model was declared."""
        return self.log_scale is not None

    def in_units(self, shift: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs are means: they are put back as the targets are."""
        return shift, unit

    @torch.no_grad()
    def begin_noise(self, sd: float) -> None:
        """Starts a learned scale at `sd`, IN PLACE, if it is still 1, where it was made."""
        if self.log_scale is not None and float(self.log_scale) == 0.0:
            self.log_scale.fill_(math.log(sd))

    def config(self) -> dict[str, Any]:
        """The name and the fixed scale, or None where it is learned."""
        return {"name": self.name, "scale": self.fixed_scale}

    def learned_config(self) -> dict[str, Any]:
        """The name and the scale, also where it was learned."""
        return {**self.config(), "scale": float(torch.as_tensor(self.scale).detach())}


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
        _check_one_output(self, outputs, y)
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


class Poisson(Likelihood):
    """Counts 0, 1, 2, ...; the outputs are log rates, `(N,)` or `(N, 1)`, the observations `(N,)`."""

    name = "poisson"
    is_ordered = True

    def distribution(self, outputs: Tensor) -> PoissonCounts:
        """Pyro's Poisson, `batch_shape` `(N,)`."""
        return PoissonCounts(without_single_column(wide(outputs)).exp())

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Poisson log probability of each count, `(N,)`, in nats, `log k!` included."""
        log_rate = without_single_column(wide(outputs))
        y = y.to(log_rate.dtype)
        return y * log_rate - log_rate.exp() - torch.lgamma(y + 1)

    def predict(self, outputs: Tensor) -> Tensor:
        """The rates, `(N,)`."""
        return without_single_column(wide(outputs)).exp()

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Asks for log rates `(N,)` or `(N, 1)` and whole observations `(N,)` from 0 up, not of dtype bool.

        Raises:
            ValueError: In one sentence.
        """
        _check_one_output(self, outputs, y)
        if y.dtype == torch.bool or y.is_complex():
            raise ValueError(f"counts have dtype {y.dtype}, but Poisson needs whole numbers: pass y.long()")
        _check_finite(y)
        if bool((y < 0).any()):
            raise ValueError(f"the smallest count is {y.min().item()}, but Poisson needs counts from 0 up: check y")
        if y.is_floating_point() and not bool((y == y.round()).all()):
            raise ValueError("some counts are not whole, but Poisson needs whole numbers: use Normal for real ones")

    def scores(self, mean_prediction: Tensor, y: Tensor) -> dict[str, float]:
        """The key `rmse`: root mean squared error of the rates, in counts.

        Raises:
            ValueError: If the shapes do not fit.
        """
        return {"rmse": rmse(self, mean_prediction, y)}


def wide(outputs: Tensor) -> Tensor:
    """Outputs in at least float32: under autocast they come in 16 bits, too few for log probabilities."""
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs


def without_single_column(outputs: Tensor) -> Tensor:
    """Outputs `(N, 1)` as `(N,)`, others unchanged."""
    return outputs.squeeze(-1) if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs


def check_shape(likelihood: Likelihood, outputs: Tensor, y: Tensor, expected: torch.Size) -> None:
    """Refuses observations of another shape; (N, 1) would broadcast against (N,) to N x N without a word."""
    if y.shape == expected and len(y) > 0:
        return
    if len(expected) and expected[0] == 0:
        raise ValueError(f"{type(likelihood).__name__} got no examples: pass at least one")
    remedy = "pass one target per example"
    if y.ndim == len(expected) + 1 and y.shape[-1] == 1:
        remedy = "pass y.squeeze(-1)"
    elif len(expected) == 2:
        remedy = f"pass {expected[1]} targets per example, or change the last layer"
    raise ValueError(
        f"{type(likelihood).__name__} got targets of shape {tuple(y.shape)} for outputs of shape "
        f"{tuple(outputs.shape)}, but {tuple(expected)} is expected: {remedy}"
    )


def _check_one_output(likelihood: Likelihood, outputs: Tensor, y: Tensor) -> None:
    """Refuses networks with more than one output per example, and targets that are not `(N,)`."""
    if without_single_column(outputs).ndim != 1:
        raise ValueError(
            f"the network returns shape {tuple(outputs.shape)}, but {type(likelihood).__name__} needs (N,) "
            "or (N, 1): let the last layer have one output"
        )
    check_shape(likelihood, outputs, y, expected=outputs.shape[:1])


def check_real(likelihood: Likelihood, y: Tensor) -> None:
    """Refuses targets that are no finite real numbers."""
    if y.dtype == torch.bool or y.is_complex():
        raise ValueError(
            f"targets have dtype {y.dtype}, but {type(likelihood).__name__} needs real numbers: pass y.float()"
        )
    _check_finite(y)


def _check_finite(y: Tensor) -> None:
    wrong = ~torch.isfinite(y)
    if bool(wrong.any()):
        raise ValueError(
            f"{int(wrong.sum())} targets are NaN or infinite, the first at index "
            f"{wrong.nonzero()[0].tolist()}: remove or fill them"
        )


def rmse(likelihood: Likelihood, mean_prediction: Tensor, y: Tensor) -> float:
    """Root mean squared error over all numbers; refuses shapes that do not fit."""
    check_shape(likelihood, mean_prediction, y, expected=mean_prediction.shape)
    return float((mean_prediction.detach().double() - y.double()).square().mean().sqrt())
