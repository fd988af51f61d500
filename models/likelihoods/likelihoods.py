"""What a network's outputs mean: the distribution of one observation given the outputs for it.

Likelihoods are modules, because one of them may own a parameter (`Normal()` learns its scale). All log
probabilities are in nats, one number per example; scaling to all the data is the model's business.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesprune.models.likelihoods.names import likelihood_class
from bayesprune.models.likelihoods.observation_checks import (
    check_finite,
    check_one_output,
    check_real,
    check_shape,
    rmse,
    wide,
    without_single_column,
)

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

    def noise_in(self, unit: Tensor | None) -> None:
        """Has a learned noise count in units of its own for each target, IN PLACE; default: it has none.

        Args:
            unit: Sizes of the d targets over their root mean square, `(d,)`; None: all the same.
        """

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
        scale: Standard deviation of the noise in the units of the observations, or d of them, one for each of several
            numbers; None learns it as a positive point estimate that starts at 1, or where `fit` standardises at the
            standard deviation of the targets, each of several in its own.

    Attributes:
        log_scale: The learned log scale, a scalar parameter; None where the scale is fixed.
        unit: What multiplies it for each of d targets, `(d,)`, a buffer; None where one scale is that of all.

    Raises:
        ValueError: If the scale is not a positive finite number, or a sequence of them.
    """

    name = "normal"
    is_ordered = True

    def __init__(self, scale: float | Sequence[float] | None = None) -> None:
        super().__init__()
        several = isinstance(scale, (list, tuple))
        given: list[float] = [] if scale is None else list(scale) if several else [scale]  # type: ignore[arg-type, list-item]
        if (several and not given) or not all(math.isfinite(one) and one > 0 for one in given):
            raise ValueError(f"scale is {scale}, but a positive finite number is expected: None learns it")
        self.fixed_scale = [float(one) for one in given] if len(given) > 1 else float(given[0]) if given else None
        self.log_scale: nn.Parameter | None
        self.register_parameter("log_scale", nn.Parameter(torch.zeros(())) if scale is None else None)
        self.unit: Tensor | None
        self.register_buffer("unit", torch.tensor(given, dtype=torch.float64) if len(given) > 1 else None)

    @property
    def scale(self) -> Tensor | float:
        """Standard deviation of the noise: a float if fixed, a scalar tensor with gradient if learned.

        Where each of several targets has its own, a tensor `(d,)`.
        """
        if self.log_scale is not None:
            return self.log_scale.exp() if self.unit is None else self.log_scale.exp() * self.unit
        if self.unit is not None:
            return self.unit
        assert isinstance(self.fixed_scale, float)  # one of the three always is there
        return self.fixed_scale

    def _scale_of(self, means: Tensor) -> Tensor | float:
        """The scale, in the number format of the means where there are several."""
        return self.scale if self.unit is None else torch.as_tensor(self.scale).to(means.dtype)

    def distribution(self, outputs: Tensor) -> Any:
        """Pyro's Normal with `batch_shape` `(N,)`; with d > 1 outputs, `event_shape` `(d,)`."""
        means = without_single_column(wide(outputs))
        normal = dist.Normal(means, self._scale_of(means))
        return normal.to_event(1) if means.ndim == 2 else normal

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Gaussian log density of each observation, `(N,)`, in nats; summed over the d outputs."""
        means = without_single_column(wide(outputs))
        scale = self._scale_of(means)
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
        if self.unit is not None and outputs.shape[1:] != self.unit.shape:
            raise ValueError(
                f"the noise has {len(self.unit)} scales, but the network returns shape {tuple(outputs.shape)}: give "
                "one scale for each output, or one for all"
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

    def in_units(self, shift: Tensor, unit: Tensor) -> tuple[Tensor, Tensor] | None:
        """The outputs are means: they are put back as the targets are; not where a subclass has a link of its own."""
        return (shift, unit) if type(self).predict is Normal.predict else None

    @torch.no_grad()
    def begin_noise(self, sd: float) -> None:
        """Starts a learned scale at `sd`, IN PLACE, if it is still 1, where it was made."""
        if self.log_scale is not None and float(self.log_scale) == 0.0:
            self.log_scale.fill_(math.log(sd))

    def noise_in(self, unit: Tensor | None) -> None:
        """The learned scale is multiplied by them."""
        if self.log_scale is not None:
            self.unit = None if unit is None else unit.detach().to(self.log_scale, copy=True)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """A learned scale takes the units that are stored, or none, as earlier versions wrote it."""
        stored = state_dict.get(f"{prefix}unit")
        if stored is None or stored.ndim == 1:
            self.noise_in(stored)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def config(self) -> dict[str, Any]:
        """The name and the fixed scale or scales, or None where it is learned."""
        return {"name": self.name, "scale": self.fixed_scale}

    def learned_config(self) -> dict[str, Any]:
        """The name and the scale, also where it was learned; a list where each of several targets has its own."""
        return {**self.config(), "scale": torch.as_tensor(self.scale).detach().tolist()}


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
        check_one_output(self, outputs, y)
        if y.dtype == torch.bool or y.is_complex():
            raise ValueError(f"counts have dtype {y.dtype}, but Poisson needs whole numbers: pass y.long()")
        check_finite(y)
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
