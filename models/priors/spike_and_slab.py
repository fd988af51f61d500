"""Spike and slab: the prior under which a weight is exactly zero with positive probability."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.utils import probs_to_logits

from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import exact_zero
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.levels import DEFAULT_BLOCK
from bayesprune.models.language.ready_registry import ready

SPIKE_LEVELS = ("weight", "kernel", "output", "input", "block")


@ready("spike-and-slab", "exact zeros by Bernoulli gates a weight, kernel, output or block")
class SpikeAndSlab(Hierarchy):
    """z ~ Bernoulli(expected_density), slab ~ Normal(0, slab_sd), weight = z slab (Mitchell & Beauchamp 1988).

    Args:
        expected_density: Prior inclusion probability (fraction of 1); default 0.1.
        slab_sd: Standard deviation of an included weight; default None:
            sqrt(2 / (expected_density fan_in)), He's scale for the network that is left.
        level: Level of z: ``"weight"`` (default), ``"kernel"``, ``"output"``, ``"input"`` or ``"block"``; one z
            is shared by all the weights of a group.
        block: Rows and columns of a tile where ``level="block"``; default 16 x 16.
        initial_inclusion: Where the guide's inclusion probabilities start; default 0.9 (start dense).

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        expected_density: float = 0.1,
        slab_sd: float | None = None,
        level: str = "weight",
        block: tuple[int, int] = DEFAULT_BLOCK,
        initial_inclusion: float = 0.9,
    ) -> None:
        for name, value in {
            "expected_density": expected_density,
            "initial_inclusion": initial_inclusion,
        }.items():
            if not 0.0 < value < 1.0:
                raise ValueError(f"SpikeAndSlab({name}=...) must be strictly between 0 and 1, not {value}")
        if slab_sd is not None and not slab_sd > 0:
            raise ValueError(f"SpikeAndSlab(slab_sd=...) must be positive, not {slab_sd}")
        if level not in SPIKE_LEVELS:
            raise ValueError(f"SpikeAndSlab(level=...) takes one of {', '.join(SPIKE_LEVELS)}, not {level!r}")
        if len(block) != 2 or min(block) < 1:
            raise ValueError(f"SpikeAndSlab(block=...) takes rows and columns, both at least 1, not {block}")
        block = (int(block[0]), int(block[1]))

        def gate(odds: Tensor) -> dist.Bernoulli:
            declared = probs_to_logits(torch.full_like(odds, expected_density), is_binary=True)
            return dist.Bernoulli(logits=declared + odds.log())

        def slab(fan_in: int) -> dist.Normal:
            return dist.Normal(0.0, math.sqrt(2.0 / (expected_density * fan_in)) if slab_sd is None else slab_sd)

        even = max(1.0, 1.0 / expected_density - 1.0)  # at most so that the prior has no say for a weight
        super().__init__(
            z=Latent(gate, level, init=initial_inclusion, block=block),
            slab=Latent(slab),
            weight=lambda z, slab: z * slab,
            included=exact_zero(gate="z", slab="slab"),
            default_guide="paired",
            knobs={"odds": Knob(more="denser", low=1e-30, high=even, pace=8.0, shift="z")},
            budget="odds",
        )
