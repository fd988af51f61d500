"""Reference networks, as plain modules with readable parameter names, in any multiple of their own widths.

The LeNets come from LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86 (1998). VGG-16 (Simonyan and Zisserman, arXiv:1409.1556) and ResNet-18 (He, Zhang, Ren and
Sun, arXiv:1512.03385) are made from torchvision's own layers; ResNet-20, 32 and 56 are those for CIFAR of the same
paper. All are in the forms that the pruning literature uses. Each takes a `width`, which multiplies the widths of its
hidden layers.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from bayesprune.models.checks.size_bounds import checked_count, checked_input_shape, checked_width, require_holdable

__all__ = [
    "NETWORKS", "Builder", "lenet_300_100", "lenet_5", "make_ready", "network_from_config", "resnet_18", "resnet_20",
    "resnet_32", "resnet_56", "vgg_16_bn",
]  # fmt: skip

_KERNEL = 5
_LENET_5_SMALLEST = 16  # 16 -> 12 -> 6 -> 2 -> 1: one position is left after the second pooling
_VGG_16_SMALLEST = 32  # five poolings halve it to one position


def _require_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}, but a network needs at least 1: pass a positive integer")


def _scaled(own: Sequence[int], width: float) -> list[int]:
    """Widths of hidden layers times `width`, rounded, at least 1."""
    if not (math.isfinite(width) and width > 0):
        raise ValueError(
            f"width is {width}, but it multiplies the widths of layers: pass a positive number, such as 0.5"
        )
    return [max(1, round(width * each)) for each in own]


def lenet_300_100(
    in_features: int = 784, classes: int = 10, hidden: Sequence[int] = (300, 100), width: float = 1.0
) -> nn.Sequential:
    """Fully connected network with ReLU, LeNet-300-100 by default (266,610 parameters).

    The modules are `flatten`, `fc1`, `relu1`, `fc2`, `relu2`, `fc3`; other lengths of `hidden` continue the
    count. Inputs of shape `(N, ...)` are flattened to `(N, in_features)`.

    Args:
        in_features: Numbers per example, pixels times channels for an image.
        classes: Number of outputs: classes, or 1 for a regression on one number.
        hidden: Widths of the hidden layers.
        width: Multiplies the widths of the hidden layers; they are rounded and at least 1.

    Returns:
        A network from `(N, ...)` to `(N, classes)`; there is no softmax at the end.

    Raises:
        ValueError: If a size is below 1, or the width is not positive.
    """
    _require_positive(in_features=in_features, classes=classes)
    for own in hidden:
        _require_positive(hidden=own)
    widths = [in_features, *_scaled(hidden, width)]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True), start=1):
        layers[f"fc{number}"] = nn.Linear(before, after)
        layers[f"relu{number}"] = nn.ReLU()
    layers[f"fc{len(widths)}"] = nn.Linear(widths[-1], classes)
    return nn.Sequential(layers)


def lenet_5(in_channels: int = 1, image_size: int = 28, classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """LeNet-5 in its Caffe widths, 20-50-500 (431,080 parameters for 28 x 28 images of one channel).

    The modules are `conv1` (20 kernels of 5 x 5, no padding), `relu1`, `pool1` (maximum over 2 x 2), `conv2`
    (50 of 5 x 5), `relu2`, `pool2`, `flatten`, `fc1` (500), `relu3`, `fc2`. The ReLU after each convolution
    is the usual PyTorch form; Caffe's own file has only `relu3`.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the square images, at least 16.
        classes: Number of outputs.
        width: Multiplies 20, 50 and 500; they are rounded and at least 1.

    Returns:
        A network from `(N, in_channels, image_size, image_size)` to `(N, classes)`.

    Raises:
        ValueError: If the images are too small for two convolutions and poolings, a size is below 1, or the width is
            not positive.
    """
    _require_positive(in_channels=in_channels, classes=classes)
    if image_size < _LENET_5_SMALLEST:
        raise ValueError(
            f"lenet-5 got images of {image_size} x {image_size} pixels, but its two convolutions "
            f"and poolings need at least {_LENET_5_SMALLEST} x {_LENET_5_SMALLEST}: use lenet-300-100 instead"
        )
    one, two, three = _scaled((20, 50, 500), width)
    side = image_size
    for _ in range(2):
        side = (side - _KERNEL + 1) // 2
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(in_channels, one, _KERNEL),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(one, two, _KERNEL),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(two * side * side, three),
            relu3=nn.ReLU(),
            fc2=nn.Linear(three, classes),
        )
    )


def vgg_16_bn(in_channels: int = 3, classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """VGG-16 with batch normalisation in its CIFAR form (14,728,266 parameters, 313.20 MMACs at 32 x 32).

    The modules are `features` (torchvision's 13 convolutions of 3 x 3, each with batch normalisation and ReLU,
    and five poolings), `avgpool` (to one position), `flatten`, `classifier` (one linear layer, where the form
    for ImageNet has three), so that parameters are called `features.0.weight` to `classifier.bias`. Weights
    start as torchvision's.

    Args:
        in_channels: Channels of the images.
        classes: Number of outputs.
        width: Multiplies the widths of all layers but the last; they are rounded and at least 1.

    Returns:
        A network from `(N, in_channels, height, width)`, at least 32 x 32, to `(N, classes)`.

    Raises:
        ValueError: If a size is below 1, or the width is not positive.
    """
    from torchvision.models import vgg  # takes a while, and only these two networks need it

    _require_positive(in_channels=in_channels, classes=classes)
    widths = [each if isinstance(each, str) else _scaled([each], width)[0] for each in vgg.cfgs["D"]]
    features = vgg.make_layers(widths, batch_norm=True)
    features[0] = nn.Conv2d(in_channels, features[0].out_channels, 3, padding=1)
    classifier = nn.Linear(_scaled([512], width)[0], classes)
    for module in features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    nn.init.normal_(classifier.weight, 0.0, 0.01)
    nn.init.zeros_(classifier.bias)
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            features=features, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=classifier
        )
    )


def resnet_18(in_channels: int = 3, classes: int = 10, width: float = 1.0) -> nn.Module:
    """ResNet-18 in its CIFAR form (11,173,962 parameters, 555.42 MMACs at 32 x 32).

    torchvision's `ResNet` with a first convolution of 3 x 3 and stride 1, and an identity in the place of the
    first pooling; the modules bear torchvision's names, `conv1` and `layer1.0.conv1` to `fc`, and weights start
    as torchvision's.

    Args:
        in_channels: Channels of the images.
        classes: Number of outputs.
        width: Multiplies the widths of all layers but the last; they are rounded and at least 1.

    Returns:
        A network from `(N, in_channels, height, width)` to `(N, classes)`.

    Raises:
        ValueError: If a size is below 1, or the width is not positive.
    """
    from torchvision.models import resnet

    _require_positive(in_channels=in_channels, classes=classes)
    widths = _scaled((64, 128, 256, 512), width)
    network: Any = resnet.resnet18(weights=None, num_classes=classes)
    network.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    replaced = [network.conv1]
    if width != 1:  # torchvision has no option for it
        network.inplanes, network.bn1 = widths[0], nn.BatchNorm2d(widths[0])
        for stage, own in enumerate(widths, start=1):
            layer = network._make_layer(resnet.BasicBlock, own, 2, stride=1 if stage == 1 else 2)
            setattr(network, f"layer{stage}", layer)
            replaced += [module for module in layer.modules() if isinstance(module, nn.Conv2d)]
        network.fc = nn.Linear(widths[-1], classes)
    for convolution in replaced:
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    made: nn.Module = network
    return made


class _ShrinkingShortcut(nn.Module):
    """Option A of the paper: every other position, and zeros for the new channels; no parameters."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c, height, width)` to `(N, c + new_channels, height / 2, width / 2)`, sizes rounded up."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.new_channels))


