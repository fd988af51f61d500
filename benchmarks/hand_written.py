"""Three hand-written mean-field variational LeNet-300-100 loops: the yardstick for the package's speed.

Model: 784-300-100-10 with ReLU, 266,610 parameters, prior N(0, prior_sd^2) on every one of them, guide
N(loc, scale^2) independently, log scale learned. Each loop minimises the same objective, the negative ELBO
of the full data in nats,

    data_size / batch * sum_i cross entropy_i + KL(guide || prior),

with the KL in closed form and one draw per step. They differ in how they draw and how they store:

* `PerTensor`: six locations and six log scales, autograd through everything; what a careful person writes.
* `Flat`: one flat location, one flat log scale, one noise vector; autograd only through the network, the
  few element-wise derivatives of the draw and the KL by hand, every large buffer reused. It is the loop of
  `benchmarks.hand_written_normal`, which takes any network.
* `LocalReparameterisation` (Kingma, Salimans and Welling 2015): draws pre-activations instead of weights,
  twice the matrix products but 52,480 normals a step instead of 266,610.

Run `python -m benchmarks.hand_written --threads 1`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from bayesprune.models.networks.lenet import lenet_300_100
from benchmarks.flat_network import Setup, gradient
from benchmarks.hand_written_normal import FlatNormal

SHAPES: tuple[tuple[int, ...], ...] = ((300, 784), (300,), (100, 300), (100,), (10, 100), (10,))
SIZES = [math.prod(shape) for shape in SHAPES]
PARAMETERS = sum(SIZES)


class Loop(Protocol):
    """What every loop offers."""

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Make one update on a minibatch; return the loss estimate before it, in nats."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return one loss estimate in nats without moving anything."""

    def flat_parameters(self) -> tuple[Tensor, Tensor]:
        """Return copies of all locations and all log scales, each (266610,)."""


def starting_locations(seed: int) -> Tensor:
    """Return a flat vector of He-scaled weights and zero biases, the same for each loop."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for shape in SHAPES:
        if len(shape) == 2:
            parts.append((torch.randn(shape, generator=generator) * math.sqrt(2.0 / shape[1])).flatten())
        else:
            parts.append(torch.zeros(shape))
    return torch.cat(parts)


def starting_network(seed: int) -> nn.Module:
    """Return LeNet-300-100 at those locations."""
    network = lenet_300_100()
    nn.utils.vector_to_parameters(starting_locations(seed), network.parameters())
    return network


def split(flat: Tensor) -> list[Tensor]:
    """Return the six tensors as views of a flat vector."""
    return [part.view(shape) for part, shape in zip(torch.split(flat, SIZES), SHAPES, strict=True)]


def logits(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """Return the network's outputs, (batch, 10)."""
    h = torch.relu(functional.linear(x, weights[0], weights[1]))
    h = torch.relu(functional.linear(h, weights[2], weights[3]))
    return functional.linear(h, weights[4], weights[5])


class PerTensor:
    """Six locations, six log scales, autograd through draw and KL, one fused Adam over twelve tensors."""

    def __init__(self, setup: Setup | None = None, device: torch.device | str = "cpu") -> None:
        setup = setup or Setup()
        self.locs = [part.clone().requires_grad_() for part in split(starting_locations(setup.seed).to(device))]
        self.log_scales = [torch.full_like(loc, math.log(setup.scale)).requires_grad_() for loc in self.locs]
        self.data_size, self.prior_sd = setup.data_size, setup.prior_sd
        self.optimizer = torch.optim.Adam([*self.locs, *self.log_scales], lr=setup.learning_rate, fused=True)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return one estimate of the negative ELBO in nats."""
        precision = 1.0 / self.prior_sd**2
        weights = []
        kl: Tensor | float = PARAMETERS * (math.log(self.prior_sd) - 0.5)
        for loc, log_scale in zip(self.locs, self.log_scales, strict=True):
            scale = log_scale.exp()
            weights.append(torch.addcmul(loc, scale, torch.randn_like(loc)))
            # A dot product squares and sums in one pass.
            m, s = loc.view(-1), scale.view(-1)
            kl = kl + 0.5 * precision * (s.dot(s) + m.dot(m)) - log_scale.sum()
        nll = functional.cross_entropy(logits(weights, x), y, reduction="sum")
        return nll * (self.data_size / len(x)) + kl

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Make one update."""
        self.optimizer.zero_grad()
        loss = self.loss(x, y)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    def flat_parameters(self) -> tuple[Tensor, Tensor]:
        """Return copies of all locations and all log scales."""
        return (
            torch.cat([t.detach().flatten() for t in self.locs]),
            torch.cat([t.detach().flatten() for t in self.log_scales]),
        )


