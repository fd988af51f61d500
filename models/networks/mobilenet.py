"""MobileNets, whose convolutions of 3 x 3 are depthwise, in any multiple of their own widths.

MobileNetV1 is that of Howard et al. 2017 (arXiv:1704.04861), MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381)
torchvision's.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from bayesprune.models.networks.widths import require_positive, scaled

__all__ = ["mobilenet_v1", "mobilenet_v2"]

_WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
"""Channels of the first convolution and of the 13 blocks, of table 1 of the paper."""
_HALVING = (2, 4, 6, 12)
"""Blocks with stride 2. In the table the last one has it too, but not what it would lead to, an output of 4 x 4."""


def mobilenet_v1(in_channels: int = 3, classes: int = 1000, width: float = 1.0) -> nn.Sequential:
    """MobileNetV1 (4,231,976 parameters, 568.74 MMACs at 224 x 224), of Howard et al. 2017, table 1.

    A convolution of 3 x 3 with stride 2, and 13 blocks, each a depthwise convolution of 3 x 3 and one of 1 x 1, all
    with batch normalisation and ReLU; the mean over positions and a linear layer. The modules are `conv1`, `bn1`,
    `relu1`, `block1.depthwise`, `block1.bn1`, `block1.relu1`, `block1.pointwise`, `block1.bn2`, `block1.relu2` to
    `block13.relu2`, `avgpool`, `flatten`, `fc`. Convolutions start as in He et al. 2015 (arXiv:1502.01852), Normal with
    variance 2 / fan-in, which is 9 for depthwise ones; the linear layer Normal with sd 0.01. Images are halved five
    times.

    Args:
        in_channels: Channels of the images.
        classes: Number of outputs.
        width: Multiplies the widths of all layers but the last; they are rounded and at least 1.

    Returns:
        A network from `(N, in_channels, height, width)` to `(N, classes)`.

    Raises:
        ValueError: If a size is below 1, or the width is not positive.
    """
    require_positive(in_channels=in_channels, classes=classes)
    before, *widths = scaled(_WIDTHS, width)
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(in_channels, before, 3, stride=2, padding=1, bias=False),
        bn1=nn.BatchNorm2d(before),
        relu1=nn.ReLU(),
    )
    for place, own in enumerate(widths, start=1):
        layers[f"block{place}"] = _separable(before, own, 2 if place in _HALVING else 1)
        before = own
    layers |= OrderedDict(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(before, classes))
    network = nn.Sequential(layers)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            nn.init.zeros_(module.bias)
    return network


def _separable(before: int, after: int, stride: int) -> nn.Sequential:
    """A depthwise separable convolution: each channel by itself at 3 x 3, then all of them at one position."""
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            depthwise=nn.Conv2d(before, before, 3, stride, padding=1, groups=before, bias=False),
            bn1=nn.BatchNorm2d(before),
            relu1=nn.ReLU(),
            pointwise=nn.Conv2d(before, after, 1, bias=False),
            bn2=nn.BatchNorm2d(after),
            relu2=nn.ReLU(),
        )
    )


def mobilenet_v2(in_channels: int = 3, classes: int = 1000, width: float = 1.0) -> nn.Module:
    """MobileNetV2, torchvision's `mobilenet_v2` (3,504,872 parameters, 300.77 MMACs at 224 x 224).

    Modules, names and starting weights are torchvision's, whose state dicts it takes; but its dropout before the last
    layer is off, since a random likelihood is none. Images are halved five times.

    Args:
        in_channels: Channels of the images.
        classes: Number of outputs.
        width: torchvision's `width_mult`: it rounds widths to multiples of 8, at least 8 and at least 0.9 times what
            was asked for, and never makes the last convolution narrower than 1280.

    Returns:
        A network from `(N, in_channels, height, width)` to `(N, classes)`.

    Raises:
        ValueError: If a size is below 1, or the width is not positive.
    """
    from torchvision.models import mobilenet  # takes a while

    require_positive(in_channels=in_channels, classes=classes)
    scaled((1,), width)  # for what it refuses
    network: Any = mobilenet.mobilenet_v2(weights=None, num_classes=classes, width_mult=width, dropout=0.0)
    if in_channels != 3:
        own = network.features[0][0]
        first = nn.Conv2d(in_channels, own.out_channels, 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(first.weight, mode="fan_out")  # as torchvision does
        network.features[0][0] = first
    made: nn.Module = network
    return made
