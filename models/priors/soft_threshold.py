"""Soft thresholds (STR): weights below a threshold that is learned with them are exactly zero, others shrunk by it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprune.models.checks.data_count import checked_data_size
from bayesprune.models.checks.shown_values import shown
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import beyond_threshold
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.ready_registry import ready

__all__ = ["FORMS", "MomentumSGD", "SoftThreshold", "soft_thresholded"]

THRESHOLD_LEVELS = ("layer", "output", "network")
FORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "sigmoid": (torch.sigmoid, torch.logit),
    "exp": (torch.exp, torch.log),
}
"""g, from s to the threshold, and its inverse, by name."""
PRESSURE = Knob(low=1e-6, high=200.0, shift="s", shift_to="sparser", ramp=(0.1, 0.6), begins=0.25, pace=3.0)
"""What `Budget` moves: a factor on the precision of s, whose mode is zero: a threshold of 1 or 1/2. Its ramp ends
before learning rates have fallen, as s hardly moves then; beyond its bound a step of SGD on s would go too far."""
PER_DATUM = 0.4
"""Precision of s a datum by default: the trade of weights for accuracy is then the same whatever the number of data."""
BY_MAP = {"optimizer": "sgd", "learning_rate": 0.1, "schedule": "cosine"}
"""How its MAP is trained by default. Adam moves all entries above the threshold alike, whatever they are worth to the
data, and takes those below it, on which nothing but their prior acts, to zero in a few steps."""
BY_MEAN_FIELD = {"optimizer": "adam", "learning_rate": 3e-3}
"""The same under Normals: by Adam at 1e-3 the thresholds are still on their way when a fit of the usual length ends."""
_SPREAD = 0.01
"""Standard deviation with which s starts under Normals, as a share of its size: all weights of a tensor tell it."""
AS_PUBLISHED = {"optimizer": "sgd", "learning_rate": 0.256, "schedule": "warmup-cosine"}
"""The same by the authors' constants; `SoftThreshold.paper_fit` has their momentum too."""
_START = 0.01
"""Where a threshold starts, as a share of the root mean square of its tensor's weights."""


def soft_thresholded(raw: Tensor, threshold: Tensor) -> Tensor:
    """sign(raw) relu(|raw| - threshold), of the shape of `raw` (Kusupati et al. 2020, equation 3).

    Its gradient is that of plain autograd: an entry below the threshold gets none.
    """
    return raw.sign() * torch.relu(raw.abs() - threshold)


