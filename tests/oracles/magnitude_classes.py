"""Magnitude-class pruning as See, Luong & Manning 2016 define it, by thresholds in NumPy; and second derivatives.

A class is a tensor, A_c its weights that are not yet pruned, p the fraction to remove:

* blind: t = quantile_p of |w| over all A_c; what is below t goes;
* uniform: t_c = quantile_p of |w| over A_c;
* distribution: |w| < lambda sd_c goes, lambda so that the fraction p of all goes.

Percentiles interpolate linearly, and what equals the threshold stays, as in the code of arXiv:2107.12917.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["hessian_diagonals", "kept_by_threshold"]


def kept_by_threshold(
    weights: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray], fraction: float, mode: str
) -> dict[str, np.ndarray]:
    """What is kept of the weights that are left.

    Args:
        weights: Weights by name of class.
        masks: True where one is left.
        fraction: The fraction p of what is left.
        mode: ``"blind"``, ``"uniform"`` or ``"distribution"``.
    """
    sizes = {name: np.abs(np.asarray(weight, dtype=np.float64)) for name, weight in weights.items()}
    if mode == "distribution":
        for name, weight in weights.items():
            active = np.asarray(weight, dtype=np.float64)[masks[name]]
            sizes[name] = sizes[name] / np.sqrt(np.mean((active - np.mean(active)) ** 2))
    every = np.concatenate([sizes[name][masks[name]] for name in sizes])
    found = {}
    for name, size in sizes.items():
        among = size[masks[name]] if mode == "uniform" else every
        found[name] = masks[name] & (size >= np.percentile(among, 100.0 * fraction))
    return found


def hessian_diagonals(network: nn.Module, log_prob: object, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Diagonals of the full Hessian of the mean negative log-likelihood, by `torch.autograd.functional.hessian`.

    Args:
        network: The network, in evaluation mode and double precision.
        log_prob: `log_prob(outputs, y)`, one number an example.
        x: Inputs.
        y: Targets.
    """
    found = {}
    for name, parameter in network.named_parameters():

        def loss(weight: Tensor, name: str = name) -> Tensor:
            return -log_prob(functional_call(network, {name: weight}, (x,)), y).mean()  # type: ignore[operator]

        full = torch.autograd.functional.hessian(loss, parameter.detach().clone())
        count = parameter.numel()
        found[name] = full.reshape(count, count).diagonal().reshape(parameter.shape)
    return found
