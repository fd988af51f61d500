"""What a network's own structure leaves in: a way that a model of a network with masked layers has by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bayesprune.models.structure.masked_linear import masks_of
from bayesprune.models.ways.buffer_dict import BufferDict
from bayesprune.models.ways.masking import Masking

__all__ = ["StructureMasks", "structure_of"]


class StructureMasks(Masking):
    """The weights that a network with masked layers has at all: the others are zeros in every draw, and count as such.

    `BayesianNetwork` adds it where a `MaskedLinear` has a prior. It draws nothing, and it has no state: its masks are
    those of the network, made again with it. A digest of them is kept with a fit, so that it is not loaded into a
    network of other connections.

    Args:
        masks: True where there is a weight, by name of tensor, `(out, in)`.

    Attributes:
        factors: The same as ones and zeros, `(out, in)`, by name of tensor.
    """

    name: ClassVar[str] = "structure"

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        super().__init__()
        dtype = torch.get_default_dtype()
        self.factors = BufferDict({name: mask.to(dtype) for name, mask in masks.items()}, persistent=False)

    @property
    def config(self) -> Mapping[str, Any]:
        """A digest of the connections of each tensor."""
        return {name: _digest(factor != 0) for name, factor in self.factors.items()}

    def counts(self) -> dict[str, int]:
        """How many weights there are, by name of tensor."""
        return {name: int((factor != 0).sum()) for name, factor in self.factors.items()}

    def __str__(self) -> str:
        there, whole = sum(self.counts().values()), sum(factor.numel() for _, factor in self.factors.items())
        return f"{there:,} of {whole:,} weights in {len(self.factors)} tensors"


def structure_of(network: nn.Module, names: Collection[str]) -> StructureMasks | None:
    """The way of a network's masked layers, or None where none of the tensors has a mask.

    Args:
        network: The network.
        names: Names of its tensors with a prior.
    """
    masks = {name: mask for name, mask in masks_of(network).items() if name in names and not bool(mask.all())}
    return StructureMasks(masks) if masks else None


def _digest(mask: Tensor) -> str:
    return hashlib.sha256(mask.cpu().numpy().tobytes()).hexdigest()[:16]
