"""Running statistics of batch normalisation: whether a forward pass changes them, and passes that do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["frozen_statistics", "tracks_statistics"]


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Batch normalisation keeps using batch statistics but leaves its running ones alone.

    Args:
        network: The network.
    """
    layers = _tracking(network)
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def tracks_statistics(network: nn.Module) -> bool:
    """Whether a forward pass changes running statistics of batch normalisation."""
    return bool(_tracking(network))


def _tracking(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training and layer.track_running_stats
    ]
