from __future__ import annotations

import pytest
import torch
from torch import nn

from bayesprune.models.networks import NETWORKS, lenet_5, lenet_300_100


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
    assert set(NETWORKS) == {"lenet-300-100", "lenet-5"}
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
