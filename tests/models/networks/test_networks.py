from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bayesprune.models.networks.lenet import lenet_5, lenet_300_100
from bayesprune.models.networks.names import NETWORK_NAMES
from bayesprune.models.networks.resnet import resnet_18, resnet_20, resnet_32, resnet_56
from bayesprune.models.networks.vgg import vgg_16_bn
from bayesprune.models.ready_networks import NETWORKS
from bayesprune.models.structure.ready_graphs import READY_GRAPHS
from bayesprune.models.units.compact import compact


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_default_lenet_300_100_has_266610_parameters():
    assert count(lenet_300_100()) == 266_610
    assert count(lenet_300_100(hidden=(300, 101))) != 266_610


def test_lenet_300_100_names_its_modules():
    names = [name for name, _ in lenet_300_100().named_children()]
    assert names == ["flatten", "fc1", "relu1", "fc2", "relu2", "fc3"]
    shapes = {name: tuple(p.shape) for name, p in lenet_300_100().named_parameters()}
    assert shapes == {
        "fc1.weight": (300, 784),
        "fc1.bias": (300,),
        "fc2.weight": (100, 300),
        "fc2.bias": (100,),
        "fc3.weight": (10, 100),
        "fc3.bias": (10,),
    }


@pytest.mark.parametrize("hidden", [(), (7,), (7, 6, 5)])
def test_hidden_layers_can_be_of_any_number(hidden):
    network = lenet_300_100(in_features=4, classes=3, hidden=hidden)
    assert network(torch.zeros(2, 4)).shape == (2, 3)
    assert sum(isinstance(m, nn.Linear) for m in network) == len(hidden) + 1
    assert hasattr(network, f"fc{len(hidden) + 1}")


def test_lenet_300_100_flattens_images_and_is_two_relu_layers():
    torch.manual_seed(0)
    network = lenet_300_100()
    x = torch.randn(3, 1, 28, 28)
    hidden = x.reshape(3, 784)
    for layer in ("fc1", "fc2"):
        linear = getattr(network, layer)
        hidden = (hidden @ linear.weight.T + linear.bias).clamp(min=0)
    expected = hidden @ network.fc3.weight.T + network.fc3.bias
    torch.testing.assert_close(network(x), expected)


def test_default_lenet_5_has_the_431080_parameters_of_the_caffe_form():
    network = lenet_5()
    assert count(network) == 431_080
    assert tuple(network.conv1.weight.shape) == (20, 1, 5, 5)
    assert tuple(network.conv2.weight.shape) == (50, 20, 5, 5)
    assert tuple(network.fc1.weight.shape) == (500, 800)
    assert tuple(network.fc2.weight.shape) == (10, 500)
    names = [name for name, _ in network.named_children()]
    assert names == ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "flatten", "fc1", "relu3", "fc2"]


@pytest.mark.parametrize("size", [16, 17, 28, 29, 31, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_lenet_5_takes_images_from_16_pixels_up(size, channels):
    network = lenet_5(in_channels=channels, image_size=size, classes=7)
    assert network(torch.zeros(2, channels, size, size)).shape == (2, 7)


def test_lenet_5_refuses_images_that_are_too_small():
    with pytest.raises(ValueError, match=r"8 x 8 .* at least 16 x 16"):
        lenet_5(image_size=8)
    with pytest.raises(ValueError, match="at least 16 x 16"):
        lenet_5(image_size=15)


def test_registry_builds_by_input_shape():
    assert tuple(NETWORKS) == NETWORK_NAMES
    assert NETWORKS["lenet-300-100"]((1, 8, 8), 10)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert NETWORKS["lenet-300-100"]((13,), 1)(torch.zeros(2, 13)).shape == (2, 1)
    assert NETWORKS["lenet-5"]((3, 32, 32), 100)(torch.zeros(2, 3, 32, 32)).shape == (2, 100)


@pytest.mark.parametrize("shape", [(784,), (1, 28, 32), (28, 28)])
def test_lenet_5_refuses_inputs_that_are_not_square_images(shape):
    with pytest.raises(ValueError, match="needs square images"):
        NETWORKS["lenet-5"](shape, 10)


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="classes is 0"):
        lenet_300_100(classes=0)
    with pytest.raises(ValueError, match="hidden is -1"):
        lenet_300_100(hidden=(-1,))
    with pytest.raises(ValueError, match="in_channels is 0"):
        lenet_5(in_channels=0)


# -- VGG-16 and ResNet-18 ---------------------------------------------------------------------------------------

VGG_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
VGG_SIDES = (32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2)
RESNET_STAGES = ((64, 64, 32), (64, 128, 16), (128, 256, 8), (256, 512, 4))  # channels in, out, and the side


def vgg_by_hand(channels, classes):
    """(parameters, MACs at 32 x 32), from the table of the paper."""
    parameters = macs = 0
    for before, after, side in zip((channels, *VGG_WIDTHS[:-1]), VGG_WIDTHS, VGG_SIDES, strict=True):
        parameters += 9 * before * after + after + 2 * after
        macs += 9 * before * after * side**2
    return parameters + 512 * classes + classes, macs + 512 * classes


def resnet_by_hand(channels, classes):
    """(parameters, MACs at 32 x 32): a first convolution, four stages of two blocks, a linear layer."""
    parameters, macs = 9 * channels * 64 + 2 * 64, 9 * channels * 64 * 32**2
    for before, after, side in RESNET_STAGES:
        weights = 9 * before * after + 3 * 9 * after * after + (before * after if before != after else 0)
        parameters += weights + (5 if before != after else 4) * 2 * after
        macs += weights * side**2
    return parameters + 512 * classes + classes, macs + 512 * classes


def cifar_resnet_by_hand(blocks):
    """A first convolution, three stages of so many blocks of two convolutions, a linear layer."""

    def by_hand(channels, classes):
        """(parameters, MACs at 32 x 32)."""
        parameters, total = 9 * channels * 16 + 2 * 16, 9 * channels * 16 * 32**2
        for before, after, side in ((16, 16, 32), (16, 32, 16), (32, 64, 8)):
            weights = 9 * before * after + (2 * blocks - 1) * 9 * after * after
            parameters += weights + 2 * blocks * 2 * after
            total += weights * side**2
        return parameters + 64 * classes + classes, total + 64 * classes

    return by_hand


def macs(network, shape):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, *shape))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("make", "by_hand"),
    [
        (vgg_16_bn, vgg_by_hand),
        (resnet_18, resnet_by_hand),
        (resnet_20, cifar_resnet_by_hand(3)),
        (resnet_32, cifar_resnet_by_hand(5)),
        (resnet_56, cifar_resnet_by_hand(9)),
    ],
)
@pytest.mark.parametrize(("channels", "classes"), [(3, 10), (1, 7)])
def test_the_cifar_forms_have_the_parameters_and_macs_of_the_papers(make, by_hand, channels, classes):
    network = make(channels, classes)
    assert (count(network), macs(network, (channels, 32, 32))) == by_hand(channels, classes)
    if (channels, classes) == (3, 10):
        assert count(network) == {
            vgg_16_bn: 14_728_266, resnet_18: 11_173_962, resnet_20: 269_722, resnet_32: 464_154, resnet_56: 853_018
        }[make]  # fmt: skip


