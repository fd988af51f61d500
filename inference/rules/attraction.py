"""Attraction to zero: when a gated unit cannot come back, so that it can be removed while the others are trained.

With w the weights that read a unit, theta the probability of its gate, C the expected loss per datum, kappa the price
of the gate and l the weight decay, training follows the projected gradient flow

    dw/dt = -(dC/dw + l w),    dtheta/dt = -rate (C(gate open) - C(gate closed) + kappa),    theta in [0, 1].

A unit whose readers are zero does nothing. If L bounds the gradient of the loss in the readers' effective weights
(gate times w), opening the gate gains at most L |w|, and the loss pulls at w with at most theta L. So for every r
below kappa / L the set of |w| <= r and theta <= l r / L is never left: on its border |w| grows at a rate of at most
theta L - l r <= 0, and theta falls at a rate of at least rate (kappa - L r) > 0 until it is zero, after which w decays
as exp(-l t). That there are such sets is said in Guenter & Sideris, "Complexity-Aware Training of Deep Neural Networks
for Optimal Structure Discovery" (arXiv 2411.09127, abstract); this one is derived here. It cannot be larger: where the
loss falls by L for each unit of |w|, every point beyond its corner goes to theta = 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from bayesprune.models.units.channel_groups import Units

__all__ = ["attraction_bounds", "fan_out_norms", "is_attracted", "lipschitz_estimates", "time_to_zero"]


def attraction_bounds(kappa: Tensor | float, decay: float, lipschitz: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of the set from which a unit goes to zero.

    Args:
        kappa: Price of a gate in nats per datum, not negative: one number, or one a unit.
        decay: Weight decay of the readers in nats per datum, positive: 1 / (weight_scale^2 data_size) for a Normal
            prior.
        lipschitz: Bounds L on the norm of the gradient of the mean loss in the readers' effective weights, in nats
            per datum, not negative, `(units,)`.

    Returns:
        kappa / L for the norm of the readers and decay * kappa / L^2 for theta, `(units,)` each; infinite where L is
        zero, and zero where kappa is.

    Raises:
        ValueError: If an argument is out of range.
    """
    if not 0.0 < decay < math.inf:
        raise ValueError(f"decay must be positive, not {decay}: without it the readers of a closed unit do not shrink")
    price = torch.as_tensor(kappa, dtype=lipschitz.dtype, device=lipschitz.device)
    for name, value in (("kappa", price), ("lipschitz", lipschitz)):
        if bool((value < 0).any()):
            raise ValueError(f"{name} must not be negative, but its smallest entry is {float(value.min())}")
    norm_bound = torch.where(price > 0, price / lipschitz, 0.0)
    theta_bound = torch.where(price > 0, decay * price / lipschitz.square(), 0.0)
    return norm_bound, theta_bound


def is_attracted(norms: Tensor, theta: Tensor, kappa: Tensor | float, decay: float, lipschitz: Tensor) -> Tensor:
    """Which units are inside the set from which they go to zero; boolean, `(units,)`.

    Args:
        norms: Norms of the weights that read each unit, from `fan_out_norms`, `(units,)`.
        theta: Probabilities of the gates, `(units,)`.
        kappa: As for `attraction_bounds`.
        decay: As for `attraction_bounds`.
        lipschitz: As for `attraction_bounds`.

    Raises:
        ValueError: As `attraction_bounds` does.
    """
    norm_bound, theta_bound = attraction_bounds(kappa, decay, lipschitz)
    return (norms < norm_bound) & (theta < theta_bound)


def time_to_zero(
    norms: Tensor, theta: Tensor, kappa: Tensor | float, decay: float, lipschitz: Tensor, rate: float = 1.0
) -> Tensor:
    """A bound on the time until theta is zero, theta / (rate (kappa - L r)) in the smallest set that holds the unit.

    Args:
        norms: As for `is_attracted`.
        theta: As for `is_attracted`.
        kappa: As for `attraction_bounds`.
        decay: As for `attraction_bounds`.
        lipschitz: As for `attraction_bounds`.
        rate: Learning rate of theta over that of the weights; default 1.

    Returns:
        Times of the flow, which are learning rates of the weights times steps, `(units,)`; infinite for units that
        are not attracted.

    Raises:
        ValueError: As `attraction_bounds` does, or if the rate is not positive.
    """
    if not rate > 0.0:
        raise ValueError(f"rate is the learning rate of theta over that of the weights and positive, not {rate}")
    attracted = is_attracted(norms, theta, kappa, decay, lipschitz)
    radius = torch.maximum(norms, theta * lipschitz / decay)
    return torch.where(attracted, theta / (rate * (kappa - lipschitz * radius)), math.inf)


def fan_out_norms(tensors: Mapping[str, Tensor], sets: Mapping[str, Units]) -> dict[str, Tensor]:
    """Norm of all that reads each unit: its columns in all readers together.

    Args:
        tensors: Weights of all readers, or their gradients, by name.
        sets: Units by name of set, such as `ChannelGroups.sets`.

    Returns:
        Norms by name of set, `(units,)`; zero for a unit that nothing reads.

    Raises:
        KeyError: If a reader is not among the tensors.
    """
    norms = {}
    for name, units in sets.items():
        squares = next(iter(tensors.values())).new_zeros(units.count)
        for part in units.slices:
            if part.role == "input":
                columns = tensors[part.tensor].detach().movedim(part.dim, 0).flatten(1).square().sum(dim=1)
                mine = (part.unit >= 0).to(columns.device)
                squares.index_add_(0, part.unit.to(columns.device)[mine], columns[mine])
        norms[name] = squares.sqrt()
    return norms


def lipschitz_estimates(gradients: Iterable[Mapping[str, Tensor]], sets: Mapping[str, Units]) -> dict[str, Tensor]:
    """Estimates L of each unit: the largest norm that its readers' gradient has on a number of batches.

    It is an estimate from below, as other weights and other gates may give larger gradients: allow for a factor.

    Args:
        gradients: For each batch, gradients of the mean loss in the effective weights of all readers (weights times
            gates), by name.
        sets: As for `fan_out_norms`.

    Returns:
        Estimates in nats per datum, by name of set, `(units,)`.

    Raises:
        ValueError: If there is no batch.
        KeyError: If a reader is not among the gradients.
    """
    largest: dict[str, Tensor] = {}
    for batch in gradients:
        for name, norm in fan_out_norms(batch, sets).items():
            largest[name] = torch.maximum(largest[name], norm) if name in largest else norm
    if sets and not largest:
        raise ValueError("there are no gradients to estimate from: pass those of at least one batch")
    return largest
