"""Networks changed in the ways that have a name, so that whoever reads one back can change it again."""

from __future__ import annotations

from torch import Tensor, nn

from bayesprune.models.networks.dyrelu_networks import with_dyrelu
from bayesprune.models.networks.shared_blocks import share_blocks

__all__ = ["changed_network"]


def changed_network(
    network: nn.Module, shared_blocks: int | None = None, dyrelu: bool = False, example_input: Tensor | None = None
) -> nn.Module:
    """A network with shared blocks, DyReLUs, both, or neither: then it is the network itself.

    Args:
        network: The network; its weights are copied.
        shared_blocks: Blocks of each stage that own their convolutions (`share_blocks`); default None: all.
        dyrelu: Whether its activations are DyReLUs (`with_dyrelu`); default False.
        example_input: An input, `(n, ...)`, where the network does not know the shape itself; default None.

    Raises:
        ValueError: As `share_blocks` and `with_dyrelu`.
    """
    changed = network if shared_blocks is None else share_blocks(network, shared_blocks)
    return with_dyrelu(changed, example_input) if dyrelu else changed
