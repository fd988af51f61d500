"""More likelihoods of real numbers: noise with heavy tails, and noise whose scale depends on the input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import scipy.special
import torch
from torch import Tensor, nn

from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.likelihoods.observation_checks import check_real, check_shape, rmse, wide, without_single_column

__all__ = ["HeteroscedasticNormal", "StudentT"]


class _StudentT(dist.StudentT):
    """Pyro's Student-t with its distribution function, which PyTorch's has not."""

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of at most that value, by SciPy, in float64 inside."""
        standard = ((value - self.loc) / self.scale).detach()
        df = self.df.detach().expand(standard.shape)
        found = scipy.special.stdtr(df.cpu().double().numpy(), standard.cpu().double().numpy())
        return torch.as_tensor(found).to(standard)


class StudentT(Normal):
    """Real numbers with Student-t noise of one scale: outliers pull less. The outputs are the means.

    Shapes of outputs and observations are those of `Normal`; the d numbers of an observation are independent.

    Args:
        scale: Scale of the noise in the units of the observations, whose sd is scale * sqrt(df / (df - 2)), or d of
            them; None (default) learns it, as `Normal` does.
        df: Degrees of freedom, above 1, so that there is a mean; default 4. None learns them, from 4 on.

    Attributes:
        log_scale: The learned log scale, a scalar parameter; None where the scale is fixed.
        unit: What multiplies it for each of d targets, as in `Normal`.
        log_excess: log(df - 1), a scalar parameter; None where df is fixed.

    Raises:
        ValueError: If the scale is not positive and finite, or df not above 1 and finite.
    """

    name = "student-t"

    def __init__(self, scale: float | Sequence[float] | None = None, df: float | None = 4.0) -> None:
        super().__init__(scale)
        if df is not None and not (math.isfinite(df) and df > 1):
            raise ValueError(f"df is {df}, but a finite number above 1 is expected: None learns it")
        self.fixed_df = None if df is None else float(df)
        self.log_excess: nn.Parameter | None
        self.register_parameter("log_excess", nn.Parameter(torch.tensor(math.log(3.0))) if df is None else None)

    @property
    def df(self) -> Tensor | float:
        """Degrees of freedom: a float if fixed, a scalar tensor with gradient if learned."""
        if self.log_excess is not None:
            return 1.0 + self.log_excess.exp()
        assert self.fixed_df is not None  # one of the two always is there
        return self.fixed_df

    def distribution(self, outputs: Tensor) -> Any:
        """Pyro's StudentT with `batch_shape` `(N,)`; with d > 1 outputs, `event_shape` `(d,)`."""
        means = without_single_column(wide(outputs))
        noise = _StudentT(self.df, means, self._scale_of(means))
        return noise.to_event(1) if means.ndim == 2 else noise

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Student-t log density of each observation, `(N,)`, in nats; summed over the d outputs."""
        means = without_single_column(wide(outputs))
        both = (self.df, self._scale_of(means))
        df, scale = (torch.as_tensor(value, dtype=means.dtype, device=means.device) for value in both)
        normaliser = torch.lgamma(0.5 * (df + 1)) - torch.lgamma(0.5 * df) - 0.5 * (df * math.pi).log() - scale.log()
        each = normaliser - 0.5 * (df + 1) * torch.log1p(((y - means) / scale).square() / df)
        return each.sum(dim=-1) if means.ndim == 2 else each

    @torch.no_grad()
    def begin_noise(self, sd: float) -> None:
        """Starts a learned scale where the noise has the standard deviation `sd`; without one, at `sd` itself."""
        df = float(self.df)
        super().begin_noise(sd * math.sqrt((df - 2.0) / df) if df > 2.0 else sd)

    def config(self) -> dict[str, Any]:
        """The name, the fixed scale and df, None where they are learned."""
        return {**super().config(), "df": self.fixed_df}

    def learned_config(self) -> dict[str, Any]:
        """The name, the scale and df, also where they were learned."""
        return {**super().learned_config(), "df": float(torch.as_tensor(self.df).detach())}


class HeteroscedasticNormal(Likelihood):
    """Real numbers with Gaussian noise whose scale depends on the input: the network puts out both.

    Outputs `(N, 2)`, the mean and the log of the noise's sd, go with observations `(N,)`; outputs `(N, 2 d)`, d means
    and then d log sds, with observations `(N, d)` of independent numbers. See Nix & Weigend (1994).
    """

    name = "heteroscedastic-normal"
    is_ordered = True

    @classmethod
    def outputs_for(cls, targets: int) -> int:
        """Two for each number to predict."""
        return 2 * targets

    def distribution(self, outputs: Tensor) -> Any:
        """Pyro's Normal with `batch_shape` `(N,)`; with d > 1 numbers, `event_shape` `(d,)`."""
        means, log_sds = _halves(outputs)
        normal = dist.Normal(means, log_sds.exp())
        return normal.to_event(1) if means.ndim == 2 else normal

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Gaussian log density of each observation, `(N,)`, in nats; summed over the d numbers."""
        means, log_sds = _halves(outputs)
        each = -0.5 * ((y - means) * (-log_sds).exp()).square() - log_sds - 0.5 * math.log(2 * math.pi)
        return each.sum(dim=-1) if means.ndim == 2 else each

    def predict(self, outputs: Tensor) -> Tensor:
        """The means, `(N,)` or `(N, d)`."""
        return _halves(outputs)[0]

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Asks for outputs `(N, 2)` or `(N, 2 d)` and finite observations `(N,)`, or `(N, d)` if d > 1.

        Raises:
            ValueError: In one sentence.
        """
        if outputs.ndim != 2 or outputs.shape[1] == 0 or outputs.shape[1] % 2:
            raise ValueError(
                f"the network returns shape {tuple(outputs.shape)}, but HeteroscedasticNormal needs (N, 2 d), d means "
                "and d log sds: let the last layer have two outputs per number to predict"
            )
        check_shape(self, outputs, y, expected=_halves(outputs)[0].shape)
        check_real(self, y)

    def scores(self, mean_prediction: Tensor, y: Tensor) -> dict[str, float]:
        """The key `rmse`: root mean squared error of the means, in the units of the observations.

        Raises:
            ValueError: If the shapes do not fit.
        """
        return {"rmse": rmse(self, mean_prediction, y)}

    @property
    def learns_noise(self) -> bool:
        """It always does."""
        return True

    def in_units(self, shift: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Means are put back as the targets are; the unit's logarithm is added to log sds."""
        shift, unit = shift.reshape(-1), unit.reshape(-1)
        return torch.cat([shift, unit.log()]), torch.cat([unit, torch.ones_like(unit)])


def _halves(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Means and log sds, each `(N,)` or `(N, d)`."""
    means, log_sds = wide(outputs).chunk(2, dim=-1)
    return without_single_column(means), without_single_column(log_sds)
