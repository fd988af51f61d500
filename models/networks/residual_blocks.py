"""Residual blocks whose activations have modules of their own, and which modules of a network are residual blocks."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "CifarBlock",
    "SeparateBlock",
    "activations_of",
    "convolutions_of",
    "has_one_activation",
    "is_residual",
    "normalisations_of",
]


class ShrinkingShortcut(nn.Module):
    """Option A of He et al. 2016: every other position, and zeros for the new channels; no parameters."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c, height, width)` to `(N, c + new_channels, height / 2, width / 2)`, sizes rounded up."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.new_channels))


class CifarBlock(nn.Module):
    """Two convolutions of 3 x 3 with batch normalisation, and a shortcut without parameters around both."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Identity() if stride == 1 else ShrinkingShortcut(after - before)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """`(N, before, height, width)` to `(N, after, ...)`."""
        h = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(h)) + self.shortcut(x))


class SeparateBlock(nn.Module):
    """One of torchvision's residual blocks with an activation for each place, where torchvision has one for all.

    It does what the block does, with the block's own layers under their names, and `relu1` to `relu3` in place of
    `relu`.

    Args:
        block: A `BasicBlock` or `Bottleneck` of torchvision; its layers are taken over, not copied.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        convolutions, normalisations, activations = (
            convolutions_of(block),
            normalisations_of(block),
            activations_of(block),
        )
        for place, (convolution, normalisation) in enumerate(zip(convolutions, normalisations, strict=True), start=1):
            self.add_module(f"conv{place}", convolution)
            self.add_module(f"bn{place}", normalisation)
            self.add_module(f"relu{place}", activations[place - 1])
        self.places = len(convolutions)
        self.downsample: Any = getattr(block, "downsample", None)
        self.training = block.training

    def forward(self, x: Tensor) -> Tensor:
        """`(N, before, height, width)` to `(N, after, ...)`."""
        h = x
        for place in range(1, self.places + 1):
            h = getattr(self, f"bn{place}")(getattr(self, f"conv{place}")(h))
            if place == self.places:
                h = h + (x if self.downsample is None else self.downsample(x))
            h = getattr(self, f"relu{place}")(h)
        return h


def is_residual(module: nn.Module) -> bool:
    """Whether a module is a residual block of this package or of torchvision."""
    return isinstance(module, (CifarBlock, SeparateBlock)) or has_one_activation(module)


def has_one_activation(module: nn.Module) -> bool:
    """Whether a module is one of torchvision's residual blocks, which run one activation at every place."""
    kind = type(module)  # by name: importing torchvision takes a while, and a block is there only where it was
    return kind.__module__ == "torchvision.models.resnet" and kind.__name__ in ("BasicBlock", "Bottleneck")


def convolutions_of(block: nn.Module) -> list[nn.Conv2d]:
    """A residual block's convolutions in the order in which they run, without that of a shortcut."""
    return [module for name, module in block.named_children() if name[:4] == "conv" and isinstance(module, nn.Conv2d)]


def normalisations_of(block: nn.Module) -> list[nn.Module]:
    """A residual block's normalisations, one after each of its convolutions."""
    return [module for name, module in block.named_children() if name.startswith("bn")]


def activations_of(block: nn.Module) -> list[nn.Module]:
    """A residual block's activations, one a place: copies of torchvision's one."""
    own = [module for name, module in block.named_children() if name.startswith("relu")]
    places = len(convolutions_of(block))
    return [copy.deepcopy(own[0]) for _ in range(places)] if len(own) < places else own
