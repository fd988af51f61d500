"""Paired spike and slab by hand, one gate a weight on the weights of layers, gates by matched moments.

Prior z ~ Bernoulli(density), slab ~ Normal(0, s^2); guide q(z = 1) = a = sigmoid(l), q(slab | z = 1) = Normal(m, v^2),
q(slab | z = 0) = the prior (Titsias and Lazaro-Gredilla 2011). A step puts in the place of a gate a Normal of its mean
and variance, y = a + sqrt(a (1 - a)) e, and w = y (m + v n). With

    K = log s - log v + (v^2 + m^2) / (2 s^2) - 1/2 + l - log odds of the prior,

the KL divergence is the sum of a K + log(1 - a) - log(1 - density). With g the gradient of the scaled loss in w,

    d/dm = g y + a m / s^2,      d/d log v = (g y n + a v / s^2) v - a,
    d/dl = a (1 - a) K + g slab (a (1 - a) + (1/2 - a) (y - a)).

The last holds where a (1 - a) is above the 1e-12 that the variance is kept from falling below; beyond that, where the
true derivative of y in l is zero, it is off by 1e-6 of g slab.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmarks.flat_network import FlatNetwork, Setup, gradient, is_layer_weight, leaf, spread_start

START_INCLUSION = 0.9


class FlatSpikeAndSlab(FlatNetwork):
    """Slab locations, log scales and log odds, all flat; every large buffer reused.

    Args:
        network: The network; weights of its linear layers and convolutions have the prior.
        setup: Sizes and rates.
        expected_density: Prior inclusion probability; default 0.1. The slab's sd is He's for that density.
    """

    def __init__(self, network: nn.Module, setup: Setup | None = None, expected_density: float = 0.1) -> None:
        super().__init__(network, setup or Setup(), is_layer_weight(network), chunked=True)
        self.loc = leaf(self.weights.clone())
        self.log_scale = leaf(spread_start(self, 0.1))
        start = math.log(START_INCLUSION / (1.0 - START_INCLUSION))
        self.logit = leaf(torch.full_like(self.weights, start))
        precisions = [0.5 * expected_density * fan_in for fan_in in self.fan_ins]
        log_odds = math.log(expected_density / (1.0 - expected_density))
        offsets = [-0.5 * math.log(precision) - 0.5 - log_odds for precision in precisions]
        self.constant = -self.count * math.log1p(-expected_density)
        self.noise, self.gate_noise = self.empty(), self.empty()
        buffers = [self.empty() for _ in range(7)]  # a, p, y, v, slab, K and the slope of y in l
        vectors = [self.loc.detach(), self.log_scale.detach(), self.logit.detach(), self.noise, self.gate_noise]
        slopes = [gradient(self.loc), gradient(self.log_scale), gradient(self.logit)]
        numbers = [self.by_piece(precisions), self.by_piece(offsets)]
        self.drawn = list(zip(*(self.cut(t) for t in (*vectors, *buffers, self.weights)), *numbers, strict=True))
        moved = (vectors[0], self.noise, *buffers[:-1], *slopes)
        self.moved = list(zip(*(self.cut(t) for t in moved), numbers[0], strict=True))
        self.optimize([self.loc], [self.log_scale, self.logit])

    def draw(self) -> None:
        """Draws one normal a slab and one a gate."""
        self.noise.normal_()
        self.gate_noise.normal_()

    def evaluate(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the loss at the drawn noise; writes its gradients."""
        divergences, logs = [], []
        for *parameters, noise, gate_noise, a, p, gate, v, slab, k, slope, weights, precision, offset in self.drawn:
            loc, log_scale, logit = parameters
            torch.sigmoid(logit, out=a)
            torch.exp(log_scale, out=v)
            torch.mul(v, v, out=slope).addcmul_(loc, loc)
            torch.sub(logit, log_scale, out=k).add_(slope, alpha=0.5 * precision).add_(offset)
            divergences.append(a.dot(k))
            logs.append(torch.log(a, out=p).sum() - logit.sum())  # log(1 - a) = log a - l
            torch.addcmul(a, a, a, value=-1.0, out=p)
            off = torch.clamp_min(p, 1e-12, out=gate).sqrt_().mul_(gate_noise)  # y - a
            torch.addcmul(p, off, a, value=-1.0, out=slope).add_(off, alpha=0.5)
            off.add_(a)
            torch.addcmul(loc, v, noise, out=slab)
            torch.mul(gate, slab, out=weights)
            slab.mul_(slope)
            k.mul_(p)
        nll, gradients = self.differentiate(x, y)
        for g, row in zip(gradients, self.moved, strict=True):
            loc, noise, a, _, gate, v, slab, k, in_loc, in_log_scale, in_logit, precision = row
            torch.mul(g, gate, out=in_loc)
            torch.addcmul(k, g, slab, out=in_logit)
            torch.mul(in_loc, noise, out=in_log_scale).addcmul_(a, v, value=precision).mul_(v).sub_(a)
            in_loc.addcmul_(a, loc, value=precision)
        return nll + torch.stack(divergences).sum() + torch.stack(logs).sum() + self.constant
