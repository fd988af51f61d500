"""HALO's MAP by hand: weight ~ Laplace(0, lam^2 / xi), lam ~ Gamma(3, psi) on the weights of layers.

With u = psi lam and kappa = xi psi^2, minus the log joint of a weight and its lam is, up to a constant,

    kappa |w| / u^2 + u:

the lam^2 of the Gamma cancels the normaliser of the Laplace. lam is learned by log u, which moves as log lam does.
With p = sign(w) / u^2 and g the gradient of the scaled loss in w,

    d/dw = g + kappa p,    d/d log u = u - 2 kappa w p.

A weight of exactly zero gets the derivative of its sign bit, where PyTorch's `sign` gives zero: one operation instead
of two, and no difference in training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bayesprune.models.priors.halo import kappa_of
from benchmarks.flat_network import FlatNetwork, Setup, gradient, is_layer_weight, leaf

PSI = 3.0
MEDIAN = 2.674060313754
"""Median of Gamma(3, 1), at which u starts."""


class FlatHalo(FlatNetwork):
    """Weights and log u, both flat; one fused Adam.

    Args:
        network: The network; weights of its linear layers and convolutions have the prior.
        setup: Sizes and rates.
        kappa: xi psi^2; default None: `bayesprune.HALO()`'s for each tensor.
    """

    def __init__(self, network: nn.Module, setup: Setup | None = None, kappa: float | None = None) -> None:
        super().__init__(network, setup or Setup(), is_layer_weight(network), chunked=True)
        self.kappas = [kappa_of(fan_in, kappa) for fan_in in self.fan_ins]
        self.loc = leaf(self.weights)  # the same memory: what Adam moves is what the network reads
        self.log_u = leaf(torch.full_like(self.weights, math.log(MEDIAN)))
        self.constant = sum(
            size * (math.log(4.0 / PSI) - math.log(kappa)) for size, kappa in zip(self.sizes, self.kappas, strict=True)
        )
        self.u, self.signed = self.empty(), self.empty()
        vectors, slopes = (self.weights, self.u, self.signed), (gradient(self.loc), gradient(self.log_u))
        # The same memory twice: in blocks for what does not depend on the tensor, in the pieces of the gradients.
        self.scaled = list(zip(*(self.blocks(t) for t in (self.log_u.detach(), *vectors)), strict=True))
        self.moved = list(zip(*(self.cut(t) for t in (*vectors, *slopes)), self.by_piece(self.kappas), strict=True))
        self.kappa_vector = self.weights.new_tensor(self.by_piece(self.kappas))
        self.optimize([self.loc], [self.log_u])

    def evaluate(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the loss; writes its gradients."""
        penalties, sizes = [], []
        for log_u, weights, u, signed in self.scaled:
            torch.exp(log_u, out=u)
            torch.pow(u, -2, out=signed)
            torch.copysign(signed, weights, out=signed)
            sizes.append(u.sum())
        nll, gradients = self.differentiate(x, y)
        for g, (weights, u, signed, in_loc, in_log_u, kappa) in zip(gradients, self.moved, strict=True):
            torch.add(g, signed, alpha=kappa, out=in_loc)
            torch.addcmul(u, weights, signed, value=-2.0 * kappa, out=in_log_u)
            penalties.append(weights.dot(signed))
        return nll + torch.stack(penalties).dot(self.kappa_vector) + torch.stack(sizes).sum() + self.constant
