"""Running statistics of batch normalisation of a pruned network: estimated again where there are data."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bayesprune.inference.data.batch_normalisation import reestimate_statistics, take_statistics, tracked_layers
from bayesprune.inference.data.batches import Data

__all__ = ["normalised"]


def normalised(network: nn.Module, data: Data | None, inputs: Tensor | None) -> str | None:
    """Estimates running statistics again where there are data, and says what they are."""
    if not any(isinstance(layer, _BatchNorm) and layer.running_mean is not None for layer in network.modules()):
        return None
    if not tracked_layers(network):
        return "running statistics are those of the fit, whose layers are held in evaluation mode"
    if data is not None:
        count, on = reestimate_statistics(network, data), "training data"
    else:
        count, on = (
            (0, "") if inputs is None else (take_statistics(network, inputs), f"{len(inputs):,} training inputs")
        )
    if count == 0:
        return "running statistics are those of the fit, before pruning"
    return f"running statistics of {count} layers estimated again on {on}"
