"""The order of the data in a checkpoint: the state of its generator, or that torch's own draws it, as it once did."""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import DataLoader

from bayesprune.inference.data.batches import Batches

__all__ = ["BY_TORCH", "order_state", "restore_order"]

BY_TORCH = "torch"
"""What a state says where torch's own generator draws the order, between the draws of the noise: in fits that an
earlier version began, which so keep the numbers that they would have had."""


def order_state(batches: Batches) -> Tensor | str:
    """What is kept of the order of the data.

    Args:
        batches: The data.
    """
    return BY_TORCH if batches.order is None else batches.order.get_state()


def restore_order(batches: Batches, state: Tensor | str) -> None:
    """Goes on with the order of the data, IN PLACE.

    Args:
        batches: The data.
        state: What `order_state` gave.

    Raises:
        ValueError: For a state of an earlier version in several processes.
    """
    own, loader = batches.order, batches.loader
    if isinstance(state, Tensor):
        if own is not None:
            own.set_state(state)
        return
    if batches.share.world > 1:
        raise ValueError("a fit that an earlier version began goes on in one process only")
    batches.order = None
    if isinstance(loader, DataLoader) and own is not None and loader.generator is own:  # not a loader of the user's
        loader.generator = None
        if getattr(loader.sampler, "generator", None) is own:
            loader.sampler.generator = None  # type: ignore[attr-defined]
