"""The pruned network of a restart in the shapes as declared, whatever units were removed while it was trained."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bayesprune.inference.pruning.masks import masked_network
from bayesprune.inference.restart import Restart
from bayesprune.models.units.plans import restored, restored_tensor

__all__ = ["as_declared"]


def as_declared(
    one: Restart, weights: dict[str, Tensor], masks: dict[str, Tensor], threshold: float
) -> tuple[nn.Module, dict[str, Tensor]]:
    """The pruned network of the shapes as declared, with zeros for closed units and branches, and its masks.

    Args:
        one: The restart.
        weights: Its weights as they are now.
        masks: Which of them stay; of their shapes, or of those as declared.
        threshold: Layers' gates of at most this probability are closed.
    """
    model = one.model
    plan, declared = model.plan, model.declared
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        for tensor in (name for q in one.guide.ways.values() for name in q.tensors_closed(threshold)):
            network.get_parameter(tensor).zero_()
            if tensor in weights:
                weights = {**weights, tensor: torch.zeros_like(weights[tensor])}
    if plan is None or declared is None:
        return masked_network(network, weights, masks), masks
    tensors = restored(declared, {**network.state_dict(), **weights}, plan)
    whole = copy.deepcopy(declared).cpu()
    whole.load_state_dict(tensors, strict=False)  # buffers of removed branches stay as they were declared
    shapes = {name: declared.get_parameter(name).shape for name in model.declared_sizes}
    masks = {
        name: mask if mask.shape == shapes[name] else restored_tensor(name, mask, plan, False)
        for name, mask in masks.items()
    }
    masks = {name: masks.get(name, torch.zeros(shape, dtype=torch.bool)) for name, shape in shapes.items()}
    return masked_network(whole, {name: tensors[name] for name in shapes}, masks), masks
