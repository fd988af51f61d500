"""What the hand-written loops stand on: a network whose parameters are views of flat vectors.

A flat vector takes one call for an operation over all weights, where a list of tensors takes one for each; buffers are
made once. The forward pass and the gradient in the weights are PyTorch's own: that is the part in which nothing can be
saved by hand.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

MANY_TENSORS = 16
"""From so many tensors on, one concatenation of their gradients is cheaper than calls for each."""
CHUNK, LARGE = 65_536, 1_000_000
"""Above LARGE weights a CPU does better with operations on CHUNK of them at a time, which stay in its cache."""


@dataclass(frozen=True)
class Setup:
    """What the loops share.

    Attributes:
        seed: of the starting locations, where a loop makes its network itself.
        data_size: N, the examples that the likelihood stands for.
        prior_sd: sd of a Normal prior on every parameter.
        scale: starting sd of a Normal guide.
        learning_rate: of Adam.
        spread_rate: factor on the learning rate of log scales and log odds, as in `bayesprune.fit`.
    """

    seed: int = 0
    data_size: int = 60_000
    prior_sd: float = 0.1
    scale: float = 0.01
    learning_rate: float = 1e-3
    spread_rate: float = 10.0


def is_layer_weight(network: nn.Module) -> Callable[[str], bool]:
    """Returns the test whether a parameter is the weight of a linear layer or a convolution."""
    names = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
    }
    return names.__contains__


def leaf(values: Tensor) -> Tensor:
    """Returns a leaf for the optimizer, with a gradient buffer that is written in place."""
    made = values.detach().requires_grad_()
    made.grad = torch.zeros_like(made)
    return made


def gradient(parameter: Tensor) -> Tensor:
    """Returns the gradient buffer of a `leaf`."""
    assert parameter.grad is not None
    return parameter.grad


class FlatNetwork:
    """A copy of a network on flat vectors, and its data term; the base of the loops.

    Args:
        network: Copied; in training mode.
        setup: Sizes and rates.
        has_prior: Whether the parameter of this name has a prior; those without are point estimates.
        joined: Whether gradients are gathered to one vector where there are many tensors or a GPU, where every call
            counts; the loop then sees one piece. Default False: a piece for each tensor.
        chunked: Whether pieces are cut further on a CPU where there are more than LARGE weights. Default False.

    Attributes:
        weights: `(weights,)`, all parameters with a prior in the network's order, read by the network.
        points: `(points,)`, the others; a leaf.
        shapes: Shapes of the tensors with a prior.
        fan_ins: Their fan-in.
        sizes: Their numbers of entries.
    """

    def __init__(
        self,
        network: nn.Module,
        setup: Setup,
        has_prior: Callable[[str], bool],
        joined: bool = False,
        chunked: bool = False,
    ) -> None:
        self.network, self.setup = copy.deepcopy(network).train(), setup
        parameters = dict(self.network.named_parameters())
        self.tensors = [p for name, p in parameters.items() if has_prior(name)]
        others = [p for name, p in parameters.items() if not has_prior(name)]
        self.shapes = [tuple(p.shape) for p in self.tensors]
        self.sizes = [p.numel() for p in self.tensors]
        self.fan_ins = [p.numel() // len(p) if p.ndim > 1 else 1 for p in self.tensors]
        self.weights = torch.cat([p.detach().reshape(-1) for p in self.tensors])
        self._point_as_views(self.tensors, self.weights)
        self.points = leaf(torch.cat([p.detach().reshape(-1) for p in [*others, self.weights[:0]]]))
        self._point_as_views(others, self.points.detach())
        self._leaves = [*self.tensors, *others]
        self.gathered = None
        if joined and (self.weights.is_cuda or len(self.tensors) > MANY_TENSORS):
            self.gathered = torch.empty_like(self.weights)
        self.chunked = chunked and not self.weights.is_cuda and self.count > LARGE

    @staticmethod
    def _point_as_views(parameters: list[nn.Parameter], flat: Tensor) -> None:
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]) if parameters else (), strict=True):
            p.data = part.view(p.shape)

    @property
    def count(self) -> int:
        """Number of weights with a prior."""
        return len(self.weights)

    def empty(self) -> Tensor:
        """A buffer like the weights, `(weights,)`."""
        return torch.empty_like(self.weights)

    def cut(self, flat: Tensor) -> list[Tensor]:
        """The pieces of a flat vector as `differentiate` returns them: flat, one for each tensor, or one in all."""
        return self._chunks([flat] if self.gathered is not None else flat.split(self.sizes))

    def blocks(self, flat: Tensor) -> list[Tensor]:
        """Blocks of a flat vector for operations to which tensors do not matter: one, or chunks."""
        return self._chunks([flat])

    def by_piece(self, values: Sequence[float]) -> list[float]:
        """One number a tensor to one a piece; there must be a piece for each tensor at least."""
        pieces = [len(self._chunks([part])) for part in self.weights.split(self.sizes)]
        return [value for value, count in zip(values, pieces, strict=True) for _ in range(count)]

    def _chunks(self, parts: Sequence[Tensor]) -> list[Tensor]:
        return [chunk for part in parts for chunk in part.split(CHUNK)] if self.chunked else list(parts)

    def rms(self) -> list[float]:
        """Root mean square of every tensor."""
        return [float(part.square().mean().sqrt()) for part in self.weights.split(self.sizes)]

    def differentiate(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The negative log-likelihood scaled to all data, in nats, and its gradient in the weights, cut.

        That in the points is written to `points.grad`.
        """
        nll = functional.cross_entropy(self.network(x), y, reduction="sum") * (self.setup.data_size / len(x))
        gradients = [g.reshape(-1) for g in torch.autograd.grad(nll, self._leaves)]
        inner, outer = gradients[: len(self.sizes)], gradients[len(self.sizes) :]
        if outer:
            torch.cat(outer, out=gradient(self.points))
        if self.gathered is not None:
            inner = [torch.cat(inner, out=self.gathered)]
        return nll.detach(), self._chunks(inner)

    def optimize(self, locations: list[Tensor], spreads: list[Tensor]) -> None:
        """Makes the optimizer: one fused Adam, with the rates that `bayesprune.fit` gives."""
        rate = self.setup.learning_rate
        groups = [
            {"params": [*locations, *([self.points] if len(self.points) else [])], "lr": rate},
            {"params": spreads, "lr": rate * self.setup.spread_rate},
        ]
        self.optimizer = torch.optim.Adam(groups, lr=rate, fused=True)

    def draw(self) -> None:
        """Fills the noise buffers with standard normals; nothing where a loop has none."""

    def evaluate(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns one loss estimate in nats at the noise in the buffers; writes all gradients."""
        raise NotImplementedError

    def loss_and_gradients(self, x: Tensor, y: Tensor) -> Tensor:
        """Draws; returns one loss estimate in nats; writes all gradients."""
        self.draw()
        return self.evaluate(x, y)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns one loss estimate in nats; the gradient buffers are overwritten."""
        return self.loss_and_gradients(x, y)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Makes one update; returns the loss estimate before it."""
        loss = self.loss_and_gradients(x, y)
        self.optimizer.step()
        return loss


def spread_start(network: FlatNetwork, share: float) -> Tensor:
    """Log scales that start at a share of each tensor's root mean square, `(weights,)`."""
    parts = zip(network.weights.split(network.sizes), network.rms(), strict=True)
    return torch.cat([torch.full_like(part, math.log(share * max(size, 1e-3))) for part, size in parts])
