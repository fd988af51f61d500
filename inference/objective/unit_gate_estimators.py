"""Unit-gate estimators: the gradient of the expected loss with respect to the probabilities of gates on units.

With independent gates, open with probability theta, and C the mean negative log-likelihood of a batch, the expected
loss is F(theta) = E[C(gates)]. It is affine in each theta, and its derivative is the mean effect of the unit,
dF/dtheta_i = E[C(gate i open) - C(gate i closed)], over draws of the other gates; it does not depend on theta_i.

The extension point ``UnitGateEstimator`` estimates it together with the gradient of F with respect to the weights.
Where masks can be drawn for each example on its own, all estimators here do so; else one mask holds for the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bayesprune.inference.guides.functional import is_functional
from bayesprune.models.distributions.hard_concrete import hard_concrete

GateNll = Callable[[Mapping[str, Tensor]], Tensor]
"""Values of the gates by site, each (units,) or (batch, units), to the negative log-likelihood of each example in nats,
(batch,), differentiable in the weights and the values. The first call, which moves the statistics of batch
normalisation, has to be one with gradients. It has to work under `torch.func.vmap` over values of gates."""


@dataclass(frozen=True)
class Gates:
    """The gates of one step.

    Attributes:
        theta: Probabilities that gates are open, (units,) in [0, 1], by site; parameters that require a gradient.
        live: Which gates are still trained, boolean, (units,), by site; the others are absorbed at zero.
        batch: Number of examples in the batch.
        per_example: Whether the network takes a mask for each example, (batch, units).
    """

    theta: dict[str, Tensor]
    live: dict[str, Tensor]
    batch: int
    per_example: bool


@dataclass(frozen=True)
class Estimate:
    """What an estimator returns.

    Attributes:
        surrogate: A scalar. Its value is an estimate of F in nats per example, and its gradient with respect to weights
            and theta is the estimate of the gradient of F.
        weight: Factor on the gradient of the penalty on theta in this step, (units,), by site; None: ones. It lets an
            estimator that sees some of the units at a time move them by both parts of the gradient at once.
    """

    surrogate: Tensor
    weight: dict[str, Tensor] | None = None


class UnitGateEstimator(Protocol):
    """Estimates the gradient of the expected loss; the extension point of this module.

    One that runs the network more than once a step may say so by an attribute `evaluations`, the number of forward
    passes beside the step's own; `training_costs` counts them.
    """

    def __call__(self, nll: GateNll, gates: Gates) -> Estimate:
        """Returns the surrogate of one step."""
        ...


@dataclass(frozen=True)
class ExactToggle:
    """Flips some units, each once against one draw of all gates, and takes the differences of the losses.

    Unbiased, also at theta 0 and 1, since the effect C(open) - C(closed) of a unit does not depend on its own draw. A
    random subset of the live units is flipped, in proportion from all sites, so that each unit has its turn with
    probability units / live; its gradient, and by `Estimate.weight` that of the penalty, is multiplied by live / units.
    The weights' gradient is that of the draw before the flips, and flips repeat its random numbers (dropout).

    Attributes:
        units: Units that are flipped in one step, each a forward pass without gradient; default 16.
        chunk: Largest number of examples times flips that are evaluated at once (one flip always is); default 4096.
    """

    units: int = 16
    chunk: int = 4096

    @property
    def evaluations(self) -> int:
        """Forward passes beside the step's own."""
        return self.units

    def __post_init__(self) -> None:
        _require_at_least("ExactToggle(units=...)", self.units, 1)
        _require_at_least("ExactToggle(chunk=...)", self.chunk, 1)

    def __call__(self, nll: GateNll, gates: Gates) -> Estimate:
        """Returns the surrogate of one step, and the weight of the penalty."""
        chosen, factor = _subset(gates.live, self.units)
        base = _draw(gates)
        masks, noise = _masks(base, gates), _random_state(gates)
        losses = nll(masks)
        before = _by_mask(losses.detach(), gates)
        gradient = {site: torch.zeros_like(theta) for site, theta in gates.theta.items()}
        weight = {site: torch.zeros_like(theta) for site, theta in gates.theta.items()}
        for site, indices in chosen.items():
            weight[site][indices] = factor
            for part in indices.split(max(1, self.chunk // gates.batch)):
                open_before = base[site][:, part].T  # (flips, masks)
                flipped = base[site].repeat(len(part), 1, 1)
                flipped[torch.arange(len(part), device=part.device), :, part] = 1.0 - open_before
                after = _losses_of(nll, masks, _masks({site: flipped}, gates), noise)
                effects = (1.0 - 2.0 * open_before) * (_by_mask(after, gates) - before)
                gradient[site][part] = factor * effects.mean(1).to(gradient[site].dtype)
        return Estimate(_with_gradient(losses.mean(), gates, gradient), weight)


@dataclass(frozen=True)
class Trapezoid:
    """The derivative C' of the loss along a gate at the end drawn, times 1/2 [gate / theta + (1 - gate) / (1 - theta)].

    The mean is 1/2 [C'(1) + C'(0)], the trapezoid rule for C(1) - C(0) = integral of C' over the gate's edge: exact
    where C is quadratic along each edge and theta lies in [clamp, 1 - clamp], otherwise biased. Outside the derivative
    at the end that is rarely drawn counts for too little; at theta 1 what is left is C'(1) / 2 / (1 - clamp), at 0
    likewise. One evaluation and one backward pass for all gates. It has the mean of ReinMax's second-order rule for two
    categories (Liu et al. 2023, "Bridging discrete and backpropagation: straight-through and beyond").

    Attributes:
        clamp: Distance from 0 and 1 that theta is held to in the weights of the two ends; in (0, 1/2], default 0.05.
    """

    clamp: float = 0.05

    def __post_init__(self) -> None:
        if not 0.0 < self.clamp <= 0.5:
            raise ValueError(f"Trapezoid(clamp=...) is {self.clamp}, expected a number in (0, 0.5]: leave it at 0.05")

    def __call__(self, nll: GateNll, gates: Gates) -> Estimate:
        """Returns the surrogate of one step."""
        drawn, factors = _draw(gates), {}
        for site, gate in drawn.items():
            held = gates.theta[site].detach().clamp(self.clamp, 1.0 - self.clamp)
            factors[site] = 0.5 * (gate / held + (1.0 - gate) / (1.0 - held))
        return Estimate(nll(_masks(_through(drawn, gates, factors), gates)).mean())


@dataclass(frozen=True)
class StraightThrough:
    """The derivative of the loss at the gate that was drawn, as if a draw were its theta (Bengio et al. 2013).

    Its mean is theta C'(1) + (1 - theta) C'(0) in place of the integral of C' from 0 to 1: biased unless C is affine
    along each gate's edge. In a network at a stationary point of the weights, C'(1) is only minus the energy of weight
    decay, so at theta near 1 the usefulness of a unit is not seen. Defined at theta 0 and 1. One evaluation.
    """

    def __call__(self, nll: GateNll, gates: Gates) -> Estimate:
        """Returns the surrogate of one step."""
        drawn = _draw(gates)
        return Estimate(nll(_masks(_through(drawn, gates, dict.fromkeys(drawn, 1.0)), gates)).mean())


@dataclass(frozen=True)
class ReinforceLeaveOneOut:
    """Loss times score of the gates, each draw against the mean loss of the others (Kool, van Hoof & Welling 2019).

    Unbiased at theta in (0, 1), with a variance that grows with the number of gates and as 1 / theta / (1 - theta). At
    theta 0 and 1, where the gates never differ from theta, the estimate is zero whatever the unit does. The weights'
    gradient is that of the first draw.

    Attributes:
        particles: Draws of all gates, each an evaluation; at least 2, default 4.
    """

    particles: int = 4

    @property
    def evaluations(self) -> int:
        """Forward passes beside the step's own."""
        return self.particles - 1

    def __post_init__(self) -> None:
        _require_at_least("ReinforceLeaveOneOut(particles=...)", self.particles, 2)

    def __call__(self, nll: GateNll, gates: Gates) -> Estimate:
        """Returns the surrogate of one step."""
        drawn = _draw(gates, self.particles)
        surrogate, losses = _first_and_all(nll, drawn, gates)
        advantage = (losses - losses.mean(0)) * (self.particles / (self.particles - 1))
        gradient = {}
        for site, gate in drawn.items():
            theta = gates.theta[site].detach()
            gradient[site] = _mean_product(advantage, gate - theta, theta * (1.0 - theta))
        return Estimate(_with_gradient(surrogate, gates, gradient))


@dataclass(frozen=True)
class DisARM:
    """Differences of the loss between antithetic draws of all gates (Dong, Mnih & Tucker 2020).

    From one uniform number come a gate b and its opposite b~. The paper's estimate in the logit of theta is
    1/2 (C(b) - C(b~)) (-1)^b~ 1[b != b~] max(theta, 1 - theta). In theta, divided by theta (1 - theta), it is
    (C(b) - C(b~)) (b - b~) / 2 / min(theta, 1 - theta). Unbiased at theta in (0, 1), with less noise than a score; at
    theta 0 and 1 it is zero whatever the unit does. The weights' gradient is that of the first draw.

    Attributes:
        pairs: Antithetic pairs, each two evaluations; default 1.
    """

    pairs: int = 1

    @property
    def evaluations(self) -> int:
        """Forward passes beside the step's own."""
        return 2 * self.pairs - 1

    def __post_init__(self) -> None:
        _require_at_least("DisARM(pairs=...)", self.pairs, 1)

    def __call__(self, nll: GateNll, gates: Gates) -> Estimate:
        """Returns the surrogate of one step."""
        drawn = {}
        for site, uniform in _uniform(gates, self.pairs).items():
            theta = gates.theta[site].detach()
            drawn[site] = torch.cat([uniform < theta, uniform >= 1.0 - theta]).to(theta.dtype)
        surrogate, losses = _first_and_all(nll, drawn, gates)
        difference = losses[: self.pairs] - losses[self.pairs :]
        gradient = {}
        for site, gate in drawn.items():
            theta = gates.theta[site].detach()
            gap = gate[: self.pairs] - gate[self.pairs :]
            gradient[site] = _mean_product(difference, gap, 2.0 * torch.minimum(theta, 1.0 - theta))
        return Estimate(_with_gradient(surrogate, gates, gradient))


@dataclass(frozen=True)
class HardConcreteRelaxation:
    """Gates that take all values in [0, 1], with a gradient through the draw (Louizos, Welling & Kingma 2018).

    Their eq. 10 and 11 at log alpha = logit theta, so that theta is the probability of a gate above 1/2, and the law of
    1 - z at theta is that of z at 1 - theta. (That of z != 0, eq. 12, is larger: taken for theta, it was seen to give
    gradients several times too large.) The estimate is unbiased for the expected loss of these gates. For that of
    Bernoulli gates all of it is biased: the value, the gradient of theta, and that of the weights, which see gates
    between 0 and 1. At theta 0 and 1 gates are 0 and 1, and the gradient of theta is zero. One evaluation and one
    backward pass for all gates.
    """

    def __call__(self, nll: GateNll, gates: Gates) -> Estimate:
        """Returns the surrogate of one step."""
        drawn = {}
        for site, parameter in gates.theta.items():
            theta = torch.where(gates.live[site], parameter, parameter.detach())
            tiny = torch.finfo(theta.dtype).eps
            log_alpha = torch.logit(theta.clamp(tiny, 1.0 - tiny))
            noise = torch.randn(_rows(gates), len(theta), dtype=theta.dtype, device=theta.device)
            at_end = (theta <= 0.0) | (theta >= 1.0)
            drawn[site] = torch.where(at_end, theta.detach(), hard_concrete(log_alpha, noise))
        return Estimate(nll(_masks(drawn, gates)).mean())


ESTIMATORS: dict[str, Callable[[], UnitGateEstimator]] = {
    "exact-toggle": ExactToggle,
    "trapezoid": Trapezoid,
    "straight-through": StraightThrough,
    "reinforce-loo": ReinforceLeaveOneOut,
    "disarm": DisARM,
    "hard-concrete": HardConcreteRelaxation,
}
"""Estimators by name."""


def estimator_named(estimator: str | UnitGateEstimator) -> UnitGateEstimator:
    """Returns the estimator of that name with its defaults, or the estimator itself.

    Args:
        estimator: A key of `ESTIMATORS`, or an estimator.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(estimator, str) and estimator in ESTIMATORS:
        return ESTIMATORS[estimator]()
    if callable(estimator) and not isinstance(estimator, type):
        return estimator
    raise ValueError(
        f"{estimator!r} is not an estimator for unit gates: give one of {', '.join(map(repr, ESTIMATORS))} "
        f"or an object such as ExactToggle(units=32)"
    )


def _require_at_least(what: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{what} is {value}, expected {least} or more: leave it out for the default")


def _subset(live: Mapping[str, Tensor], count: int) -> tuple[dict[str, Tensor], float]:
    """A systematic sample of live units by site, and one over the probability that a unit is in it.

    Every (live / count)-th unit from a random start, each site in random order: exactly equal probabilities, and from
    each site its share to within one.
    """
    sites = {site: mask.nonzero().squeeze(1) for site, mask in live.items()}
    total = sum(len(units) for units in sites.values())
    if count >= total:
        return {site: units for site, units in sites.items() if len(units)}, 1.0
    positions = ((torch.arange(count) + torch.rand((), dtype=torch.float64)) * (total / count)).long()
    chosen, begin = {}, 0
    for site, units in sites.items():
        inside = positions[(positions >= begin) & (positions < begin + len(units))] - begin
        if len(inside):
            chosen[site] = units[torch.randperm(len(units))[inside].to(units.device)]
        begin += len(units)
    return chosen, total / count


def _rows(gates: Gates) -> int:
    """Masks of one draw: the batch's examples, or one for all of them."""
    return gates.batch if gates.per_example else 1


def _uniform(gates: Gates, count: int) -> dict[str, Tensor]:
    """Uniform numbers in [0, 1), (count, masks, units), by site."""
    rows = _rows(gates)
    return {
        site: torch.rand(count, rows, len(theta), dtype=theta.dtype, device=theta.device)
        for site, theta in gates.theta.items()
    }


def _draw(gates: Gates, count: int | None = None) -> dict[str, Tensor]:
    """Zeros and ones with the gates' probabilities, (masks, units) or (count, masks, units), by site."""
    drawn = {site: (u < gates.theta[site]).to(u.dtype) for site, u in _uniform(gates, count or 1).items()}
    return drawn if count else {site: gate[0] for site, gate in drawn.items()}


def _masks(drawn: Mapping[str, Tensor], gates: Gates) -> dict[str, Tensor]:
    """Draws in the shape that the network takes: without the dimension of masks where there is one for the batch."""
    return {site: gate if gates.per_example else gate.squeeze(-2) for site, gate in drawn.items()}


def _by_mask(losses: Tensor, gates: Gates) -> Tensor:
    """Losses (..., batch) of what one mask decides: the examples', or their mean, (..., masks)."""
    return losses if gates.per_example else losses.mean(-1, keepdim=True)


@dataclass(frozen=True)
class _RandomState:
    """Where the random numbers of the CPU and, if the gates are on one, of a CUDA device stand."""

    cpu: Tensor
    cuda: Tensor | None
    device: torch.device


def _random_state(gates: Gates) -> _RandomState:
    device = next(iter(gates.theta.values())).device
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return _RandomState(torch.get_rng_state(), cuda, device)


@contextmanager
def _replayed(state: _RandomState) -> Iterator[None]:
    """Inside, random numbers start from the state; after it, they go on as if there had been none inside."""
    with torch.random.fork_rng([] if state.cuda is None else [state.device]):
        torch.set_rng_state(state.cpu)
        if state.cuda is not None:
            torch.cuda.set_rng_state(state.cuda, state.device)
        yield


def _losses_of(nll: GateNll, fixed: Mapping[str, Tensor], varied: dict[str, Tensor], noise: _RandomState) -> Tensor:
    """Losses, (values, batch), without gradient, of values of some sites stacked in front, the other sites fixed."""
    if is_functional():
        raise NotImplementedError("evaluations that repeat random numbers are no operation of a graph")
    with torch.no_grad(), _replayed(noise):
        return torch.func.vmap(lambda values: nll({**fixed, **values}), randomness="same")(varied)


def _first_and_all(nll: GateNll, drawn: Mapping[str, Tensor], gates: Gates) -> tuple[Tensor, Tensor]:
    """The mean loss of the first of stacked draws, with gradient, and the losses of all, (draws, masks)."""
    masks, noise = _masks(drawn, gates), _random_state(gates)
    first = nll({site: mask[0] for site, mask in masks.items()})
    others = _losses_of(nll, {}, {site: mask[1:] for site, mask in masks.items()}, noise)
    return first.mean(), _by_mask(torch.cat([first.detach()[None], others]), gates)


def _mean_product(losses: Tensor, gates: Tensor, scale: Tensor) -> Tensor:
    """Mean over draws and masks of losses (draws, masks) times gates (draws, masks, units) / scale; 0 at scale 0."""
    mean = torch.einsum("dm,dmu->u", losses.to(gates.dtype), gates) / losses.numel()
    return torch.where(scale > 0.0, mean / scale, 0.0)


def _through(drawn: Mapping[str, Tensor], gates: Gates, factors: Mapping[str, Tensor | float]) -> dict[str, Any]:
    """The same draws with a gradient to theta: the factor times that of the gate, nothing where it is not live."""
    through = {}
    for site, gate in drawn.items():
        theta = gates.theta[site]
        through[site] = gate + gates.live[site] * factors[site] * (theta - theta.detach())
    return through


def _with_gradient(loss: Tensor, gates: Gates, gradient: Mapping[str, Tensor]) -> Tensor:
    """The loss, with this gradient with respect to theta where gates are live."""
    for site, theta in gates.theta.items():
        term = (theta * gradient[site] * gates.live[site]).sum()
        loss = loss + term - term.detach()
    return loss
