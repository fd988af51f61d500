"""How far a fit has got, for declarations that anneal: the reserved argument `progress`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FitProgress(nn.Module):
    """Share of a fit's steps that are done, in [0, 1]; 1 outside a fit.

    It is a buffer of a module, so that it moves with the model and is an input of a traced objective, not a constant
    of it; it is written in place, so that what holds it sees the change, and it is not saved.

    Attributes:
        share: The share, a tensor of no dimensions.
    """

    share: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("share", torch.ones(()), persistent=False)

    def set(self, share: float) -> None:
        """Sets the share."""
        self.share.fill_(share)
