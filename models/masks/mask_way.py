"""Masks on weights as a way: which weights of a network are there at all, exactly so many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bayesprune.models.ways.buffer_dict import BufferDict
from bayesprune.models.ways.masking import Masking
from bayesprune.models.ways.rebuilt import rebuilt

__all__ = ["Masks", "counts_of", "random_masks"]


def _made_again(kind: type[Masks]) -> Any:
    def made(config: Mapping[str, Any], network: nn.Module) -> Masks:
        names, tensors = config.get("tensors"), dict(network.named_parameters())
        if not isinstance(names, list) or not names or not all(isinstance(n, str) and n in tensors for n in names):
            raise ValueError("masks are of tensors of another network: expected the names of its parameters")
        return kind({name: torch.ones_like(tensors[name], dtype=torch.bool) for name in names})

    return made


@rebuilt(_made_again)
class Masks(Masking):
    """Which weights are in the network: the others are exactly zero, whatever the guide draws for them.

    They draw nothing and cost nothing: a mask is a decision, of a rule such as `DynamicMasks` or of the user's own, and
    no latent. Gradients of what the guide draws are zero where it is; those of the weights that the network ran with
    (`Taken.weight_gradient`) are dense.

    Args:
        masks: True where a weight is in, by name of tensor, `(out, in, ...)`.

    Attributes:
        masks: The same as buffers, boolean; change them by `put`, or call `refresh` after they were changed in place.
        factors: Ones and zeros in the network's precision, made of `masks`: a product of numbers of one kind takes a
            third of the time.

    Raises:
        ValueError: If a mask is empty of weights, or none is given.
    """

    name: ClassVar[str] = "masks"

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        super().__init__()
        if not masks:
            raise ValueError("Masks takes at least one mask by name of tensor, such as {'fc1.weight': mask}")
        empty = [name for name, mask in masks.items() if not bool(mask.any())]
        if empty:
            raise ValueError(f"the mask of {empty[0]} leaves no weight in: a layer keeps one at least")
        self.masks = BufferDict({name: mask.bool().clone() for name, mask in masks.items()})
        ones = {name: mask.to(torch.float32) for name, mask in self.masks.items()}
        self.factors = BufferDict(ones, persistent=False)
        self.register_load_state_dict_post_hook(_refreshed)

    @property
    def config(self) -> Mapping[str, Any]:
        """The tensors that have a mask; the masks themselves are its state."""
        return {"tensors": list(self.masks)}

    def counts(self) -> dict[str, int]:
        """How many weights are in, by name of tensor."""
        return counts_of(dict(self.masks.items()))

    @torch.no_grad()
    def put(self, masks: Mapping[str, Tensor]) -> None:
        """Changes masks in place, by name of tensor."""
        for name, mask in masks.items():
            self.masks[name].copy_(mask)
            self.factors[name].copy_(mask)

    def refresh(self) -> None:
        """Makes the factors anew of masks that were changed in place."""
        for name, mask in self.masks.items():
            self.factors[name].copy_(mask)

    def __str__(self) -> str:
        left, whole = sum(self.counts().values()), sum(mask.numel() for _, mask in self.masks.items())
        return f"{left:,} of {whole:,} weights in {len(self.masks)} tensors"


def counts_of(masks: Mapping[str, Tensor]) -> dict[str, int]:
    """How many weights masks leave in, by name of tensor; a device is waited for once, and not once a tensor.

    Args:
        masks: Booleans by name.
    """
    sums = torch.stack([mask.sum() for mask in masks.values()]).tolist()
    return dict(zip(masks, sums, strict=True))


def _refreshed(module: nn.Module, _: Any) -> None:
    assert isinstance(module, Masks)
    module.refresh()


def random_masks(shapes: Mapping[str, tuple[int, ...]], counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Masks with exactly so many weights in each tensor, in places drawn from torch's global generator.

    Args:
        shapes: Shapes by name of tensor, `(out, in, ...)`.
        counts: Weights that are in, by name.
    """
    found = {}
    for name, shape in shapes.items():
        mask = torch.zeros(math.prod(shape), dtype=torch.bool)
        mask[torch.randperm(len(mask))[: counts[name]]] = True
        found[name] = mask.view(shape)
    return found
