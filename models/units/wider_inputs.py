"""Inputs beside those of an example: batches of 1, 2 and 5, of sd 1, 50 and 255, with gradients and without.

A network may do something else with one input than with two, saturate at small numbers, or ask whether gradients are
recorded. Two networks that are the same give the same at all of these. Every batch size is taken at every scale; the
mode goes by turns, so that each batch size and each scale occurs with gradients and without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BATCH_SIZES", "SCALES", "WiderInput", "batch_size", "keeps_batch", "scales_of", "wider_inputs"]

BATCH_SIZES = (1, 2, 5)
SCALES = (1.0, 50.0, 255.0)


@dataclass(frozen=True)
class WiderInput:
    """One input of a network, and the mode that it is run in.

    Attributes:
        name: What it is, in words.
        arguments: Of the network's forward, on the CPU.
        grad: Whether gradients are recorded.
        count: How many examples there are.
        scale: Standard deviation of numbers with a fraction.
    """

    name: str
    arguments: tuple[Any, ...]
    grad: bool
    count: int
    scale: float

    def without_gradients(self) -> WiderInput:
        """The same, run without gradients."""
        return replace(self, name=_name(self.count, self.scale, False), grad=False)

    def run(self, network: nn.Module, seed: int) -> Any:
        """What a network gives."""
        arguments = [part.clone() if torch.is_tensor(part) else part for part in self.arguments]
        with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(self.grad):
            torch.manual_seed(seed)  # dropout is off, but forward may ask for random numbers
            return network(*arguments)


def batch_size(example: Sequence[Any]) -> int:
    """Size of the first dimension of the first input, 0 where there is none."""
    first = next((part for part in example if torch.is_tensor(part) and part.ndim), None)
    return 0 if first is None else len(first)


def wider_inputs(
    example: Sequence[Any], counts: Sequence[int], scale: float, dtype: Any, seed: int
) -> list[WiderInput]:
    """Inputs of one scale like an example, one for each batch size.

    Numbers with a fraction are Normal. Whole numbers and truth values are drawn from those of the example, whatever the
    scale is, as they may be indices. Inputs whose first dimension is another than that of the first keep their shape.

    Args:
        example: The example's inputs.
        counts: The batch sizes.
        scale: The standard deviation, one of `SCALES`.
        dtype: Number format of numbers with a fraction.
        seed: Of the numbers.
    """
    batch = batch_size(example)
    made = []
    for place, count in enumerate(counts):
        generator = torch.Generator().manual_seed(seed + 7919 * count)

        def another(part: Any, count: int = count, generator: torch.Generator = generator) -> Any:
            if not torch.is_tensor(part):
                return part
            shape = (count, *part.shape[1:]) if part.ndim and len(part) == batch else tuple(part.shape)
            if part.is_floating_point():
                return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
            if not part.numel():
                return part.detach().cpu()
            chosen = torch.randint(part.numel(), shape, generator=generator)
            return part.detach().cpu().flatten()[chosen]

        grad = (place + SCALES.index(scale)) % 2 == 1
        arguments = tuple(another(part) for part in example)
        made.append(WiderInput(_name(count, scale, grad), arguments, grad, count, scale))
    return made


def _name(count: int, scale: float, grad: bool) -> str:
    return f"batch of {count}, sd {scale:g}, {'with' if grad else 'without'} gradients"


def scales_of(example: Sequence[Any]) -> tuple[float, ...]:
    """The scales, of which there is one where no input has numbers with a fraction."""
    return SCALES if any(torch.is_tensor(part) and part.is_floating_point() for part in example) else SCALES[:1]


def keeps_batch(given: Sequence[Tensor], batch: int, found: Sequence[Tensor], count: int) -> bool:
    """Whether the outputs for `count` examples hold as many, if those for a batch of the example's size do."""
    for one, other in zip(given, found, strict=False):
        if one.ndim and len(one) == batch and (not other.ndim or len(other) != count):
            return False
    return True
