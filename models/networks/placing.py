"""Where inputs and targets go before a network sees them: its device and, for numbers with a fraction, its dtype."""

from __future__ import annotations

from torch import Tensor

__all__ = ["like"]


def like(part: Tensor, reference: Tensor) -> Tensor:
    """Inputs or targets on the device of a reference, floating-point numbers in its dtype.

    Args:
        part: Any tensor.
        reference: One of the network's parameters.
    """
    return part.to(reference.device, reference.dtype if part.is_floating_point() else part.dtype)
