"""Soft threshold reparameterisation written from its formulas: the update, the schedule, the threshold's onset.

Kusupati et al., "Soft Threshold Weight Reparameterization for Learnable Sparsity" (ICML 2020, arXiv 2002.03231): each
thresholded tensor W has thresholds s, one in the paper, and the network runs with

    S(W, s) = sign(W) relu(|W| - g(s)),     g(s) = 1 / (1 + exp(-s)), or exp(s).

SGD with momentum minimises the mean loss with weight decay on W, on s, and on all other parameters. The gradients are
those of plain autograd, here by hand: dL/dW = dL/dS where |W| > g(s), else 0, and
dL/ds = -g'(s) sum over the entries that share s of dL/dS sign(W) where |W| > g(s).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]
LossFunction = Callable[[dict[str, Tensor], int], Tensor]
MISTAKES = ("", "sign of ds", "no decay on s", "straight through")


def threshold(s: Array, form: str) -> tuple[Array, Array]:
    """g(s) and its derivative, of the shape of s; exactly zero where g rounds to zero."""
    with np.errstate(over="ignore", under="ignore"):
        if form == "exp":
            return np.exp(s), np.exp(s)
        g = 1.0 / (1.0 + np.exp(-s))
    return g, g * (1.0 - g)


def soft(w: Array, s: Array, form: str = "sigmoid") -> Array:
    """S(W, s), of the shape of W."""
    return np.asarray(np.sign(w) * np.maximum(np.abs(w) - threshold(s, form)[0], 0.0))


def str_gradients(w: Array, s: Array, in_soft: Array, form: str = "sigmoid", mistake: str = "") -> tuple[Array, Array]:
    """Gradients of the loss in W and in s, from the one in S(W, s).

    Args:
        w: The raw weights, `(out, in, ...)`.
        s: Of as many dimensions, with ones where entries share it; or of none.
        in_soft: dL/dS, of the shape of `w`.
        form: ``"sigmoid"`` or ``"exp"``.
        mistake: One of `MISTAKES`, for controls.
    """
    g, slope = threshold(s, form)
    alive = np.abs(w) > g
    each = in_soft * np.sign(w) * alive
    shared = tuple(axis for axis in range(w.ndim) if s.ndim == 0 or s.shape[axis] == 1)
    summed = each.sum(axis=shared, keepdims=s.ndim > 0)
    in_s = slope * summed if mistake == "sign of ds" else -slope * summed
    return in_soft if mistake == "straight through" else in_soft * alive, np.asarray(in_s)


def published_rate(epoch: int, epochs: int, base: float, warmup: int = 5) -> float:
    """The learning rate of an epoch, from 0: linear warm-up, then half a cosine."""
    if epoch < warmup:
        return base * (epoch + 1) / warmup
    return base * 0.5 * (1.0 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


@dataclass
class StrPath:
    """Where the loop ended.

    Attributes:
        parameters: All parameters by name, thresholded ones raw.
        s: Thresholds' s by name of tensor, or of group.
    """

    parameters: dict[str, Array]
    s: dict[str, Array]


def str_training_loop(
    parameters: Mapping[str, Tensor],
    groups: Mapping[str, str],
    s: Mapping[str, Array],
    loss_fn: LossFunction,
    weight_decay: float,
    rates: list[float],
    momentum: float = 0.875,
    form: str = "sigmoid",
    mistake: str = "",
) -> StrPath:
    """Trains by the published update; autograd differentiates the loss of a plain network alone, all else is numpy.

    Args:
        parameters: Starting values by name; copied, never changed.
        groups: Name of the s of each tensor that is thresholded, by its name; the others only decay.
        s: Starting values by that name.
        loss_fn: Maps (parameters of the plain network by name, step) to the mean loss of that step's batch.
        weight_decay: On all parameters and every s.
        rates: Learning rate of each step, one for all parameters.
        momentum: Not Nesterov's.
        form: ``"sigmoid"`` or ``"exp"``.
        mistake: One of `MISTAKES`, for controls.
    """
    values = {name: p.detach().to(torch.float64).cpu().numpy().copy() for name, p in parameters.items()}
    thresholds = {name: np.array(value, dtype=np.float64) for name, value in s.items()}
    buffers: dict[tuple[str, str], Array] = {}

    def moved(kind: str, name: str, value: Array, gradient: Array, rate: float) -> Array:
        decay = 0.0 if kind == "s" and mistake == "no decay on s" else weight_decay
        gradient = gradient + decay * value
        before = buffers.get((kind, name))
        buffers[kind, name] = gradient if before is None else momentum * before + gradient
        return np.asarray(value - rate * buffers[kind, name])

    for step, rate in enumerate(rates):
        plain = {n: soft(w, thresholds[groups[n]], form) if n in groups else w for n, w in values.items()}
        leaves = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in plain.items()}
        found = torch.autograd.grad(loss_fn(leaves, step), list(leaves.values()))
        gradients = dict(zip(leaves, (one.numpy() for one in found), strict=True))
        in_s = {name: np.zeros_like(value) for name, value in thresholds.items()}
        for name, group in groups.items():
            w, mine = str_gradients(values[name], thresholds[group], gradients[name], form, mistake)
            gradients[name], in_s[group] = w, in_s[group] + mine
        # All gradients are taken at the old point.
        values = {name: moved("w", name, value, gradients[name], rate) for name, value in values.items()}
        thresholds = {name: moved("s", name, value, in_s[name], rate) for name, value in thresholds.items()}
    return StrPath(values, thresholds)