def test_the_names_are_torchvisions():
    from torchvision.models import VGG, resnet18, vgg

    assert list(resnet_18().state_dict()) == list(resnet18(weights=None).state_dict())
    with torch.device("meta"):
        theirs = VGG(vgg.make_layers(vgg.cfgs["D"], batch_norm=True), init_weights=False)
    convolutional = [name for name in theirs.state_dict() if name.startswith("features.")]
    assert list(vgg_16_bn().state_dict()) == [*convolutional, "classifier.weight", "classifier.bias"]


def test_the_weights_start_as_torchvisions():
    for network in (vgg_16_bn(in_channels=1), resnet_18(in_channels=1), resnet_20(in_channels=1)):
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * module.kernel_size[0] ** 2
                assert float(module.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.12), name
                assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("name", ["vgg-16-bn", "resnet-18", "resnet-20"])
def test_the_cifar_forms_are_built_by_name_for_any_image_and_can_be_traced(name):
    shape = (1, 40, 33)
    network = NETWORKS[name](shape, 4).eval()
    assert network.config == {"name": name, "input_shape": [1, 40, 33], "classes": 4, "width": 1.0}
    x = torch.randn(2, *shape)
    assert network(x).shape == (2, 4)
    torch.testing.assert_close(torch.fx.symbolic_trace(network)(x), network(x))
    assert network(torch.randn(2, 1, 64, 64)).shape == (2, 4)


def test_resnet_takes_images_that_vgg_refuses():
    assert NETWORKS["resnet-18"]((1, 8, 8), 10).eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(ValueError, match=r"8 x 8 pixels, but its five poolings need at least 32 x 32: use resnet-18"):
        NETWORKS["vgg-16-bn"]((1, 8, 8), 10)
    with pytest.raises(ValueError, match="31 x 32"):
        NETWORKS["vgg-16-bn"]((1, 31, 32), 10)


@pytest.mark.parametrize("name", ["vgg-16-bn", "resnet-18", "resnet-20", "resnet-32", "resnet-56"])
def test_the_cifar_forms_refuse_what_is_no_image_and_sizes_below_one(name):
    with pytest.raises(ValueError, match="it needs images"):
        NETWORKS[name]((784,), 10)
    with pytest.raises(ValueError, match="classes is 0"):
        NETWORKS[name]((3, 32, 32), 0)
    with pytest.raises(ValueError, match="in_channels is 0"):
        NETWORKS[name]((0, 32, 32), 10)


# -- ResNet-20 --------------------------------------------------------------------------------------------------


def convolved(x, layer, norm, stride=1):
    """Convolution and batch normalisation in evaluation mode, from their formulas."""
    h = torch.nn.functional.conv2d(x, layer.weight, stride=stride, padding=1)
    mean, sd = norm.running_mean.view(1, -1, 1, 1), (norm.running_var.view(1, -1, 1, 1) + norm.eps).sqrt()
    return (h - mean) / sd * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)


