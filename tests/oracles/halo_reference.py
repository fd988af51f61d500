"""HALO written from its formulas: penalty, the authors' training loop, prior moments and log joint.

Seto, Wells and Zhang, "HALO: Learning to Prune Neural Networks with Shrinkage" (arXiv 2008.10183) train

    mean loss(w) + xi * sum_j |w_j| / lambda_j^2 + psi * sum_j |lambda_j|

by two separate SGD-with-momentum optimisers, one for the weights and one for the lambdas, both stepped on
the gradient of the same minibatch, with weight decay on both. The penalty is, up to a constant, minus the
log of a proper joint density, Laplace(0, lambda^2 / xi) for the weight times Gamma(3, psi) for lambda.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.float64]
LossFunction = Callable[[list[torch.Tensor], int], torch.Tensor]


def halo_penalty(
    weights: Sequence[torch.Tensor], lambdas: Sequence[torch.Tensor], xi: float, psi: float
) -> torch.Tensor:
    """Return xi * sum |w| / lambda^2 + psi * sum |lambda| over all tensors (per datum, as in a mean loss)."""
    shrink = sum((w.abs() / lam**2).sum() for w, lam in zip(weights, lambdas, strict=True))
    budget = sum(lam.abs().sum() for lam in lambdas)
    return torch.as_tensor(xi * shrink + psi * budget)


def halo_penalty_gradients(w: Array, lam: Array, xi: float, psi: float) -> tuple[Array, Array]:
    """Return the penalty's gradients in the weights and in the lambdas, differentiated by hand.

    The gradient of |x| at exactly 0 is taken as 0.
    """
    in_weights = xi * np.sign(w) / lam**2
    in_lambdas = -2.0 * xi * np.abs(w) / lam**3 + psi * np.sign(lam)
    return in_weights, in_lambdas


@dataclass(frozen=True)
class HaloStep:
    """What one step saw before it moved anything: all three are per datum, in nats."""

    loss: float
    penalty: float
    objective: float


@dataclass
class HaloTrajectory:
    """Where the loop went.

    Attributes:
        weights: final parameters, shapes as given.
        lambdas: final lambdas, one tensor per regularised parameter.
        steps: loss, penalty and their sum at the start of each step.
        weight_path: parameters after each step, `weight_path[t][i]`.
        lambda_path: lambdas after each step.
    """

    weights: list[torch.Tensor]
    lambdas: list[torch.Tensor]
    steps: list[HaloStep] = field(default_factory=list)
    weight_path: list[list[torch.Tensor]] = field(default_factory=list)
    lambda_path: list[list[torch.Tensor]] = field(default_factory=list)


class _Momentum:
    """SGD with momentum on one array: the buffer is the first gradient, then momentum * buffer + gradient."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.buffer: Array | None = None

    def move(self, value: Array, gradient: Array, learning_rate: float) -> Array:
        self.buffer = gradient.copy() if self.buffer is None else self.momentum * self.buffer + gradient
        return value - learning_rate * self.buffer


