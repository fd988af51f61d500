"""Ways by masks: weights times ones and zeros, whoever decides on these."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from bayesprune.models.ways.buffer_dict import BufferDict
from bayesprune.models.ways.way import Way

__all__ = ["Masking"]


class Masking(Way):
    """Base of ways that multiply weights by ones and zeros.

    Attributes:
        factors: These, by name of tensor, `(out, in, ...)`.
    """

    factors: BufferDict

    def weights(
        self, weights: Mapping[str, Tensor], values: Mapping[str, Tensor], network: nn.Module
    ) -> dict[str, Tensor]:
        """The weights times their masks."""
        found = dict(weights)
        for name, factor in self.factors.items():
            found[name] = (found[name] if name in found else network.get_parameter(name)) * factor
        return found

    def open(self, values: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        """The masks."""
        like = next(network.parameters())
        return {name: factor.to(like.dtype) for name, factor in self.factors.items()}
