"""Mean-field Normal by hand, for any network: prior N(0, prior_sd^2) and guide N(loc, scale^2) on every parameter.

With w = loc + scale * noise and g the gradient of the scaled loss in w,

    d/d loc       = g + loc / prior_sd^2
    d/d log scale = scale * (g * noise + scale / prior_sd^2) - 1.

What is left is mostly the generator, the network and Adam.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmarks.flat_network import FlatNetwork, Setup, gradient, leaf


class FlatNormal(FlatNetwork):
    """One flat location, one flat log scale, one noise vector, every large buffer reused.

    Args:
        network: The network; its parameters are the starting locations.
        setup: Sizes and rates.
    """

    def __init__(self, network: nn.Module, setup: Setup | None = None) -> None:
        super().__init__(network, setup or Setup(), lambda _: True, joined=True, chunked=True)
        self.loc = leaf(self.weights.clone())
        self.log_scale = leaf(torch.full_like(self.weights, math.log(self.setup.scale)))
        self.noise, self.scale = self.empty(), self.empty()
        self.precision = 1.0 / self.setup.prior_sd**2
        self.constant = self.count * (math.log(self.setup.prior_sd) - 0.5)
        self.minus_one = self.weights.new_tensor(-1.0)
        vectors = (self.loc.detach(), self.log_scale.detach(), self.noise, self.scale)
        slopes = (gradient(self.loc), gradient(self.log_scale))
        # The same memory twice: in blocks for the draw, in the pieces that gradients come in for what follows.
        self.drawn = list(zip(*(self.blocks(t) for t in (*vectors, self.weights)), strict=True))
        self.moved = list(zip(*(self.cut(t) for t in (*vectors, *slopes)), strict=True))
        self.optimize([self.loc], [self.log_scale])

    def draw(self) -> None:
        """Draws one normal a weight."""
        self.noise.normal_()

    def evaluate(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the loss at the drawn noise; writes its gradients."""
        precision, squares, logs = self.precision, [], []
        for loc, log_scale, noise, scale, weights in self.drawn:
            torch.exp(log_scale, out=scale)
            torch.addcmul(loc, scale, noise, out=weights)
            squares += [scale.dot(scale), loc.dot(loc)]
            logs.append(log_scale.sum())
        nll, gradients = self.differentiate(x, y)
        for g, (loc, _, noise, scale, in_loc, in_log_scale) in zip(gradients, self.moved, strict=True):
            torch.add(g, loc, alpha=precision, out=in_loc)
            torch.addcmul(scale, g, noise, value=1.0 / precision, out=in_log_scale)
            torch.addcmul(self.minus_one, in_log_scale, scale, value=precision, out=in_log_scale)
        kl = 0.5 * precision * torch.stack(squares).sum() - torch.stack(logs).sum() + self.constant
        return nll + kl

    def flat_parameters(self) -> tuple[Tensor, Tensor]:
        """Return copies of all locations and all log scales."""
        return self.loc.detach().clone(), self.log_scale.detach().clone()
