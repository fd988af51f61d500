"""L0 regularisation through hard concrete gates: a price on every weight that is not zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from bayesprune.models.checks.setting_types import Extent, typed_settings
from bayesprune.models.language.hierarchy import Hierarchy, Latent
from bayesprune.models.language.inclusion import ExactZero
from bayesprune.models.priors.group_noise import check_level, check_slab, weight_decayed

TEMPERATURE, LOWER, UPPER = 2.0 / 3.0, -0.1, 1.1
"""beta, gamma and zeta of the paper: of the concrete variable, and the interval to which it is stretched."""
L0_LEVELS = ("weight", "output", "input", "kernel")
IMPROPER = "its gates have a price in place of a distribution"


class NonzeroPenalty(TorchDistribution):
    """Log density -price where the value, in [0, 1], is not zero; a penalty, so it cannot be sampled.

    Args:
        price: What a value other than zero costs, in nats.
    """

    arg_constraints = {"price": constraints.nonnegative}
    support = constraints.unit_interval
    has_rsample = False
    only_by_term = True  # an indicator passes no gradient to a draw

    def __init__(self, price: Any, validate_args: bool | None = None) -> None:
        self.price = torch.as_tensor(price, dtype=None if torch.is_tensor(price) else torch.get_default_dtype())
        super().__init__(self.price.shape, validate_args=validate_args)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Refuses.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{IMPROPER}, so it cannot be sampled: fit it with a guide in place of NUTS or prior draws")

    def log_prob(self, value: Tensor) -> Tensor:
        """-price where the value is not zero, in nats."""
        return -self.price * (value != 0)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NonzeroPenalty:
        """Returns a distribution of the given batch shape."""
        return NonzeroPenalty(self.price.expand(batch_shape), False)


@dataclass(frozen=True)
class OpenGate(ExactZero):
    """The inclusion event of a gate in [0, 1]: it is not zero."""

    def __str__(self) -> str:
        return f"{self.gate} != 0 (atom)"


class L0HardConcrete(Hierarchy):
    """weight = z w with hard concrete gates z, a price `lam` on weights that are not zero, and w ~ Normal(0, slab_sd).

    Louizos, Welling & Kingma 2018: the loss is -log likelihood + sum over gates of lam |group| P(z != 0), in full-data
    nats, plus weight decay. z is drawn as the paper's eq. 10 and 11 have it; w is a point. The decay here is that of
    w ~ Normal(0, slab_sd); the authors' code multiplies it by P(z != 0).

    Args:
        lam: Price of a nonzero weight in full-data nats; default 1. A gate costs that of all its weights.
        slab_sd: Standard deviation of w; default None: sqrt(2 / fan_in), He's scale. Infinity (`math.inf`, in files
            and on the command line ``inf``) is no decay: the paper's objective, a price on nonzero weights alone.
        level: Level of z: ``"weight"`` (default), ``"output"``, ``"input"`` or ``"kernel"``.
        dropout: Where the gates start: log alpha = log((1 - dropout) / dropout); default 0.5, the authors'. The points
            w start at the network's weights divided by the gate's test-time value.

    Raises:
        ValueError: If an argument is out of range.
    """

    @typed_settings
    def __init__(self, lam: float = 1.0, slab_sd: Extent = None, level: str = "weight", dropout: float = 0.5) -> None:
        if not lam >= 0:
            raise ValueError(f"L0HardConcrete(lam=...) must not be negative, not {lam}")
        check_slab("L0HardConcrete", slab_sd)
        check_level("L0HardConcrete(level=...)", level, L0_LEVELS)
        opens = float(trained_gate(torch.tensor(math.log(1.0 / dropout - 1.0)))) if 0.0 < dropout < 1.0 else 0.0
        if not opens > 0:
            raise ValueError(
                f"L0HardConcrete(dropout=...) must lie in (0, {UPPER / (UPPER - LOWER):.3f}), where gates start open, "
                f"not {dropout}"
            )

        def penalty(size: int, fan_in: int, inputs: int) -> NonzeroPenalty:
            group = {"weight": 1, "output": fan_in, "input": size // inputs, "kernel": fan_in // inputs}[level]
            return NonzeroPenalty(lam * group)

        super().__init__(
            z=Latent(penalty, level, guide="hardconcrete", init=1.0 - dropout),
            w=weight_decayed(slab_sd, opens),
            weight=lambda z, w: z * w,
            included=OpenGate("z"),
            improper=IMPROPER,
        )
        self.config = {
            "name": "L0HardConcrete",
            "arguments": {"lam": lam, "slab_sd": slab_sd, "level": level, "dropout": dropout},
        }


def hard_concrete(log_alpha: Tensor, noise: Tensor) -> Tensor:
    """A gate in [0, 1] from standard normal noise: the paper's eq. 10 and 11 at u = Phi(noise)."""
    logit_u = torch.erfc(-noise * math.sqrt(0.5)).log() - torch.erfc(noise * math.sqrt(0.5)).log()
    return stretched(((logit_u + log_alpha) / TEMPERATURE).sigmoid())


def stretched(share: Tensor) -> Tensor:
    """(0, 1) stretched to (LOWER, UPPER) and cut off at 0 and 1."""
    return (share * (UPPER - LOWER) + LOWER).clamp(0.0, 1.0)


def trained_gate(log_alpha: Tensor) -> Tensor:
    """The paper's gate of a trained network, eq. 13."""
    return stretched(log_alpha.sigmoid())


def log_odds_of_open(log_alpha: Tensor) -> Tensor:
    """Log odds of z != 0, eq. 12: log alpha - TEMPERATURE log(-LOWER / UPPER)."""
    return log_alpha - TEMPERATURE * math.log(-LOWER / UPPER)
