"""Residual networks (He, Zhang, Ren and Sun, arXiv:1512.03385), in any multiple of their own widths.

ResNet-18, 34 and 50 are torchvision's, each in a form for small images too, which of ResNet-18 bears the plain name;
ResNet-20, 32 and 56 are those for CIFAR of the same paper.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from bayesprune.models.networks.residual_blocks import CifarBlock
from bayesprune.models.networks.widths import require_positive, scaled

__all__ = [
    "resnet_18",
    "resnet_18_imagenet",
    "resnet_20",
    "resnet_32",
    "resnet_34",
    "resnet_34_cifar",
    "resnet_50",
    "resnet_50_cifar",
    "resnet_56",
]


def resnet_18(in_channels: int = 3, classes: int = 10, width: float = 1.0, stem_stride: int = 1) -> nn.Module:
    """ResNet-18 in its CIFAR form (11,173,962 parameters, 555.42 MMACs at 32 x 32).

    torchvision's `ResNet` with a first convolution of 3 x 3 and stride 1, and an identity in the place of the
    first pooling; the modules bear torchvision's names, `conv1` and `layer1.0.conv1` to `fc`, and weights start
    as torchvision's.

    Args:
        in_channels: Channels of the images.
        classes: Number of outputs.
        width: Multiplies the widths of all layers but the last; they are rounded and at least 1.
        stem_stride: Stride of the first convolution; default 1. With 2 all later images have half the size a side, and
            MACs are about a quarter.

    Returns:
        A network from `(N, in_channels, height, width)` to `(N, classes)`.

    Raises:
        ValueError: If a size is below 1, or the width or the stride is not positive.
    """
    return _resnet_of_torchvision("resnet18", in_channels, classes, width, True, stem_stride)


def resnet_18_imagenet(in_channels: int = 3, classes: int = 1000, width: float = 1.0) -> nn.Module:
    """ResNet-18 in its ImageNet form, torchvision's `resnet18` (11,689,512 parameters, 1,814.07 MMACs at 224 x 224).

    As `resnet_50`, in blocks of two convolutions of 3 x 3. For small images: `resnet_18`.

    Args:
        in_channels: Channels of the images.
        classes: Number of outputs.
        width: Multiplies the widths of all layers but the last; they are rounded and at least 1.

    Returns:
        A network from `(N, in_channels, height, width)` to `(N, classes)`.

    Raises:
        ValueError: If a size is below 1, or the width is not positive.
    """
    return _resnet_of_torchvision("resnet18", in_channels, classes, width)


def resnet_34(in_channels: int = 3, classes: int = 1000, width: float = 1.0) -> nn.Module:
    """ResNet-34, torchvision's `resnet34` (21,797,672 parameters, 3,663.76 MMACs at 224 x 224).

    As `resnet_50`, in blocks of two convolutions of 3 x 3.

    Args:
        in_channels: Channels of the images.
        classes: Number of outputs.
        width: Multiplies the widths of all layers but the last; they are rounded and at least 1.

    Returns:
        A network from `(N, in_channels, height, width)` to `(N, classes)`.

    Raises:
        ValueError: If a size is below 1, or the width is not positive.
    """
    return _resnet_of_torchvision("resnet34", in_channels, classes, width)


def resnet_34_cifar(in_channels: int = 3, classes: int = 10, width: float = 1.0, stem_stride: int = 1) -> nn.Module:
    """ResNet-34 in its CIFAR form (21,282,122 parameters, 1,159.40 MMACs at 32 x 32).

    `resnet_34` with the first convolution of `resnet_18`, and an identity in the place of the first pooling.

    Args:
        in_channels: Channels of the images.
        classes: Number of outputs.
        width: Multiplies the widths of all layers but the last; they are rounded and at least 1.
        stem_stride: Stride of the first convolution; default 1. With 2 all later images have half the size a side, and
            MACs are about a quarter.

    Returns:
        A network from `(N, in_channels, height, width)` to `(N, classes)`.

    Raises:
        ValueError: If a size is below 1, or the width or the stride is not positive.
    """
    return _resnet_of_torchvision("resnet34", in_channels, classes, width, True, stem_stride)


def resnet_50(in_channels: int = 3, classes: int = 1000, width: float = 1.0) -> nn.Module:
    """ResNet-50, torchvision's `resnet50` (25,557,032 parameters, 4,089.18 MMACs at 224 x 224).

    The form for ImageNet: a first convolution of 7 x 7 and a pooling leave a sixteenth of the positions, and the last
    stage sees a thousandth, so that images should have 64 pixels a side or more. Modules, names and starting weights
    are torchvision's (blocks of 1 x 1, 3 x 3, which has the stride, and 1 x 1), whose state dicts it takes.

    Args:
        in_channels: Channels of the images.
        classes: Number of outputs.
        width: Multiplies the widths inside blocks, of the first convolution and of shortcuts; these are rounded and at
            least 1, and a block puts out four times as many channels as it has inside.

    Returns:
        A network from `(N, in_channels, height, width)` to `(N, classes)`.

    Raises:
        ValueError: If a size is below 1, or the width is not positive.
    """
    return _resnet_of_torchvision("resnet50", in_channels, classes, width)


def resnet_50_cifar(in_channels: int = 3, classes: int = 10, width: float = 1.0, stem_stride: int = 1) -> nn.Module:
    """ResNet-50 in its CIFAR form (23,520,842 parameters, 1,297.83 MMACs at 32 x 32).

    `resnet_50` with the first convolution of `resnet_18`, and an identity in the place of the first pooling.

    Args:
        in_channels: Channels of the images.
        classes: Number of outputs.
        width: Multiplies the widths of all layers but the last; they are rounded and at least 1.
        stem_stride: Stride of the first convolution; default 1. With 2 all later images have half the size a side, and
            MACs are about a quarter.

    Returns:
        A network from `(N, in_channels, height, width)` to `(N, classes)`.

    Raises:
        ValueError: If a size is below 1, or the width or the stride is not positive.
    """
    return _resnet_of_torchvision("resnet50", in_channels, classes, width, True, stem_stride)


def _resnet_of_torchvision(
    name: str, in_channels: int, classes: int, width: float, for_small_images: bool = False, stem_stride: int = 1
) -> nn.Module:
    """What torchvision has by that name, with layers replaced where its builder has no option."""
    from torchvision.models import resnet

    require_positive(in_channels=in_channels, classes=classes, stem_stride=stem_stride)
    widths = scaled((64, 128, 256, 512), width)
    network: Any = getattr(resnet, name)(weights=None, num_classes=classes)
    replaced = []
    if for_small_images:
        network.conv1 = nn.Conv2d(in_channels, widths[0], 3, stem_stride, padding=1, bias=False)
        network.maxpool = nn.Identity()
        replaced.append(network.conv1)
    elif in_channels != 3 or width != 1:
        network.conv1 = nn.Conv2d(in_channels, widths[0], 7, stride=2, padding=3, bias=False)
        replaced.append(network.conv1)
    if width != 1:
        network.inplanes, network.bn1 = widths[0], nn.BatchNorm2d(widths[0])
        block = type(network.layer1[0])
        for stage, own in enumerate(widths, start=1):
            blocks = len(network.get_submodule(f"layer{stage}"))
            layer = network._make_layer(block, own, blocks, stride=1 if stage == 1 else 2)
            setattr(network, f"layer{stage}", layer)
            replaced += [module for module in layer.modules() if isinstance(module, nn.Conv2d)]
        network.fc = nn.Linear(widths[-1] * block.expansion, classes)
    for convolution in replaced:
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    made: nn.Module = network
    return made


def _cifar_resnet(blocks: int, in_channels: int, classes: int, width: float, stem_stride: int) -> nn.Sequential:
    """A residual network of He et al. 2016, section 4.2, with so many blocks in each stage."""
    require_positive(in_channels=in_channels, classes=classes, stem_stride=stem_stride)
    widths = scaled((16, 32, 64), width)
    before = widths[0]
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(in_channels, before, 3, stem_stride, padding=1, bias=False),
        bn1=nn.BatchNorm2d(before),
        relu1=nn.ReLU(),
    )
    for stage, own in enumerate(widths, start=1):
        first = CifarBlock(before, own, 1 if stage == 1 else 2)
        layers[f"layer{stage}"] = nn.Sequential(first, *(CifarBlock(own, own, 1) for _ in range(blocks - 1)))
        before = own
    layers |= OrderedDict(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(before, classes))
    network = nn.Sequential(layers)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def resnet_20(in_channels: int = 3, classes: int = 10, width: float = 1.0, stem_stride: int = 1) -> nn.Sequential:
    """ResNet-20, the smallest of the CIFAR networks of He et al. 2016, section 4.2 (269,722 parameters).

    One convolution and three stages of three blocks with 16, 32 and 64 channels, the later two at half the size
    each (40.55 MMACs at 32 x 32). Shortcuts have no parameters (option A): where a stage begins they take every other
    position and fill the new channels, which come last, with zeros. The modules are `conv1`, `bn1`, `relu1`,
    `layer1.0.conv1` to `layer3.2.relu2`, `avgpool`, `flatten`, `fc`. Convolutions start as in He et al. 2015
    (arXiv:1502.01852), Normal with variance 2 / fan-out.

    Args:
        in_channels: Channels of the images.
        classes: Number of outputs.
        width: Multiplies the widths of all layers but the last; they are rounded and at least 1.
        stem_stride: Stride of the first convolution; default 1. With 2 all later images have half the size a side, and
            MACs are about a quarter.

    Returns:
        A network from `(N, in_channels, height, width)` to `(N, classes)`.

    Raises:
        ValueError: If a size is below 1, or the width or the stride is not positive.
    """
    return _cifar_resnet(3, in_channels, classes, width, stem_stride)


def resnet_32(in_channels: int = 3, classes: int = 10, width: float = 1.0, stem_stride: int = 1) -> nn.Sequential:
    """ResNet-32, as `resnet_20` with five blocks in each stage (464,154 parameters, 68.86 MMACs at 32 x 32).

    Args:
        in_channels: Channels of the images.
        classes: Number of outputs.
        width: Multiplies the widths of all layers but the last; they are rounded and at least 1.
        stem_stride: Stride of the first convolution; default 1. With 2 all later images have half the size a side, and
            MACs are about a quarter.

    Returns:
        A network from `(N, in_channels, height, width)` to `(N, classes)`.

    Raises:
        ValueError: If a size is below 1, or the width or the stride is not positive.
    """
    return _cifar_resnet(5, in_channels, classes, width, stem_stride)


def resnet_56(in_channels: int = 3, classes: int = 10, width: float = 1.0, stem_stride: int = 1) -> nn.Sequential:
    """ResNet-56, as `resnet_20` with nine blocks in each stage (853,018 parameters, 125.49 MMACs at 32 x 32).

    Args:
        in_channels: Channels of the images.
        classes: Number of outputs.
        width: Multiplies the widths of all layers but the last; they are rounded and at least 1.
        stem_stride: Stride of the first convolution; default 1. With 2 all later images have half the size a side, and
            MACs are about a quarter.

    Returns:
        A network from `(N, in_channels, height, width)` to `(N, classes)`.

    Raises:
        ValueError: If a size is below 1, or the width or the stride is not positive.
    """
    return _cifar_resnet(9, in_channels, classes, width, stem_stride)
