"""The likelihood of counts 0, 1, 2, ..."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.likelihoods.observation_checks import (
    check_finite,
    check_one_output,
    rmse,
    wide,
    without_single_column,
)

__all__ = ["Poisson", "PoissonCounts"]


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
