"""A network run at given weights: the one place where a network is run to be looked at, not to be trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesprune.models.networks.evaluation_mode import evaluation_mode
from bayesprune.models.networks.placing import like

__all__ = ["BATCH", "outputs_at"]

BATCH = 1024
"""Examples a forward pass."""


@torch.no_grad()
def outputs_at(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    x: Tensor,
    batch_size: int = BATCH,
    statistics: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Outputs of a network at given weights, in evaluation mode; the network is left as it was.

    Args:
        network: The network.
        weights: Values of some of its parameters, by name; the others are its own.
        x: Inputs, `(n, ...)`; every batch is moved to the network's device, floating-point numbers in its dtype.
        batch_size: Examples a forward pass; default 1024.
        statistics: Values of buffers by name, such as `statistics_at` estimates for these weights; default None: the
            network's own.

    Returns:
        The outputs, `(n, ...)`, on the network's device.
    """
    reference = next(network.parameters())
    given = {**weights, **(statistics or {})}
    with evaluation_mode(network):
        parts = [
            functional_call(network, given, (like(part, reference),)) if given else network(like(part, reference))
            for part in x.split(batch_size)
        ]
    return torch.cat(parts)