def halo_training_loop(
    parameters: Sequence[torch.Tensor],
    loss_fn: LossFunction,
    xi: float,
    psi: float,
    weight_decay: float,
    learning_rate: float,
    momentum: float,
    steps: int,
    lambda_init: float = 1.0,
    regularised: Sequence[bool] | None = None,
) -> HaloTrajectory:
    """Train as the authors do; only the loss is differentiated by autograd, all else is numpy in float64.

    Args:
        parameters: starting values; copied, never changed.
        loss_fn: maps (parameters, step) to the mean loss of that step's minibatch.
        xi: weight of |w| / lambda^2, per datum.
        psi: weight of |lambda|, per datum.
        weight_decay: adds weight_decay * value to the gradient of every weight and of every lambda.
        learning_rate: the same constant for both optimisers.
        momentum: the same for both optimisers.
        steps: number of updates.
        lambda_init: starting value of every lambda.
        regularised: which parameters carry lambdas; default all. The others see the loss and weight decay.
    """
    shapes = [tuple(p.shape) for p in parameters]
    ws: list[Array] = [p.detach().to(torch.float64).cpu().numpy().copy() for p in parameters]
    chosen = list(regularised) if regularised is not None else [True] * len(ws)
    if len(chosen) != len(ws):
        raise ValueError(f"regularised has {len(chosen)} entries for {len(ws)} parameters: give one each.")
    lams: dict[int, Array] = {i: np.full(shapes[i], lambda_init) for i, keep in enumerate(chosen) if keep}
    weight_rules = [_Momentum(momentum) for _ in ws]
    lambda_rules = {i: _Momentum(momentum) for i in lams}
    result = HaloTrajectory([], [])

    for step in range(steps):
        leaves = [torch.tensor(w, dtype=torch.float64, requires_grad=True) for w in ws]
        loss = loss_fn(leaves, step)
        loss_gradients = [g.numpy() for g in torch.autograd.grad(loss, leaves)]
        penalty = sum(xi * float((np.abs(ws[i]) / lams[i] ** 2).sum()) for i in lams)
        penalty += sum(psi * float(np.abs(lam).sum()) for lam in lams.values())
        value = float(loss.detach())
        result.steps.append(HaloStep(value, penalty, value + penalty))

        # Both gradients are taken at the old point, so neither optimiser sees the other's move.
        new_ws = []
        new_lams: dict[int, Array] = {}
        for i, (w, gradient) in enumerate(zip(ws, loss_gradients, strict=True)):
            total = gradient + weight_decay * w
            if i in lams:
                in_w, in_lam = halo_penalty_gradients(w, lams[i], xi, psi)
                total = total + in_w
                in_lam = in_lam + weight_decay * lams[i]
                new_lams[i] = lambda_rules[i].move(lams[i], in_lam, learning_rate)
            new_ws.append(weight_rules[i].move(w, total, learning_rate))
        ws, lams = new_ws, new_lams
        result.weight_path.append([torch.tensor(w) for w in ws])
        result.lambda_path.append([torch.tensor(lam) for lam in lams.values()])

    result.weights = [torch.tensor(w) for w in ws]
    result.lambdas = [torch.tensor(lam) for lam in lams.values()]
    return result


def halo_log_joint(w: Array | float, lam: Array | float, xi: float, psi: float) -> Array:
    """Return log Laplace(w; 0, lam^2 / xi) + log Gamma(lam; 3, rate psi), entry by entry, for lam > 0."""
    w_, lam_ = np.asarray(w, dtype=np.float64), np.asarray(lam, dtype=np.float64)
    scale = lam_**2 / xi
    laplace = -np.log(2.0 * scale) - np.abs(w_) / scale
    gamma = 3.0 * math.log(psi) - math.log(2.0) + 2.0 * np.log(lam_) - psi * lam_
    return np.asarray(laplace + gamma)


def halo_log_joint_constant(xi: float, psi: float) -> float:
    """Return log(xi psi^3 / 4), which is log joint plus penalty for one weight at any (w, lambda)."""
    return math.log(xi * psi**3 / 4.0)


def halo_prior_moments(kappa: float) -> tuple[float, float]:
    """Return (E|w|, E w^2) = (12 / kappa, 720 / kappa^2) of the marginal prior, kappa = xi psi^2.

    Given lambda, E|w| = lambda^2 / xi and E w^2 = 2 lambda^4 / xi^2; Gamma(3, psi) has
    E lambda^2 = 12 / psi^2 and E lambda^4 = 360 / psi^4.
    """
    return 12.0 / kappa, 720.0 / kappa**2


def halo_marginal_density(w: float, xi: float, psi: float) -> float:
    """Return p(w), lambda integrated out by quadrature.

    The trapezium rule in log lambda: the integrand is smooth and dies off at both ends, where the rule
    converges exponentially fast and keeps its relative accuracy far into the tail of w.
    """
    step = 0.02
    log_lam = math.log(3.0 / psi) + np.arange(-40.0, 6.0, step)
    return float(step * np.exp(halo_log_joint(w, np.exp(log_lam), xi, psi) + log_lam).sum())
