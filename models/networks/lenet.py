"""The LeNets, as plain modules with readable parameter names, in any multiple of their own widths.

They come from LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86 (1998), in the forms that the pruning literature uses.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from bayesprune.models.networks.widths import require_positive, scaled

__all__ = ["lenet_300_100", "lenet_5"]

_KERNEL = 5
_LENET_5_SMALLEST = 16  # 16 -> 12 -> 6 -> 2 -> 1: one position is left after the second pooling


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
    require_positive(in_features=in_features, classes=classes)
    for own in hidden:
        require_positive(hidden=own)
    widths = [in_features, *scaled(hidden, width)]
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
    require_positive(in_channels=in_channels, classes=classes)
    if image_size < _LENET_5_SMALLEST:
        raise ValueError(
            f"lenet-5 got images of {image_size} x {image_size} pixels, but its two convolutions "
            f"and poolings need at least {_LENET_5_SMALLEST} x {_LENET_5_SMALLEST}: use lenet-300-100 instead"
        )
    one, two, three = scaled((20, 50, 500), width)
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
