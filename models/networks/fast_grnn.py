"""FastGRNN: a recurrent cell whose gate and update share their two matrices (Kusupati et al. 2018, NeurIPS)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bayesprune.models.networks.recurrent import Cell, RecurrentNetwork, recurrent_network

__all__ = ["FastGRNN", "fast_grnn"]


class FastGRNN(Cell):
    """Fast gated recurrent cell, by the equations and starting values of EdgeML's code.

    p = W x + U h, z = sigmoid(p + b_z), c = tanh(p + b_c), h' = z h + (sigmoid(zeta) (1 - z) + sigmoid(nu)) c, with two
    numbers zeta and nu. Matrices start as 0.1 Normal(0, 1), biases at 1, zeta at 1 and nu at -4.

    Args:
        features: Numbers in one step of a sequence.
        hidden: Hidden units.

    Attributes:
        gate_bias: b_z, `(hidden,)`.
        update_bias: b_c, `(hidden,)`.
        zeta: Logit of the share of the update that the gate lets through, `(1,)`.
        nu: Logit of what is let through whatever the gate says, `(1,)`.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__(features, hidden, 1, bias=False)
        self.gate_bias = nn.Parameter(torch.ones(hidden))
        self.update_bias = nn.Parameter(torch.ones(hidden))
        self.zeta = nn.Parameter(torch.ones(1))
        self.nu = nn.Parameter(torch.full((1,), -4.0))
        for layer in (self.input, self.recurrent):
            nn.init.normal_(layer.weight, 0.0, 0.1)

    def step(self, read: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `Cell`."""
        both = read + self.recurrent(state)
        z, c = torch.sigmoid(both + self.gate_bias), torch.tanh(both + self.update_bias)
        hidden = z * state + (torch.sigmoid(self.zeta) * (1.0 - z) + torch.sigmoid(self.nu)) * c
        return hidden, hidden


def fast_grnn(input_shape: Sequence[int] = (28, 28), classes: int = 10, width: float = 1.0) -> RecurrentNetwork:
    """FastGRNN of 64 hidden units over sequences, or the rows of images (6,668 parameters for 28 x 28).

    Arguments, result and errors are those of `bayesprune.models.networks.recurrent.gru`.
    """
    return recurrent_network(FastGRNN, input_shape, classes, width)
