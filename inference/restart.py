"""A restart: one of several independent fits of the same model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bayesprune.inference.guides.guide import Guide
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["Restart"]


@dataclass
class Restart:
    """One of several independent fits.

    Attributes:
        model: The model with its fitted point estimates and buffers.
        guide: The fitted guide.
        seed: Its random seed.
        fisher: Diagonal Fisher information by tensor, where an inclusion event needs it.
    """

    model: BayesianNetwork
    guide: Guide
    seed: int
    fisher: dict[str, Tensor] | None = None
