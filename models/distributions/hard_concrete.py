"""Hard concrete gates (Louizos, Welling & Kingma 2018): a logistic variable, stretched and cut off at 0 and 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["LOWER", "TEMPERATURE", "UPPER", "hard_concrete", "log_odds_of_open", "stretched", "trained_gate"]

TEMPERATURE, LOWER, UPPER = 2.0 / 3.0, -0.1, 1.1
"""beta, gamma and zeta of the paper: of the concrete variable, and the interval to which it is stretched."""


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
