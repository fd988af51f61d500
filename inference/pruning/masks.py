"""Masks: the weights of the highest scores, and the plain network that has zeros in place of the others."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bayesprune.models.bayesian_network import UNDER_PRIOR
from bayesprune.models.networks.evaluation_mode import remember_held
from bayesprune.models.ways.plain_layers import plain_network

__all__ = ["keep_counts", "keep_highest", "masked_network"]


def keep_highest(scores: dict[str, Tensor], sparsity: float, per: str) -> dict[str, Tensor]:
    """Keeps exactly ``n - round(sparsity n)`` of n weights, the highest scores; of equal ones the first.

    Args:
        scores: A score for each weight by tensor.
        sparsity: Fraction of zeros.
        per: ``"network"`` ranks all tensors together, ``"layer"`` each by itself.

    Returns:
        Boolean masks of the tensors' shapes.

    Raises:
        ValueError: If nothing would be left of the network, or of a layer where each is pruned by itself.
    """
    groups = [list(scores)] if per == "network" else [[name] for name in scores]
    masks: dict[str, Tensor] = {}
    for names in groups:
        flat = torch.cat([scores[name].reshape(-1).double() for name in names])
        kept = len(flat) - round(sparsity * len(flat))
        if kept == 0:
            raise ValueError(
                f"sparsity {sparsity} leaves none of the {len(flat)} weights of {', '.join(names)}: ask for less"
            )
        mask = _highest(flat, kept)
        for name, part in zip(names, mask.split([scores[n].numel() for n in names]), strict=True):
            masks[name] = part.view(scores[name].shape)
    return masks


def keep_counts(scores: dict[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Keeps so many weights of each tensor, the highest scores; of equal ones the first.

    Args:
        scores: A score for each weight by tensor.
        counts: How many stay, by tensor.

    Returns:
        Boolean masks of the tensors' shapes, of the tensors in `counts`.
    """
    flat = {name: scores[name].reshape(-1).double() for name in counts}
    return {name: _highest(flat[name], count).view(scores[name].shape) for name, count in counts.items()}


def _highest(flat: Tensor, kept: int) -> Tensor:
    order = torch.sort(flat, descending=True, stable=True).indices
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[order[:kept]] = True
    return mask


def masked_network(network: nn.Module, weights: dict[str, Tensor], masks: dict[str, Tensor]) -> nn.Module:
    """Returns a plain copy of the network with these weights where the masks are true and zeros elsewhere.

    Parameters without a prior that are frozen stay so. Activations that were faded into ReLUs are `nn.ReLU`s, masked
    layers whose weight is given `nn.Linear`s.
    """
    plain = plain_network(copy.deepcopy(network).cpu(), weights)
    remember_held(plain)
    plain.eval()
    for module in plain.modules():
        module.__dict__.pop(UNDER_PRIOR, None)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name in weights:
                parameter.requires_grad_(True)
                parameter.copy_(torch.where(masks[name], weights[name].cpu(), 0.0))
    return plain
