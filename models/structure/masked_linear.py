"""Linear layers of which only some connections exist."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune.models.ways.plain_layers import plain_form

__all__ = ["PLAIN", "MaskedLinear", "masks_of", "tiled"]

PLAIN = "plain"
"""Key of `network.config` that names masked layers which are plain ones with zeros in place, as `prune` leaves them."""


class MaskedLinear(nn.Linear):
    """A linear layer whose weight is zero wherever its mask is false, in every forward pass.

    Weights and biases of each output start uniform within 1 / sqrt(its connections): as torch's linear layer starts,
    with the connections that there are in place of all inputs. An output without any starts within 1.

    Args:
        mask: Boolean, `(out, in)`.
        bias: Whether it has one.

    Attributes:
        mask: The same, a buffer.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, bias: bool = True) -> None:
        super().__init__(mask.shape[1], mask.shape[0], bias)
        self.register_buffer("mask", mask.bool().clone())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weights and biases anew."""
        if "mask" not in self._buffers:  # torch's layer draws before there is a mask
            return
        most = 1.0 / self.mask.sum(1).clamp_min(1).to(self.weight.dtype).sqrt()
        with torch.no_grad():
            self.weight.copy_((2.0 * torch.rand_like(self.weight) - 1.0) * most[:, None] * self.mask)
            if self.bias is not None:
                self.bias.copy_((2.0 * torch.rand_like(self.bias) - 1.0) * most)

    @property
    def masked_weight(self) -> Tensor:
        """The weight with its zeros, `(out, in)`."""
        return self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        """Outputs `(..., out)` of inputs `(..., in)`."""
        return F.linear(x, self.masked_weight, self.bias)

    def extra_repr(self) -> str:
        """As torch's, with the connections."""
        return f"{super().extra_repr()}, connections={int(self.mask.sum())} of {math.prod(self.mask.shape)}"


def _noted(network: nn.Module, names: Collection[str]) -> None:
    """Has the config of a network of ours say which of its layers have become plain."""
    config = getattr(network, "config", None)
    if isinstance(config, dict):
        network.config = {**config, PLAIN: sorted({*config.get(PLAIN, ()), *names})}  # type: ignore[assignment]


@plain_form(MaskedLinear, _noted)
def _linear(layers: Mapping[str, MaskedLinear], given: Collection[str]) -> dict[str, nn.Module]:
    """Linear layers with zeros in place: of weights that are given, as only these are held at zero afterwards."""
    return {
        name: _as_linear(layer) for name, layer in layers.items() if (f"{name}.weight" if name else "weight") in given
    }


def _as_linear(layer: MaskedLinear) -> nn.Linear:
    made = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    made.weight = nn.Parameter(layer.masked_weight.detach().clone(), layer.weight.requires_grad)
    made.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), layer.bias.requires_grad)
    return made


def tiled(mask: Tensor, gates: int) -> Tensor:
    """The mask of a weight whose rows are those of so many gates, one gate after the other, as torch's GRU and LSTM.

    Each gate gets the whole mask: rows a, b, a, b and not a, a, b, b, which would give a unit the connections of
    another one.

    Args:
        mask: Boolean, `(out, in)`.
        gates: How many.

    Returns:
        Boolean, `(gates x out, in)`.
    """
    return mask.repeat(gates, 1)


def masks_of(network: nn.Module) -> dict[str, Tensor]:
    """The masks of a network's masked layers, by name of their weight, `(out, in)`.

    Args:
        network: The network.
    """
    return {
        f"{name}.weight" if name else "weight": module.mask
        for name, module in network.named_modules()
        if isinstance(module, MaskedLinear)
    }
