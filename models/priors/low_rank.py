"""Low rank (STR): a matrix as a sum of components of rank one, those below a learned threshold being exactly zero."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprune.models.checks.shown_values import shown
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import some_component
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.ready_registry import ready
from bayesprune.models.priors.soft_threshold import FORMS, soft_thresholded

__all__ = ["LowRank", "unit_length"]

PRESSURE = Knob(low=1e-6, high=1e9)
"""A factor on the precision of s, whose mode is zero, a threshold of 1/2 or 1."""
BY_MAP = {"optimizer": "adam", "learning_rate": 0.01, "schedule": "cosine"}
"""How its MAP is trained by default."""
_START = 0.01
"""Where a threshold starts, as a share of the root mean square of the singular values."""
_SHORTEST = 1e-12
"""A length below which a vector counts as being of this length, so that none is divided by zero."""


def unit_length(vectors: Tensor, dim: int) -> Tensor:
    """The vectors that lie along a dimension, divided by their lengths; zeros stay zero."""
    return vectors / vectors.square().sum(dim=dim, keepdim=True).sqrt().clamp_min(_SHORTEST)


@ready("low-rank", "matrices of a learned rank: components below a threshold are exactly zero (STR)")
class LowRank(Hierarchy):
    """weight = sum over k of S(m_k, g(s)) a_k b_k', a_k = u_k / |u_k|, b_k = v_k / |v_k|, a matrix of a learned rank.

    S is the soft threshold sign(m) relu(|m| - g(s)) and s one number a tensor, so that whole components are exactly
    zero and the rest are its rank; m ~ Normal(0, m_sd), s ~ Normal(0, sd_s), entries of u and v ~ Normal(0, 1). It is
    the low-rank form of Kusupati et al. 2020 (their code of it is not public), for the matrices of linear layers, such
    as those of `bayesprune.models.networks.recurrent`. `compact` turns what it has learned into two thin layers.

    Scale: u_k, m_k and v_k could trade factors at the same weight, so that thresholds on m would mean nothing. Only
    the directions of u_k and v_k are used here. m then is a size like a singular value, equally for every component;
    the least sum of |m_k| that gives a matrix is the sum of its singular values. Lengths of u_k and v_k are left to
    their priors, which make all directions alike.

    Args:
        pressure: Precision of s for each weight that the components hold, sd_s^-2 = pressure x rank x (out + in);
            default 0.02.
        rank: Largest rank, at most the fewer of rows and columns; default None: that.
        m_sd: Standard deviation of m; default None: sqrt(10 out / rank), where a fifth of the components make
            weights of He's scale.
        init: Where s starts; default None: where the threshold is a hundredth of the root mean square of the
            network's singular values.
        g: ``"exp"`` (default) or ``"sigmoid"``, which is below 1: too little for matrices of large singular values.

    Raises:
        ValueError: If an argument is out of range; on a network, if a tensor is no matrix or has fewer rows or columns
            than `rank`.
    """

    def __init__(
        self,
        pressure: float = 0.02,
        rank: int | None = None,
        m_sd: float | None = None,
        init: float | None = None,
        g: str = "exp",
    ) -> None:
        for name, value in {"pressure": pressure, "m_sd": m_sd}.items():
            if value is not None and not 0.0 < value < math.inf:
                raise ValueError(f"LowRank({name}=...) must be positive, not {shown(value)}")
        if rank is not None and rank < 1:
            raise ValueError(f"LowRank(rank=...) must be at least 1, not {shown(rank)}: leave it out to learn it")
        if g not in FORMS:
            raise ValueError(f"LowRank(g=...) takes one of {', '.join(FORMS)}, not {shown(g)}")
        form, inverse = FORMS[g]
        self.rank = rank

        def most(outputs: int, inputs: int) -> int:
            return min(outputs, inputs) if rank is None else rank

        def precision(outputs: int, inputs: int) -> float:
            return pressure * most(outputs, inputs) * (outputs + inputs)

        def of_layer(size: int, fan_in: int, pressure: Tensor) -> dist.Normal:
            return dist.Normal(0.0, (precision(size // fan_in, fan_in) * pressure).rsqrt())

        def sizes(size: int, fan_in: int) -> dist.Normal:
            outputs = size // fan_in
            return dist.Normal(0.0, math.sqrt(10.0 * outputs / most(outputs, fan_in)) if m_sd is None else m_sd)

        def parts(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            u, m, v = torch.linalg.svd(weight.double(), full_matrices=False)
            return u[:, :rank].to(weight), m[:rank].to(weight), v[:rank].to(weight)

        def start(weight: Tensor, fan_in: int) -> Tensor:
            rms = parts(weight)[1].square().mean().sqrt()
            return inverse((_START * rms).clamp(1e-3 * _START / math.sqrt(fan_in), 0.5))

        super().__init__(
            s=Latent(of_layer, per="layer", init=start if init is None else float(init)),
            u=Latent(dist.Normal(0.0, 1.0), dims={"output": None, "rank": rank}, init=lambda weight: parts(weight)[0]),
            m=Latent(sizes, dims={"rank": rank}, init=lambda weight, s: parts(weight)[1] + form(s)),
            v=Latent(dist.Normal(0.0, 1.0), dims={"rank": rank, "input": None}, init=lambda weight: parts(weight)[2]),
            threshold=Latent(lambda s: form(s), per="layer"),
            left=Latent(lambda u: unit_length(u, 0), dims={"output": None, "rank": rank}),
            right=Latent(lambda v: unit_length(v, 1), dims={"rank": rank, "input": None}),
            weight=lambda left, m, threshold, right: (left * soft_thresholded(m, threshold)) @ right,
            included=some_component("m", "threshold"),
            default_guide="map",
            knobs={"pressure": PRESSURE},
        )
        self.map_options = BY_MAP

    def check_tensor(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuses what is no matrix, and a matrix of fewer rows or columns than the rank that was asked for."""
        if len(shape) != 2:
            raise ValueError(
                f"LowRank is for the matrices of linear layers, but {name} has shape {shape}: narrow the pattern"
            )
        if self.rank is not None and self.rank > min(shape):
            raise ValueError(
                f"LowRank(rank={self.rank}) is more than the {min(shape)} that {name} of shape {shape} can have: lower "
                "it, or leave it out"
            )
