"""Spike and slab: the prior under which a weight is exactly zero with positive probability."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.utils import probs_to_logits

from bayesprune.models.distributions.tilted_beta import TiltedBeta
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import exact_zero
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.levels import DEFAULT_BLOCK
from bayesprune.models.language.ready_registry import ready

SPIKE_LEVELS = ("weight", "kernel", "output", "input", "block")
LEARNED_LEVELS = ("layer", "input", "output")
"""What a learned scale may be of."""
GUIDES = {"point": ("delta", "delta"), "normal": ("lognormal", "logitnormal")}
"""Families of the guide of the slab's sd and of the inclusion probability, by what `learned_by` calls them."""
PRIOR_INCLUDED = 2.0
"""Gates of the rarer value, open ones as a rule, that the Beta hyper-prior is worth by default: above 1, where its
density is no longer highest at a probability of exactly zero, so that points have somewhere to be."""


_LATER = ("learned_sd", "learned_density", "pseudo_gates", "learned_by")


@ready("spike-and-slab", "exact zeros by Bernoulli gates a weight, kernel, output or block", later=_LATER)
class SpikeAndSlab(Hierarchy):
    """z ~ Bernoulli(expected_density), slab ~ Normal(0, slab_sd), weight = z slab (Mitchell & Beauchamp 1988).

    Both numbers can be learned, one a layer, an input (column) or an output (row): ``sd ~ HalfCauchy(slab_sd)``, whose
    median is the number that it replaces, and ``pi ~ Beta`` of mean `expected_density` (George & McCulloch 1997;
    George & Foster 2000). When that helps and when it collapses: docs/priors/spike-and-slab.md.

    Args:
        expected_density: Prior inclusion probability (fraction of 1); default 0.1.
        slab_sd: Standard deviation of an included weight; default None:
            sqrt(2 / (expected_density fan_in)), He's scale for the network that is left.
        level: Level of z: ``"weight"`` (default), ``"kernel"``, ``"output"``, ``"input"`` or ``"block"``; one z
            is shared by all the weights of a group.
        block: Rows and columns of a tile where ``level="block"``; default 16 x 16.
        initial_inclusion: Where the guide's inclusion probabilities start; default 0.9 (start dense).
        learned_sd: Learns the slab's sd: one a ``"layer"``, ``"input"`` or ``"output"``, as the latent ``sd``; default
            None: it is fixed.
        learned_density: Learns the inclusion probability, likewise, as the latent ``pi``; with a z by weight or by
            kernel, or one a layer with any z. Default None: it is fixed.
        pseudo_gates: How many gates the Beta hyper-prior of ``pi`` is worth (the sum of its two parameters); default
            None: 2 / expected_density, as if two open gates had been seen.
        learned_by: Guide of what is learned: ``"normal"`` (a log-Normal sd, a logit-Normal pi) or ``"point"`` (the
            mode, found with the guide's other parameters, which collapses sooner); default None: ``"normal"``.

    Raises:
        ValueError: If an argument is out of range, or one that says how to learn is given where nothing is learned.
    """

    def __init__(
        self,
        expected_density: float = 0.1,
        slab_sd: float | None = None,
        level: str = "weight",
        block: tuple[int, int] = DEFAULT_BLOCK,
        initial_inclusion: float = 0.9,
        learned_sd: str | None = None,
        learned_density: str | None = None,
        pseudo_gates: float | None = None,
        learned_by: str | None = None,
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
        _check_learned(level, learned_sd, learned_density, pseudo_gates, learned_by)
        of_sd, of_pi = GUIDES[learned_by or "normal"]

        def width(fan_in: int) -> float:
            return math.sqrt(2.0 / (expected_density * fan_in)) if slab_sd is None else slab_sd

        def gate(odds: Tensor) -> dist.Bernoulli:
            declared = probs_to_logits(torch.full_like(odds, expected_density), is_binary=True)
            return dist.Bernoulli(logits=declared + odds.log())

        def gate_of(pi: Tensor, odds: Tensor) -> dist.Bernoulli:
            return dist.Bernoulli(logits=pi.log() - (-pi).log1p() + odds.log())

        def slab(fan_in: int) -> dist.Normal:
            return dist.Normal(0.0, width(fan_in))

        def slab_of(sd: Tensor) -> dist.Normal:
            return dist.Normal(0.0, sd)

        def hyper_of_sd(fan_in: int) -> dist.HalfCauchy:
            return dist.HalfCauchy(width(fan_in))

        latents: dict[str, Any] = {}
        if learned_density is not None:
            hyper_of_pi = _hyper_prior(expected_density, pseudo_gates, level, learned_density, block)
            latents["pi"] = Latent(hyper_of_pi, learned_density, guide=of_pi, init=expected_density)
        if learned_sd is not None:
            latents["sd"] = Latent(
                hyper_of_sd, learned_sd, guide=of_sd, init=lambda fan_in: torch.tensor(width(fan_in))
            )

        even = max(1.0, 1.0 / expected_density - 1.0)  # at most so that the prior has no say for a weight
        super().__init__(
            **latents,
            z=Latent(gate if learned_density is None else gate_of, level, init=initial_inclusion, block=block),
            slab=Latent(slab if learned_sd is None else slab_of),
            weight=lambda z, slab: z * slab,
            included=exact_zero(gate="z", slab="slab"),
            default_guide="paired",
            knobs={"odds": Knob(more="denser", low=1e-30, high=even, pace=8.0, shift="z")},
            budget="odds",
        )


def _hyper_prior(
    expected_density: float, pseudo_gates: float | None, level: str, learned: str, block: tuple[int, int]
) -> Callable[..., TiltedBeta]:
    """The hyper-prior of pi: a Beta of mean `expected_density`, tilted by the knob to where open gates cost more.

    Raises:
        ValueError: If its density were highest at a probability of 0 or 1, where points would go.
    """
    rarer = min(expected_density, 1.0 - expected_density)
    worth = PRIOR_INCLUDED / rarer if pseudo_gates is None else pseudo_gates
    if not worth * rarer > 1.0:
        raise ValueError(
            f"SpikeAndSlab(pseudo_gates=...) is above {1.0 / rarer:g} at expected_density={expected_density:g}, so "
            f"that more than one gate of the rarer value is among them, not {worth:g}: the density of pi would be "
            "infinite where all gates are alike"
        )

    def hyper(odds: Tensor, size: int, fan_in: int, inputs: int) -> TiltedBeta:
        rows = size // fan_in
        of_all = {
            "weight": size,
            "kernel": rows * inputs,
            "output": rows,
            "input": inputs,
            "block": -(-rows // block[0]) * -(-inputs // block[1]),
        }[level]
        count = of_all // {"layer": 1, "input": inputs, "output": rows}[learned]
        open_gates = torch.full_like(odds, worth * expected_density)
        return TiltedBeta(open_gates, worth - open_gates, odds, torch.full_like(odds, count))

    return hyper


def _check_learned(
    level: str, sd: str | None, density: str | None, pseudo_gates: float | None, learned_by: str | None
) -> None:
    """Refuses what does not go together, in one sentence."""
    for name, value in {"learned_sd": sd, "learned_density": density}.items():
        if value is not None and value not in LEARNED_LEVELS:
            raise ValueError(
                f"SpikeAndSlab({name}=...) takes None or one of {', '.join(LEARNED_LEVELS)}, not {value!r}"
            )
    if density in ("input", "output") and level not in ("weight", "kernel"):
        raise ValueError(
            f"SpikeAndSlab(learned_density={density!r}) needs several gates an {density}, but level={level!r} has at "
            "most one: take learned_density='layer', or level='weight'"
        )
    if learned_by is not None and learned_by not in GUIDES:
        raise ValueError(f"SpikeAndSlab(learned_by=...) takes None or one of {', '.join(GUIDES)}, not {learned_by!r}")
    if learned_by is not None and sd is None and density is None:
        raise ValueError(
            "SpikeAndSlab(learned_by=...) says how scales are learned, but none is: add learned_sd= or learned_density="
        )
    if pseudo_gates is not None and density is None:
        raise ValueError(
            "SpikeAndSlab(pseudo_gates=...) is the weight of the hyper-prior of pi, which is fixed: add "
            "learned_density="
        )
