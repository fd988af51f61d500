"""The likelihood of real numbers with Gaussian noise of one scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.likelihoods.observation_checks import check_real, check_shape, rmse, wide, without_single_column

__all__ = ["Normal"]


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
