"""Low rank (STR): a matrix as a sum of components of rank one, those below a learned threshold being exactly zero."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprune.models.checks.shown_values import shown
from bayesprune.models.checks.size_bounds import MOST
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import some_component
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.ready_registry import ready
from bayesprune.models.priors.soft_threshold import BY_MAP, soft_thresholded

__all__ = ["LowRank"]

PRESSURE = Knob(low=1e-6, high=10.0, shift="s", shift_to="sparser", pace=3.0)
"""What `Budget` moves: a factor on the precision of s, whose mean is a threshold as large as components may well be.
Far above its bound steps of an optimizer would go beyond that mean."""
_START = 0.01
"""Where a threshold starts, as a share of the root mean square of the singular values."""
_SHORTEST = 1e-12
"""A length below which a vector counts as being of this length, so that none is divided by zero."""


def lengths(vectors: Tensor, dim: int) -> Tensor:
    """Lengths of the vectors that lie along a dimension, of zeros one that can be divided by."""
    return torch.linalg.vector_norm(vectors, dim=dim).clamp_min(_SHORTEST)


@ready("low-rank", "matrices of a learned rank: components below a threshold are exactly zero (STR)")
class LowRank(Hierarchy):
    """weight = sum over k of S(m_k, exp(s)) (u_k / |u_k|) (v_k / |v_k|)': a matrix of a learned rank.

    S is the soft threshold sign(m) relu(|m| - exp(s)) and s one number a tensor, so that whole components are exactly
    zero, and those that are left are its rank. m ~ Normal(0, m_sd), s ~ Normal(log m_sd, sd_s), entries of u and v ~
    Normal(0, 1). It is the low-rank form of Kusupati et al. 2020, whose own code of it is not public, for matrices of
    linear layers, such as those of `bayesprune.models.networks.recurrent`. `compact` makes two thin layers of each;
    their weights, rank x (out + in), are what `Budget(density=)` counts.

    Scale: at the same weights u_k, m_k and v_k could trade factors, so that a threshold on m would mean nothing. So
    only the directions of u_k and v_k are used. m_k then is a size like a singular value, on one scale for all
    components; the least sum of |m_k| that gives a matrix is the sum of its singular values. What the lengths of u_k
    and v_k are matters to no weight: their priors make all directions alike, and draw lengths of points towards zero by
    weight decay alone, which a fit never comes to the end of.

    Args:
        pressure: Precision of s for each weight that the components hold, sd_s^-2 = pressure x rank x (out + in);
            default 0.2. How hard the threshold is drawn to m_sd, where two thirds of the components are below it.
        rank: Largest rank, at most the fewer of rows and columns; default None: that.
        m_sd: Standard deviation of m; default None: sqrt(10 out / rank), where a fifth of the components make
            weights of He's scale.
        init: Where s, the threshold's logarithm, starts; default None: where the threshold is a hundredth of the root
            mean square of the network's singular values.

    Raises:
        ValueError: If an argument is out of range; on a network, if a tensor is no matrix or has fewer rows or columns
            than `rank`.
    """

    def __init__(
        self, pressure: float = 0.2, rank: int | None = None, m_sd: float | None = None, init: float | None = None
    ) -> None:
        for name, value in {"pressure": pressure, "m_sd": m_sd}.items():
            if value is not None and not 0.0 < value < math.inf:
                raise ValueError(f"LowRank({name}=...) must be positive, not {shown(value)}")
        if rank is not None and rank < 1:
            raise ValueError(f"LowRank(rank=...) must be at least 1, not {shown(rank)}: leave it out to learn it")
        if rank is not None and rank > MOST:  # before components are made for a trial of the hierarchy
            raise ValueError(f"LowRank(rank=...) must be at most {MOST:,}, not {shown(rank)}: leave it out to learn it")
        self.rank = rank

        def most(outputs: int, inputs: int) -> int:
            return min(outputs, inputs) if rank is None else rank

        def sd_of(outputs: int, inputs: int) -> float:
            return math.sqrt(10.0 * outputs / most(outputs, inputs)) if m_sd is None else m_sd

        def precision(outputs: int, inputs: int) -> float:
            return pressure * most(outputs, inputs) * (outputs + inputs)

        def of_layer(size: int, fan_in: int, pressure: Tensor) -> dist.Normal:
            outputs = size // fan_in
            return dist.Normal(math.log(sd_of(outputs, fan_in)), (precision(outputs, fan_in) * pressure).rsqrt())

        def sizes(size: int, fan_in: int) -> dist.Normal:
            return dist.Normal(0.0, sd_of(size // fan_in, fan_in))

        def parts(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            u, m, v = torch.linalg.svd(weight.double(), full_matrices=False)
            return u[:, :rank].to(weight), m[:rank].to(weight), v[:rank].to(weight)

        def start(weight: Tensor, fan_in: int) -> Tensor:
            rms = parts(weight)[1].square().mean().sqrt()
            return (_START * rms).clamp(1e-3 * _START / math.sqrt(fan_in)).log()

        super().__init__(
            s=Latent(of_layer, per="layer", init=start if init is None else float(init)),
            u=Latent(dist.Normal(0.0, 1.0), dims={"output": None, "rank": rank}, init=lambda weight: parts(weight)[0]),
            m=Latent(sizes, dims={"rank": rank}, init=lambda weight, s: parts(weight)[1] + s.exp()),
            v=Latent(dist.Normal(0.0, 1.0), dims={"rank": rank, "input": None}, init=lambda weight: parts(weight)[2]),
            threshold=Latent(lambda s: s.exp(), per="layer"),
            length=Latent(lambda u, v: lengths(u, 0) * lengths(v, 1), dims={"rank": rank}),
            weight=lambda u, m, v, threshold, length: (u * (soft_thresholded(m, threshold) / length)) @ v,
            included=some_component("m", "threshold"),
            default_guide="map",
            knobs={"pressure": PRESSURE},
            budget="pressure",
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