@dataclass(frozen=True)
class MomentumSGD:
    """SGD of a momentum of its own, as `fit(optimizer=)` takes it: a callable of parameter groups.

    Attributes:
        learning_rate: Of all groups.
        momentum: Without dampening, not Nesterov's.
    """

    learning_rate: float
    momentum: float

    def __call__(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of parameter groups."""
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum, fused=True)


@ready("soft-threshold", "exact zeros below a learned threshold a layer, output or network (STR)")
class SoftThreshold(Hierarchy):
    """weight = sign(raw) relu(|raw| - g(s)), raw ~ Normal(0, raw_sd), s ~ Normal(0, sd_s) (Kusupati et al. 2020).

    The threshold is learned with the weights. The mode of s is a large threshold, 1/2 or 1, and `pressure` is how hard
    s is drawn there; what the weights are worth to the data holds it back. `Budget` moves the pressure.

    Args:
        pressure: Precision of s, sd_s^-2, of a tensor (of the network where they share one), in nats; per output each
            has as large a part of it as of the tensor. Default None: 0.4 x data_size. As published all tensors have the
            same, large or small.
        raw_sd: Standard deviation of raw; default None: sqrt(10 / fan_in), He's scale for a fifth of the weights.
        init: Where every s starts; default None: where the threshold is a hundredth of the root mean square of the
            network's weights.
        g: ``"exp"`` (default) or ``"sigmoid"``, the paper's, whose mode of 1/2 a threshold cannot be drawn beyond.
        per: What shares a threshold: ``"layer"`` (default, a tensor), ``"output"`` or ``"network"``.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        pressure: float | None = None,
        raw_sd: float | None = None,
        init: float | None = None,
        g: str = "exp",
        per: str = "layer",
    ) -> None:
        for name, value in {"pressure": pressure, "raw_sd": raw_sd}.items():
            if value is not None and not 0.0 < value < math.inf:
                raise ValueError(f"SoftThreshold({name}=...) must be positive, not {shown(value)}")

        def precision(data_size: float) -> float:
            return PER_DATUM * data_size if pressure is None else pressure

        self._declare(g, per, init, precision, raw_sd)
        self.map_options, self.mean_field_options = BY_MAP, BY_MEAN_FIELD

    @classmethod
    @ready("soft-threshold-paper", "the same by the authors' per-datum weight decay on weights and thresholds")
    def from_paper(
        cls,
        weight_decay: float,
        data_size: int | None = None,
        init: float = -3200.0,
        g: str = "sigmoid",
        per: str = "layer",
    ) -> SoftThreshold:
        """The authors' objective: mean loss + weight_decay (|raw|^2 + s^2) / 2 for each tensor.

        There is no other strength: a larger decay wakes the thresholds earlier, and leaves fewer weights. A fit follows
        the authors' updates to rounding with the settings of `paper_fit`, and if biases and batch normalisation have
        ``Gaussian.from_weight_decay``: one without a prior does not decay::

            start = bp.onset_start(5e-4, steps=100 * len(batches))
            weights = bp.SoftThreshold.from_paper(5e-4, data_size=n, init=start)
            others = bp.Gaussian.from_weight_decay(5e-4, data_size=n)
            priors = {name: weights if p.ndim > 1 else others for name, p in network.named_parameters()}
            bnn = bp.BayesianNetwork(network, priors, bp.Categorical(label_smoothing=0.1), data_size=n)
            fit = bp.fit(bnn, batches, **bp.SoftThreshold.paper_fit(epochs=100))

        Args:
            weight_decay: Per datum, positive, as an SGD flag would have it.
            data_size: Number of training data; required.
            init: Where every s starts; default -3200, that of their ResNet-50 on ImageNet. While g(s) rounds to zero s
                moves by its decay alone, so that shorter fits need one nearer to zero: see `onset_start`.
                One at which no weight of a tensor is left is refused when a fit begins.
            g: ``"sigmoid"`` (default) or ``"exp"``.
            per: As in `SoftThreshold`.

        Raises:
            ValueError: If an argument is out of range or `data_size` is missing.
        """
        total = checked_data_size("SoftThreshold.from_paper", data_size)
        if not 0.0 < weight_decay < math.inf:
            raise ValueError(f"SoftThreshold.from_paper needs a positive weight_decay, not {shown(weight_decay)}")
        self = cls.__new__(cls)
        decay = weight_decay * total
        self._declare(g, per, init, lambda _: decay, decay**-0.5, as_published=True)
        self.full_kl = True
        self.map_options = AS_PUBLISHED
        return self

    @staticmethod
    def paper_fit(epochs: int = 100, learning_rate: float = 0.256) -> dict[str, Any]:
        """Arguments of `fit` with which `from_paper` is trained as its authors train.

        SGD with momentum 0.875, all parameters points at one learning rate, batches of 256, the objective in full from
        the first step on. The rate changes by epoch: up in 5 (of fewer than 20 epochs in a quarter), then down along
        half a cosine (`warmup_cosine`).

        Args:
            epochs: Passes over the data; default 100, the authors'.
            learning_rate: Highest rate; default 0.256, the authors' for batches of 256. The optimizer that is
                returned has it with it, so that another one is given here, not to `fit`.

        Raises:
            ValueError: If the rate is not positive.
        """
        if not 0.0 < learning_rate < math.inf:
            raise ValueError(f"SoftThreshold.paper_fit needs a positive learning_rate, not {shown(learning_rate)}")
        return {
            "guide": "map",
            "optimizer": MomentumSGD(learning_rate, 0.875),
            "learning_rate": learning_rate,
            "schedule": "warmup-cosine",
            "kl_weight": 1.0,
            "kl_warmup": 0.0,
            "batch_size": 256,
            "epochs": epochs,
        }

    def _declare(
        self,
        g: str,
        per: str,
        init: float | None,
        precision: Callable[[float], float],
        raw_sd: float | None,
        as_published: bool = False,
    ) -> None:
        if g not in FORMS:
            raise ValueError(f"SoftThreshold(g=...) takes one of {', '.join(FORMS)}, not {shown(g)}")
        if per not in THRESHOLD_LEVELS:
            raise ValueError(f"SoftThreshold(per=...) takes one of {', '.join(THRESHOLD_LEVELS)}, not {shown(per)}")
        if init is not None and not -math.inf < init <= 0.0:
            raise ValueError(
                f"SoftThreshold(init=...) is where s starts, at most its mode 0, not {shown(init)}: leave it out for a "
                "start near the network's weights"
            )
        form, inverse = FORMS[g]

        def start(weight: Tensor, fan_in: int) -> Tensor:
            dims = tuple(range(1, weight.ndim)) if per == "output" else tuple(range(weight.ndim))
            rms = weight.square().mean(dim=dims, keepdim=per == "output").sqrt()
            return inverse((_START * rms).clamp(1e-3 * _START / math.sqrt(fan_in), 0.5))

        def raw(fan_in: int) -> dist.Normal:
            return dist.Normal(0.0, math.sqrt(10.0 / fan_in) if raw_sd is None else raw_sd)

        def of_tensor(data_size: int, pressure: Tensor) -> dist.Normal:
            return dist.Normal(0.0, (precision(data_size) * pressure).rsqrt())

        def of_output(size: int, fan_in: int, data_size: int, pressure: Tensor) -> dist.Normal:
            share = fan_in / size
            return dist.Normal(0.0, (precision(data_size) * share * pressure).rsqrt())

        def of_all(s: Tensor) -> Tensor:
            return form(s)

        def from_weights(weight: Tensor, s: Tensor) -> Tensor:
            return weight if as_published else weight + weight.sign() * form(s)

        super().__init__(
            s=Latent(
                of_output if per == "output" and not as_published else of_tensor,
                per=per,
                init=start if init is None else float(init),
                spread=_SPREAD,
            ),
            raw=Latent(raw, init=from_weights),
            threshold=Latent(of_all, per=per),
            weight=lambda raw, threshold: soft_thresholded(raw, threshold),
            included=beyond_threshold("raw", "threshold"),
            default_guide="map",
            knobs={"pressure": PRESSURE},
            budget="pressure",
        )
