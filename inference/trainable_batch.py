"""Batches on which batch normalisation cannot be trained: a single value of each channel has no variance.

The one rule of `fit`, `finetune` and `reestimate_statistics`: such a batch, as the last one of a pass may be, is left
out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bayesprune.inference.batches import Batches
from bayesprune.models.evaluation_mode import evaluation_mode

__all__ = ["check_trainable", "trainable_batch"]


def trainable_batch(network: nn.Module, x: Tensor) -> bool:
    """Whether every layer of batch normalisation in training mode gets two values or more of each channel.

    Only a batch of one example can fail, and it does not where the layers see images: their pixels are values too.

    Args:
        network: The network; it is run only for a batch of one example, in evaluation mode.
        x: Inputs, `(batch, ...)`.
    """
    if len(x) > 1:
        return True
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.training]
    if not layers:
        return True
    fewest: list[int] = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        fewest.append(inputs[0].numel() // inputs[0].shape[1])

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices), evaluation_mode(network):
            network(x)
    except ValueError:  # a layer without running statistics normalises by batch in evaluation mode as well
        if not fewest:
            raise
    finally:
        for hook in hooks:
            hook.remove()
    return min(fewest, default=2) > 1


def check_trainable(network: nn.Module, batches: Batches) -> None:
    """Refuses, before training starts, data of which every batch would be left out.

    Args:
        network: The network, in the modes in which it is to be trained.
        batches: The data.

    Raises:
        ValueError: If so.
    """
    if batches.largest() == 1 and not trainable_batch(network, batches.first()[0]):
        raise NothingTrainableError


class NothingTrainableError(ValueError):
    """Every batch has one example, of which batch normalisation can learn nothing."""

    def __init__(self) -> None:
        super().__init__(
            "every batch has one example, but batch normalisation needs two or more to train: give more data, a larger "
            "batch_size, or hold the layers in evaluation mode"
        )