class _BasicBlock(nn.Module):
    """Two convolutions of 3 x 3 with batch normalisation, and a shortcut without parameters around both."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Identity() if stride == 1 else _ShrinkingShortcut(after - before)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """`(N, before, height, width)` to `(N, after, ...)`."""
        h = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(h)) + self.shortcut(x))


def _cifar_resnet(blocks: int, in_channels: int, classes: int, width: float) -> nn.Sequential:
    """A residual network of He et al. 2016, section 4.2, with so many blocks in each stage."""
    _require_positive(in_channels=in_channels, classes=classes)
    widths = _scaled((16, 32, 64), width)
    before = widths[0]
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(in_channels, before, 3, padding=1, bias=False), bn1=nn.BatchNorm2d(before), relu1=nn.ReLU()
    )
    for stage, own in enumerate(widths, start=1):
        first = _BasicBlock(before, own, 1 if stage == 1 else 2)
        layers[f"layer{stage}"] = nn.Sequential(first, *(_BasicBlock(own, own, 1) for _ in range(blocks - 1)))
        before = own
    layers |= OrderedDict(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(before, classes))
    network = nn.Sequential(layers)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def resnet_20(in_channels: int = 3, classes: int = 10, width: float = 1.0) -> nn.Sequential:
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

    Returns:
        A network from `(N, in_channels, height, width)` to `(N, classes)`.

    Raises:
        ValueError: If a size is below 1, or the width is not positive.
    """
    return _cifar_resnet(3, in_channels, classes, width)


