"""What a ready network notes of itself, and networks made again from it."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from bayesprune.models.costs.costs import costs
from bayesprune.models.networks.dyrelu_networks import dyrelus_of, with_dyrelu
from bayesprune.models.networks.resnet import resnet_18, resnet_20, resnet_34_cifar, resnet_50_cifar
from bayesprune.models.networks.shared_blocks import SharedBlock, share_blocks
from bayesprune.models.ready_networks import make_ready, network_from_config

PLACES = {"resnet-20": 19, "resnet-34-cifar": 33, "resnet-50-cifar": 49}
ALL = {"stem_stride": 2, "shared_blocks": 2, "dyrelu": True}
PLAIN = {"name": "resnet-20", "input_shape": [1, 12, 12], "classes": 3, "width": 0.25}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *(("resnet-20", more) for more in ({}, {"stem_stride": 2}, {"shared_blocks": 2}, {"dyrelu": True}, ALL)),
        ("resnet-34-cifar", ALL),
        ("resnet-50-cifar", ALL),
    ],
)
def test_a_network_is_made_again_from_its_config(name, more):
    torch.manual_seed(0)
    made = make_ready(name, (1, 12, 12), 3, 0.1, **more)
    assert {key: made.config[key] for key in more} == more and len(made.config) == 4 + len(more)
    again = network_from_config(json.loads(json.dumps(made.config)))
    assert again.config == made.config
    again.load_state_dict(made.state_dict())
    x = torch.randn(2, 1, 12, 12)
    assert torch.equal(again.eval()(x), made.eval()(x))
    assert len(dyrelus_of(again)) == len(dyrelus_of(made)) == (PLACES[name] if "dyrelu" in more else 0)


def test_what_is_applied_afterwards_is_noted_too():
    made = with_dyrelu(share_blocks(make_ready("resnet-20", (1, 12, 12), 3, 0.25, stem_stride=2)))
    assert made.config == {**PLAIN, **ALL}
    again = network_from_config(made.config)
    assert again.state_dict().keys() == made.state_dict().keys()
    assert sum(isinstance(module, SharedBlock) for module in again.modules()) == 3


def test_files_of_earlier_versions_say_nothing_of_this():
    made = network_from_config({key: value for key, value in PLAIN.items() if key != "width"})
    assert not dyrelus_of(made) and made.conv1.stride == (1, 1)
    assert made.config == {**PLAIN, "width": 1.0}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"shared_blocks": 0}, "shared_blocks is 0, but a whole number from 1 to 100 is expected"),
        ({"shared_blocks": None}, "shared_blocks is None, but"),
        ({"shared_blocks": True}, "shared_blocks is True, but"),
        ({"shared_blocks": "2"}, "shared_blocks is '2', but"),
        ({"shared_blocks": 10**9}, "shared_blocks is 1000000000, but"),
        ({"shared_blocks": 3}, "no stage has more than 3 blocks"),
        ({"shared_blocks": 2, "name": "lenet-5", "input_shape": [1, 28, 28]}, "no residual stages"),
        ({"dyrelu": 1}, "dyrelu is 1, but true or false is expected"),
        ({"dyrelu": "x" * 1000}, "dyrelu is 'x+"),
        ({"dyrelu": None}, "dyrelu is None, but true or false is expected"),
        ({"dyrelu": True, "name": "gru"}, "no nn.ReLU"),
        ({"stem_stride": 0}, "stem_stride is 0, but a whole number from 1 to 8 is expected"),
        ({"stem_stride": 9}, "stem_stride is 9, but"),
        ({"stem_stride": 1.5}, "stem_stride is 1.5, but"),
        ({"stem_stride": 2, "name": "lenet-5"}, "lenet-5 has no stem_stride: leave it out, or take one of resnet-18"),
        ({"stem_stride": 2, "input_shape": [12]}, r"resnet-20 got inputs of shape \(12,\)"),
    ],
)
def test_what_no_network_has_is_refused_in_a_sentence(more, said):
    with pytest.raises(ValueError, match=said) as told:
        network_from_config({**PLAIN, **more})
    assert "\n" not in str(told.value) and len(str(told.value)) < 300


def test_forms_for_small_images_keep_their_size_and_torchvisions_counts():
    x = torch.zeros(1, 3, 32, 32)
    with torch.device("meta"):
        found = {make.__name__: costs(make(), x) for make in (resnet_34_cifar, resnet_50_cifar)}
        large = {name: costs(make_ready(name, (3, 32, 32), 10), x) for name in ("resnet-34", "resnet-50")}
    for name, parameters, macs in (("34", 21_282_122, 1159.40), ("50", 23_520_842, 1297.83)):
        one, other = found[f"resnet_{name}_cifar"], large[f"resnet-{name}"]
        assert one.parameters == parameters == other.parameters - 3 * 64 * (7 * 7 - 3 * 3)
        assert round(one.dense_macs / 1e6, 2) == macs


@pytest.mark.parametrize("make", [resnet_18, resnet_20, resnet_34_cifar, resnet_50_cifar])
def test_a_stride_of_the_stem_halves_all_images_and_changes_no_weights(make):
    torch.manual_seed(0)
    one = make(1, 3, 0.1)
    torch.manual_seed(0)
    other = make(1, 3, 0.1, stem_stride=2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    seen = []
    for network in (one, other):
        hook = network.layer1.register_forward_hook(lambda _, __, output: seen.append(output.shape[-1]))
        network(torch.randn(2, 1, 16, 16))
        hook.remove()
    assert seen == [16, 8]
    assert sum(isinstance(module, nn.Conv2d) for module in other.modules()) > 10
    with pytest.raises(ValueError, match="stem_stride is 0, but a network needs at least 1"):
        make(1, 3, 0.1, stem_stride=0)
