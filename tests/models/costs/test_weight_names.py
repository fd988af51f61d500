from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn

from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.costs.costs import costs
from bayesprune.models.costs.weight_names import weight_names
from bayesprune.models.networks.lenet import lenet_300_100
from bayesprune.models.networks.mobilenet import mobilenet_v1
from bayesprune.models.networks.resnet import resnet_50
from bayesprune.models.priors.soft_threshold import SoftThreshold


def layers(network, *kinds):
    return [f"{name}.weight" for name, module in network.named_modules() if isinstance(module, kinds)]


@pytest.mark.parametrize("make", [resnet_50, mobilenet_v1])
def test_they_are_the_weights_of_convolutions_and_linear_layers(make):
    network = make(width=0.1)
    found = weight_names(network)
    assert list(found) == layers(network, nn.Conv2d, nn.Linear)
    assert {found[0], found[-1]} == {"conv1.weight", "fc.weight"}
    by_pattern = {name for name, _ in network.named_parameters() if fnmatchcase(name, "*.weight")}
    assert by_pattern - set(found) == set(layers(network, nn.BatchNorm2d))  # what the plain pattern matches besides


def test_what_they_count_is_what_costs_count_as_weights():
    network = mobilenet_v1(width=0.1)
    total = sum(network.get_parameter(name).numel() for name in weight_names(network))
    assert total == costs(network, torch.zeros(1, 3, 32, 32)).weights


def test_layers_are_excluded_by_name_and_by_pattern():
    network = mobilenet_v1(width=0.1)
    every = weight_names(network)
    assert weight_names(network, ("conv1", "fc")) == every[1:-1]
    assert weight_names(network, ["conv1.weight", "*.depthwise"]) == (*layers(network, nn.Conv2d)[2::2], "fc.weight")
    model = BayesianNetwork(network, dict.fromkeys(weight_names(network, ("fc",)), SoftThreshold()), data_size=10)
    assert "fc.weight" in model.point_estimates and "conv1.weight" in model.priors


def test_what_excludes_nothing_or_everything_is_refused():
    network = lenet_300_100()
    with pytest.raises(ValueError, match=r"exclude='conv1' matches no layer .* fc1, fc2, fc3"):
        weight_names(network, ("conv1",))
    with pytest.raises(ValueError, match="leaves no weights: exclude fewer"):
        weight_names(network, ("*",))
    with pytest.raises(ValueError, match=r"write exclude=\('fc3',\)"):
        weight_names(network, "fc3")
    with pytest.raises(ValueError, match="no weights of two or more dimensions"):
        weight_names(nn.BatchNorm1d(3))


def test_a_bare_layer_and_tied_weights_have_a_name_each():
    assert weight_names(nn.Linear(2, 3)) == ("weight",)
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert weight_names(tied) == ("0.weight",)
    assert set(weight_names(tied)) <= set(dict(tied.named_parameters()))
