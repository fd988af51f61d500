"""Mean-field horseshoe by hand, non-centred: weight = tau lam z on the weights of layers.

z ~ Normal(0, 1) and lam ~ HalfCauchy(1) a weight, tau ~ HalfCauchy(tau0) a layer; guide Normal for z, LogNormal for
the scales. KL of the Normals in closed form; of a LogNormal its entropy and E[log x] are exact, and log(1 + x^2 / s^2)
comes from the draw. With log lam = a + e^r noise, g the gradient of the scaled loss in the weights and
t = 1 - 2 / (1 + lam^2),

    d/da = g w + t,     d/dr = (d/da + 1) e^r noise - 1,

and the same for log tau with the sum of g w over its layer and tau / tau0 in the place of lam; with z = m + v n,

    d/dm = g tau lam + m,    d/d log v = (g tau lam n + v) v - 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmarks.flat_network import FlatNetwork, Setup, gradient, is_layer_weight, leaf

START = 0.1  # sd of the guide's logarithms, and of z in units of its root mean square


class FlatHorseshoe(FlatNetwork):
    """Scales in one vector, all lam and then all tau; z in another; every large buffer reused.

    Args:
        network: The network; weights of its linear layers and convolutions have the prior.
        setup: Sizes and rates.
        expected_density: As for `bayesprune.Horseshoe`; default 0.1.
    """

    def __init__(self, network: nn.Module, setup: Setup | None = None, expected_density: float = 0.1) -> None:
        super().__init__(network, setup or Setup(), is_layer_weight(network))
        odds = expected_density / (1.0 - expected_density)
        tau0 = self.weights.new_tensor([odds / math.sqrt(fan_in) for fan_in in self.fan_ins])
        rms = self.weights.new_tensor(self.rms())
        parts = zip(self.weights.split(self.sizes), rms, strict=True)
        self.loc = leaf(torch.cat([torch.zeros_like(self.weights), rms.log()]))
        self.log_scale = leaf(torch.full_like(self.loc, math.log(START)))
        self.z_loc = leaf(torch.cat([part / size for part, size in parts]))
        self.z_log_scale = leaf(torch.full_like(self.weights, math.log(START)))
        self.noise, self.z_noise = torch.empty_like(self.loc), self.empty()
        self.spread, self.size, self.pull = (torch.empty_like(self.loc) for _ in range(3))
        self.z_scale, self.z = self.empty(), self.empty()
        self.inverse_square = tau0.square().reciprocal()
        log_priors = self.count * math.log(2.0 / math.pi) + float((2.0 / math.pi / tau0).log().sum())
        entropies = 0.5 * math.log(2.0 * math.pi * math.e) * len(self.loc)
        self.constant = -log_priors - entropies - 0.5 * self.count
        self.minus_one = self.weights.new_tensor(-1.0)
        lam = slice(self.count)
        self.factors, self.pulls = self.cut(self.size[lam]), self.cut(self.pull[lam])
        self.in_lams, self.in_zs = self.cut(gradient(self.loc)[lam]), self.cut(gradient(self.z_loc))
        self.by_tensor = self.cut(self.weights)
        self.optimize([self.loc, self.log_scale, self.z_loc], [self.z_log_scale])

    def draw(self) -> None:
        """Draws one normal a scale and one a z."""
        self.noise.normal_()
        self.z_noise.normal_()

    def evaluate(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the loss at the drawn noise; writes its gradients."""
        loc, log_scale, z_loc, z_log_scale = (
            t.detach() for t in (self.loc, self.log_scale, self.z_loc, self.z_log_scale)
        )
        lams, taus = slice(self.count), slice(self.count, None)
        spread = torch.exp(log_scale, out=self.spread).mul_(self.noise)
        size = torch.add(loc, spread, out=self.size).exp_()
        pull = torch.mul(size, size, out=self.pull)
        pull[taus].mul_(self.inverse_square)
        pull.add_(1.0)
        # The buffer of a gradient that is written later serves for the logarithm.
        cauchy = torch.log(pull, out=gradient(self.log_scale)).sum()
        torch.div(-2.0, pull, out=pull).add_(1.0)
        for factor, tau in zip(self.factors, size[taus].unbind(), strict=True):
            factor.mul_(tau)
        z_scale = torch.exp(z_log_scale, out=self.z_scale)
        torch.addcmul(z_loc, z_scale, self.z_noise, out=self.z)
        torch.mul(size[lams], self.z, out=self.weights)
        nll, gradients = self.differentiate(x, y)
        in_loc, in_log_scale = gradient(self.loc), gradient(self.log_scale)
        in_tau = []
        for i, g in enumerate(gradients):
            torch.addcmul(self.pulls[i], g, self.by_tensor[i], out=self.in_lams[i])
            torch.mul(g, self.factors[i], out=self.in_zs[i])
            in_tau.append(g.dot(self.by_tensor[i]))
        torch.add(torch.stack(in_tau), pull[taus], out=in_loc[taus])
        torch.addcmul(spread, in_loc, spread, out=in_log_scale).sub_(1.0)
        in_z, in_z_log_scale = gradient(self.z_loc), gradient(self.z_log_scale)
        torch.addcmul(z_scale, in_z, self.z_noise, out=in_z_log_scale)
        torch.addcmul(self.minus_one, in_z_log_scale, z_scale, out=in_z_log_scale)
        in_z.add_(z_loc)
        kl_z = 0.5 * (z_scale.dot(z_scale) + z_loc.dot(z_loc)) - z_log_scale.sum()
        return nll + kl_z + cauchy - loc.sum() - log_scale.sum() + self.constant
