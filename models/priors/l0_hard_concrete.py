"""L0 regularisation through hard concrete gates: a price on every weight that is not zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprune.models.checks.setting_types import Extent
from bayesprune.models.distributions.hard_concrete import LOWER, UPPER, trained_gate
from bayesprune.models.distributions.nonzero_penalty import IMPROPER, NonzeroPenalty
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import ExactZero
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.ready_registry import ready
from bayesprune.models.priors.group_noise import check_level, check_slab, weight_decayed

L0_LEVELS = ("weight", "output", "input", "kernel")


@dataclass(frozen=True)
class OpenGate(ExactZero):
    """The inclusion event of a gate in [0, 1]: it is not zero."""

    def __str__(self) -> str:
        return f"{self.gate} != 0 (atom)"


@ready("l0-hard-concrete", "a price on nonzero weights or groups, by hard concrete gates")
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

        price = lam

        def penalty(size: int, fan_in: int, inputs: int, lam: Tensor) -> NonzeroPenalty:
            group = {"weight": 1, "output": fan_in, "input": size // inputs, "kernel": fan_in // inputs}[level]
            return NonzeroPenalty(price * group * lam)

        super().__init__(
            z=Latent(penalty, level, guide="hardconcrete", init=1.0 - dropout),
            w=weight_decayed(slab_sd, opens),
            weight=lambda z, w: z * w,
            included=OpenGate("z"),
            knobs={"lam": Knob(shift="z", pace=0.6)},
            budget="lam" if lam else None,
            improper=IMPROPER,
        )
