"""Batches on which batch normalisation cannot be trained: a single value of each channel has no variance.

The one rule of `fit`, `finetune` and `reestimate_statistics`: such a batch, as the last one of a pass may be, is left
out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bayesprune.inference.data.batches import Batches
from bayesprune.models.networks.evaluation_mode import evaluation_mode

__all__ = ["NothingTrainableError", "TrainableBatches", "check_trainable", "seen_by", "trainable_batch"]


def trainable_batch(network: nn.Module, x: Tensor) -> bool:
    """Whether every layer of batch normalisation in training mode gets two values or more of each channel.

    Only a batch of one example can fail, and it does not where the layers see images: their pixels are values too.

    Args:
        network: The network; it is run only for a batch of one example, in evaluation mode.
        x: Inputs, `(batch, ...)`.
    """
    if len(x) > 1:
        return True
    layers = _trained(network)
    if not layers:
        return True
    fewest: list[int] = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        values = seen_by(inputs, named)
        fewest.append(values.numel() // values.shape[1])

    hooks = [layer.register_forward_pre_hook(look, with_kwargs=True) for layer in layers]
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


def seen_by(inputs: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> Tensor:
    """What a layer of batch normalisation is called with, by place or as ``input=``."""
    return inputs[0] if inputs else named["input"]


class TrainableBatches:
    """`trainable_batch` for every batch of a training: what it has found for a shape of inputs, it says again.

    It asks anew where the network is another one, as after units were removed, or layers have changed their modes.
    """

    def __init__(self) -> None:
        self._network: nn.Module | None = None
        self._found: dict[tuple[torch.Size, tuple[nn.Module, ...]], bool] = {}

    def __call__(self, network: nn.Module, x: Tensor) -> bool:
        """Whether the network can be trained on inputs `(batch, ...)`."""
        if len(x) > 1:
            return True
        if network is not self._network:
            self._network, self._found = network, {}
        key = (x.shape, tuple(_trained(network)))
        if key not in self._found:
            self._found[key] = trainable_batch(network, x)
        return self._found[key]


def _trained(network: nn.Module) -> list[nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.training]


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
    """Every batch that steps fell on has one example, of which batch normalisation can learn nothing.

    So have all batches of the data, or the steps ended before a larger one came.
    """

    def __init__(self) -> None:
        super().__init__(
            "every batch that steps fall on has one example, but batch normalisation needs two or more to train: give "
            "more data, a larger batch_size or more steps, or hold the layers in evaluation mode"
        )