def resnet_32(in_channels: int = 3, classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """ResNet-32, as `resnet_20` with five blocks in each stage (464,154 parameters, 68.86 MMACs at 32 x 32).

    Args:
        in_channels: Channels of the images.
        classes: Number of outputs.
        width: Multiplies the widths of all layers but the last; they are rounded and at least 1.

    Returns:
        A network from `(N, in_channels, height, width)` to `(N, classes)`.

    Raises:
        ValueError: If a size is below 1, or the width is not positive.
    """
    return _cifar_resnet(5, in_channels, classes, width)


def resnet_56(in_channels: int = 3, classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """ResNet-56, as `resnet_20` with nine blocks in each stage (853,018 parameters, 125.49 MMACs at 32 x 32).

    Args:
        in_channels: Channels of the images.
        classes: Number of outputs.
        width: Multiplies the widths of all layers but the last; they are rounded and at least 1.

    Returns:
        A network from `(N, in_channels, height, width)` to `(N, classes)`.

    Raises:
        ValueError: If a size is below 1, or the width is not positive.
    """
    return _cifar_resnet(9, in_channels, classes, width)


class Builder(Protocol):
    """Makes a network for inputs of this shape."""

    def __call__(self, input_shape: Sequence[int], classes: int, width: float = 1.0) -> nn.Module:
        """See `NETWORKS`."""
        ...


def _build_lenet_300_100(input_shape: Sequence[int], classes: int, width: float = 1.0) -> nn.Module:
    network = lenet_300_100(math.prod(input_shape), classes, width=width)
    return _named("lenet-300-100", input_shape, classes, width, network)


def _build_lenet_5(input_shape: Sequence[int], classes: int, width: float = 1.0) -> nn.Module:
    if len(input_shape) != 3 or input_shape[1] != input_shape[2]:
        raise ValueError(
            f"lenet-5 got inputs of shape {tuple(input_shape)}, but it needs square images "
            "(channels, height, width): use lenet-300-100, which takes any shape"
        )
    network = lenet_5(input_shape[0], input_shape[1], classes, width)
    return _named("lenet-5", input_shape, classes, width, network)


def _build_vgg_16_bn(input_shape: Sequence[int], classes: int, width: float = 1.0) -> nn.Module:
    _require_image("vgg-16-bn", input_shape)
    if min(input_shape[1:]) < _VGG_16_SMALLEST:
        raise ValueError(
            f"vgg-16-bn got images of {input_shape[1]} x {input_shape[2]} pixels, but its five poolings need at least "
            f"{_VGG_16_SMALLEST} x {_VGG_16_SMALLEST}: use resnet-18 or lenet-5 instead"
        )
    return _named("vgg-16-bn", input_shape, classes, width, vgg_16_bn(input_shape[0], classes, width))


def _resnet_builder(name: str, make: Callable[[int, int, float], nn.Module]) -> Builder:
    """The builder of a residual network, which takes images of any size."""

    def build(input_shape: Sequence[int], classes: int, width: float = 1.0) -> nn.Module:
        _require_image(name, input_shape)
        return _named(name, input_shape, classes, width, make(input_shape[0], classes, width))

    return build


def _require_image(name: str, input_shape: Sequence[int]) -> None:
    if len(input_shape) != 3:
        raise ValueError(
            f"{name} got inputs of shape {tuple(input_shape)}, but it needs images (channels, height, width): "
            "use lenet-300-100, which takes any shape"
        )


def _named(name: str, input_shape: Sequence[int], classes: int, width: float, network: nn.Module) -> nn.Module:
    """Notes on the network how to build it again, so that a saved fit can be read without its code."""
    config = {"name": name, "input_shape": list(input_shape), "classes": classes, "width": width}
    network.config = config  # type: ignore[assignment]
    return network


NETWORKS: dict[str, Builder] = {
    "lenet-300-100": _build_lenet_300_100,
    "lenet-5": _build_lenet_5,
    "vgg-16-bn": _build_vgg_16_bn,
    "resnet-18": _resnet_builder("resnet-18", resnet_18),
    "resnet-20": _resnet_builder("resnet-20", resnet_20),
    "resnet-32": _resnet_builder("resnet-32", resnet_32),
    "resnet-56": _resnet_builder("resnet-56", resnet_56),
}
"""Networks by the name the command line uses; each builder takes `(input_shape, classes, width=1.0)`."""


def make_ready(name: str, input_shape: Sequence[int], classes: int, width: float = 1.0) -> nn.Module:
    """Makes a network of `NETWORKS`, once it is known that it can be held.

    Args:
        name: Its name.
        input_shape: Shape of one input.
        classes: Number of outputs.
        width: Multiplies the widths of the hidden layers; default 1.

    Raises:
        ValueError: If the name is unknown, the network does not take such inputs, or has more than
            `bayesprune.models.checks.size_bounds.MOST_PARAMETERS` parameters.
    """
    if not isinstance(name, str) or name not in NETWORKS:
        raise ValueError(f"network {name!r} is unknown: expected one of {', '.join(NETWORKS)}")
    require_holdable(lambda: NETWORKS[name](input_shape, classes, width), name)
    return NETWORKS[name](input_shape, classes, width)


def network_from_config(config: Any) -> nn.Module:
    """Makes a ready network again from what a builder noted on it (`network.config`), as a file has it.

    Args:
        config: Has ``name``, ``input_shape``, ``classes`` and, since there are widths, ``width``.

    Raises:
        ValueError: In one sentence, if it is something else or out of bounds
            (`bayesprune.models.checks.size_bounds`).
    """
    if not isinstance(config, Mapping):
        raise ValueError("network is not what a ready network's config was: expected name, input_shape and classes")
    return make_ready(
        config.get("name", ""),
        checked_input_shape(config.get("input_shape")),
        checked_count(config.get("classes"), "classes"),
        checked_width(config.get("width", 1.0)),
    )
