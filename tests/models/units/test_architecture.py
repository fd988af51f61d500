"""The notation is that of the literature where there is one, and a list where there is none."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from bayesprune.models.networks.lenet import lenet_5, lenet_300_100
from bayesprune.models.networks.resnet import resnet_18, resnet_20
from bayesprune.models.networks.vgg import vgg_16_bn
from bayesprune.models.units.architecture import architecture, layer_sizes, notation
from tests.oracles.units_reference import Net

IMAGE = torch.zeros(1, 3, 32, 32)


@pytest.mark.parametrize(
    ("build", "written"),
    [
        (lenet_300_100, "784-300-100-10"),
        (lenet_5, "1-20-50-500-10"),
        (vgg_16_bn, "3-64-64-128-128-256-256-256-512-512-512-512-512-512-10"),
        (resnet_20, "3-16" + 3 * "-(16-16)" + 3 * "-(32-32)" + 3 * "-(64-64)" + "-10"),
        (resnet_18, "3-64" + "".join(2 * f"-({width}-{width})" for width in (64, 128, 256, 512)) + "-10"),
        (lambda: nn.Linear(4, 3), "4-3"),
        (lambda: nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 2)), "50-8-2"),
        (lambda: nn.Sequential(nn.Conv2d(4, 6, 1, groups=2), nn.ConvTranspose2d(6, 8, 3, groups=2)), "4-6-8"),
        (lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 12, 3, groups=6)), "3-6-12"),
    ],
)
def test_networks_are_written_in_the_usual_notation(build, written):
    assert architecture(build(), IMAGE) == written


def test_a_projection_beside_a_branch_is_not_written():
    written = architecture(torchvision.models.resnet50(num_classes=10), IMAGE)
    assert written.startswith("3-64-(64-64-256)-(64-64-256)-(64-64-256)-(128-128-512)-")


def small_residual(join):
    """A network with one branch, whose ends a function joins."""

    def run(net, x):
        h = net.stem(x)
        return net.fc(join(net, h, net.b(torch.relu(net.a(h)))).mean(dim=(2, 3)))

    layers = {"stem": nn.Conv2d(3, 4, 1), "a": nn.Conv2d(4, 2, 1), "b": nn.Conv2d(2, 4, 1), "fc": nn.Linear(4, 2)}
    return Net(run, **layers)


LISTED = "stem: 4, a: 2, b: 4, fc: 2"


def test_a_residual_branch_stands_in_parentheses_and_nothing_else_does():
    assert architecture(small_residual(lambda net, h, branch: h + branch), IMAGE) == "3-4-(2-4)-2"
    assert architecture(small_residual(lambda net, h, branch: branch.add_(h)), IMAGE) == "3-4-(2-4)-2"
    assert architecture(small_residual(lambda net, h, branch: branch), IMAGE) == "3-4-2-4-2"
    for join in (
        lambda net, h, branch: h * branch,
        lambda net, h, branch: net.b(net.a(h)) + branch,  # layers run twice
        lambda net, h, branch: h,  # layers whose result nobody reads
        lambda net, h, branch: branch if h.sum() > 0 else h,  # torch.fx cannot trace it
    ):
        assert architecture(small_residual(join), IMAGE) == LISTED


def test_several_inputs_make_a_list():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(5, 2)

        def forward(self, x, y):
            return self.a(x) + self.b(y)

    assert architecture(Two(), (torch.zeros(1, 3), torch.zeros(1, 5))) == "a: 2, b: 2"


def test_sizes_written_in_code_do_not_hide_a_chain():
    def run(net, x):
        h = net.conv(x)
        return net.fc(h.view(h.size(0), -1))

    network = Net(run, conv=nn.Conv2d(3, 2, 32), fc=nn.Linear(2, 5))
    assert architecture(network, IMAGE) == "3-2-5"


def test_other_shapes_can_stand_for_the_network_s_own():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(4, 2))
    before = {"0.weight": (9, 3, 3, 3), "1.weight": (9, 1, 3, 3), "3.weight": (2, 9)}
    assert layer_sizes(network, before) == {"0": (3, 9), "1": (9, 9), "3": (9, 2)}
    assert notation(network, layer_sizes(network, before)) == "3-9-9-2"
    assert architecture(network, IMAGE) == "3-4-4-2"
    one = nn.Sequential(nn.Conv2d(1, 4, 3))  # one column, but not depthwise
    assert layer_sizes(one, {"0.weight": (9, 1, 3, 3)}) == {"0": (1, 9)}


def test_the_network_is_left_as_it_was():
    network = resnet_20().train()
    attributes = set(vars(network))
    architecture(network, IMAGE)
    assert network.training and set(vars(network)) == attributes


def test_a_network_without_layers_is_refused():
    with pytest.raises(ValueError, match="no linear, convolutional or recurrent layer"):
        architecture(nn.Flatten(), IMAGE)