def uneven_resnet_20():
    """A network of float64 whose normalisations do something."""
    torch.manual_seed(0)
    network = resnet_20().double().eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.weight, layer.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (layer.bias, layer.running_mean):
                    tensor.normal_(0.0, 0.3)
    return network


def resnet_20_of_the_paper(network, x, new_first=False):
    """Section 4.2: three stages of three blocks, every other position and zeros for new channels (option A)."""
    h = convolved(x, network.conv1, network.bn1).relu()
    for stage in (network.layer1, network.layer2, network.layer3):
        for block in stage:
            widens = block.conv1.weight.shape[0] != h.shape[1]
            inner = convolved(h, block.conv1, block.bn1, 2 if widens else 1).relu()
            if widens:
                half = h[:, :, ::2, ::2]
                zeros = torch.zeros_like(half)
                h = torch.cat([zeros, half] if new_first else [half, zeros], dim=1)
            h = (convolved(inner, block.conv2, block.bn2) + h).relu()
    return network.fc(h.mean(dim=(2, 3)))


def test_resnet_20_is_that_of_the_paper():
    network, x = uneven_resnet_20(), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        found, wanted = network(x), resnet_20_of_the_paper(network, x)
        other = resnet_20_of_the_paper(network, x, new_first=True)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    assert float((found - other).abs().max()) > 1e-3


def test_a_channel_of_resnet_20_that_shortcuts_carry_on_is_removed_everywhere():
    network, x = uneven_resnet_20(), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    norms = [block.bn2 for stage in (network.layer2, network.layer3) for block in stage]
    with torch.no_grad():
        for norm in norms:
            norm.weight[20] = norm.bias[20] = 0.0  # new in the second stage, carried on into the third
        before = network(x)
        smaller = compact(network, x[:2]).network
        torch.testing.assert_close(smaller(x), before, rtol=1e-9, atol=1e-9)
        norms[-1].bias[20] = 1.0
        assert float((network(x) - before).abs().max()) > 1e-3
    assert smaller.get_submodule("layer2.0.conv2").weight.shape[0] == 31
    assert smaller.get_submodule("layer3.2.conv2").weight.shape[0] == 63
    assert smaller.fc.weight.shape[1] == 63
    assert smaller.conv1.weight.shape[0] == 16


# -- multiples of the widths ------------------------------------------------------------------------------------


def made(network):
    """How many units each convolution and linear layer makes, by its name."""
    return {name: len(m.weight) for name, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in NETWORKS
        if name not in ("resnet-50", "resnet-50-cifar", "mobilenet-v2", "gru", "lstm", *READY_GRAPHS)
        and not name.endswith("-stack")
    ],
)
@pytest.mark.parametrize("width", [0.01, 0.3, 0.5])
def test_every_hidden_width_is_multiplied_rounded_and_at_least_one(name, width):
    shape = (1, 16, 16) if name.startswith("lenet") else (3, 32, 32)
    network, own = NETWORKS[name](shape, 10, width).eval(), made(NETWORKS[name](shape, 10))
    assert network.config == {"name": name, "input_shape": list(shape), "classes": 10, "width": width}
    last = list(own)[-1]
    assert made(network) == {key: 10 if key == last else max(1, round(width * units)) for key, units in own.items()}
    assert network(torch.randn(2, *shape)).shape == (2, 10)
    again = NETWORKS[name](network.config["input_shape"], network.config["classes"], network.config["width"])
    again.load_state_dict(network.state_dict())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_width_one_is_the_network(name):
    shape = (1, 16, 16) if name.startswith("lenet") else (32,) if name.endswith("-stack") else (3, 32, 32)
    states = []
    for width in ((), (1.0,), (1,)):
        torch.manual_seed(0)
        states.append(NETWORKS[name](shape, 10, *width).state_dict())
    assert all(torch.equal(states[0][key], other[key]) for other in states[1:] for key in states[0])
    torch.manual_seed(1)  # control: from other random numbers it is another
    other = NETWORKS[name](shape, 10).state_dict()
    assert not all(torch.equal(states[0][key], other[key]) for key in states[0])


def test_narrow_networks_start_by_the_same_rule():
    for make in (resnet_18, resnet_20, vgg_16_bn):
        for name, module in make(width=0.5).named_modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * module.kernel_size[0] ** 2
                assert float(module.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.2), name


def test_stages_that_become_equally_wide_still_halve_the_image():
    network = resnet_20(width=0.01).eval()
    sides = []
    for stage in (network.layer1, network.layer2, network.layer3):
        stage.register_forward_hook(lambda _, __, found: sides.append(tuple(found.shape[1:])))
    network(torch.zeros(1, 3, 32, 32))
    assert sides == [(1, 32, 32), (1, 16, 16), (1, 8, 8)]


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan"), float("inf")])
def test_widths_that_are_not_positive_are_refused(width):
    for name in NETWORKS:
        with pytest.raises(ValueError, match="width is .* pass a positive number"):
            NETWORKS[name]((1, 32, 32), 10, width)