class Flat(FlatNormal):
    """The loop for any network, on LeNet-300-100; see `benchmarks.hand_written_normal`."""

    def __init__(self, setup: Setup | None = None, device: torch.device | str = "cpu") -> None:
        setup = setup or Setup()
        super().__init__(starting_network(setup.seed).to(device), setup)


class LocalReparameterisation(Flat):
    """Draws each layer's pre-activations from N(h loc' + b, h^2 scale^2' + b_scale^2).

    With variance = scale^2 and g the gradient of the scaled loss in it,

        d/d log scale = variance * (2 g + 1 / prior_sd^2) - 1.
    """

    def __init__(self, setup: Setup | None = None, device: torch.device | str = "cpu") -> None:
        super().__init__(setup, device)
        self.variance = self.scale  # another meaning of the same buffer
        self.mean_leaves = [view.requires_grad_() for view in split(self.loc.detach())]
        self.variance_leaves = [view.requires_grad_() for view in split(self.variance)]
        self.mean_views, self.in_means = split(self.loc.detach()), split(gradient(self.loc))
        self.in_variances = split(gradient(self.log_scale))

    def draw(self) -> None:
        """Draws nothing: the noise has the shapes of the pre-activations."""

    def evaluate(self, x: Tensor, y: Tensor) -> Tensor:
        """Draws; returns one loss estimate; writes its gradients."""
        loc, log_scale, variance = self.loc.detach(), self.log_scale.detach(), self.variance
        torch.mul(log_scale, 2.0, out=variance).exp_()
        means, variances = self.mean_leaves, self.variance_leaves
        h = x
        for layer in (0, 2, 4):
            centre = functional.linear(h, means[layer], means[layer + 1])
            spread = functional.linear(h * h, variances[layer], variances[layer + 1]).sqrt()
            h = torch.addcmul(centre, spread, torch.randn_like(spread))
            if layer < 4:
                h = torch.relu(h)
        nll = functional.cross_entropy(h, y, reduction="sum") * (self.setup.data_size / len(x))
        gradients = torch.autograd.grad(nll, [*means, *variances])
        for i, (g_mean, g_variance) in enumerate(zip(gradients[:6], gradients[6:], strict=True)):
            torch.add(g_mean, self.mean_views[i], alpha=self.precision, out=self.in_means[i])
            torch.mul(g_variance, 2.0, out=self.in_variances[i])
        gradient(self.log_scale).add_(self.precision).mul_(variance).sub_(1.0)
        kl = 0.5 * self.precision * (variance.sum() + loc.dot(loc)) - log_scale.sum() + self.constant
        return nll.detach() + kl


__all__ = ["LOOPS", "Flat", "LocalReparameterisation", "Loop", "PerTensor", "Setup", "time_alternated"]

LOOPS: dict[str, Callable[..., Loop]] = {
    "per_tensor": PerTensor,
    "flat": Flat,
    "local_reparameterisation": LocalReparameterisation,
}


def time_alternated(
    steps: dict[str, Callable[[], object]], blocks: int = 15, steps_per_block: int = 20, warm_up: int = 10
) -> dict[str, float]:
    """Time several steps in turn, block by block, so that drift of the machine hits all alike.

    Args:
        steps: name to a callable that makes one step.
        blocks: timed blocks per name.
        steps_per_block: steps timed together.
        warm_up: untimed steps per name first.

    Returns:
        The median over blocks of milliseconds per step, by name.
    """
    for step in steps.values():
        for _ in range(warm_up):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(blocks):
        for name, step in steps.items():
            begin = time.perf_counter()
            for _ in range(steps_per_block):
                step()
            times[name].append((time.perf_counter() - begin) / steps_per_block * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Time the three loops on random data; print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description="Time three hand-written variational LeNet-300-100 loops.")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--blocks", type=int, default=15, help="timed blocks per loop (default 15)")
    parser.add_argument("--steps", type=int, default=20, help="steps per block (default 20)")
    parser.add_argument("--batch", type=int, default=128, help="examples per step (default 128)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    x, y = torch.rand(options.batch, 784), torch.randint(10, (options.batch,))

    def stepper(loop: Loop) -> Callable[[], object]:
        return lambda: loop.step(x, y)

    steppers = {name: stepper(build()) for name, build in LOOPS.items()}
    medians = time_alternated(steppers, options.blocks, options.steps)
    best = min(medians.values())
    print(f"{'loop':28}{'ms/step':>10}{'x best':>10}   ({options.threads} threads)")
    for name, value in medians.items():
        print(f"{name:28}{value:10.2f}{value / best:10.2f}")
    print(json.dumps({"threads": options.threads, "batch": options.batch, "ms_per_step": medians}))
    return medians


if __name__ == "__main__":
    main()
