"""VGG-16 (Simonyan and Zisserman, arXiv:1409.1556) in its CIFAR form, in any multiple of its own widths."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from bayesprune.models.networks.widths import require_positive, scaled

__all__ = ["vgg_16_bn"]


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
    from torchvision.models import vgg  # takes a while, and only this network and ResNet-18 need it

    require_positive(in_channels=in_channels, classes=classes)
    widths = [each if isinstance(each, str) else scaled([each], width)[0] for each in vgg.cfgs["D"]]
    features = vgg.make_layers(widths, batch_norm=True)
    features[0] = nn.Conv2d(in_channels, features[0].out_channels, 3, padding=1)
    classifier = nn.Linear(scaled([512], width)[0], classes)
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
