"""One reparameterised draw of many Normals stored flat, with the sums that Normal priors need of them.

Autograd through `location + exp(log_scale) * noise`, six cuts and six sums of squares makes a dozen passes over the
parameters and joins the pieces of every gradient anew. Written as one function with its derivatives by hand it is
the same numbers in half the passes; a test holds it to plain autograd.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class NormalDraw(torch.autograd.Function):
    """(location, log_scale, noise, sizes) -> (sums, value of site 1, value of site 2, ...).

    ``sums`` is `(2, sites)`: of location^2 + scale^2 and of log_scale over each site. Values are flat. With
    w = location + scale noise and g the gradient in w, the derivatives are g in location and g noise scale in
    log_scale, plus those of the sums.
    """

    @staticmethod
    def forward(ctx: Any, location: Tensor, log_scale: Tensor, noise: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        """Draws and sums."""
        scale = log_scale.exp()
        values = torch.addcmul(location, scale, noise).split(sizes)
        squares, logs = [], []
        for m, s, r in zip(location.split(sizes), scale.split(sizes), log_scale.split(sizes), strict=True):
            squares.append(m.dot(m) + s.dot(s))
            logs.append(r.sum())
        ctx.save_for_backward(location, scale, noise)
        ctx.sizes = sizes
        ctx.set_materialize_grads(False)
        return (torch.stack(squares + logs).view(2, -1), *values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, sums: Tensor | None, *values: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients in location and log_scale."""
        location, scale, noise = ctx.saved_tensors
        if sums is not None and not sums.is_cpu:
            return (*_without_numbers(ctx, sums, values), None, None)
        squares, logs = ([0.0] * len(ctx.sizes),) * 2 if sums is None else sums.tolist()
        in_location, in_log_scale = torch.empty_like(location), torch.empty_like(location)
        pieces = zip(*(t.split(ctx.sizes) for t in (location, scale, noise, in_location, in_log_scale)), strict=True)
        for (m, s, e, out_m, out_r), g, square, log in zip(pieces, values, squares, logs, strict=True):
            if g is None:
                torch.mul(m, 2.0 * square, out=out_m)
                torch.mul(s, 2.0 * square, out=out_r)
            else:
                torch.add(g, m, alpha=2.0 * square, out=out_m)
                torch.mul(g, e, out=out_r).add_(s, alpha=2.0 * square)
            out_r.mul_(s).add_(log)
        return in_location, in_log_scale, None, None


def _without_numbers(ctx: Any, sums: Tensor, values: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor]:
    """The same where reading numbers would let the host wait for the device."""
    location, scale, noise = (tensor.split(ctx.sizes) for tensor in ctx.saved_tensors)
    in_location, in_log_scale = [], []
    for m, s, e, g, square, log in zip(location, scale, noise, values, 2.0 * sums[0], sums[1], strict=True):
        pull = torch.zeros_like(m) if g is None else g
        in_location.append(torch.addcmul(pull, m, square))
        in_log_scale.append(torch.addcmul(pull * e, s, square).mul_(s).add_(log))
    return torch.cat(in_location), torch.cat(in_log_scale)
