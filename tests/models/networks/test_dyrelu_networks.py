"""Networks with DyReLU in place of every ReLU: beside the networks they were made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bayesprune.models.costs.costs import costs
from bayesprune.models.costs.macs import count_macs
from bayesprune.models.deployment.export import export_network
from bayesprune.models.networks.dyrelu import DyReLU
from bayesprune.models.networks.dyrelu_networks import dyrelus_of, unfaded_note, with_dyrelu
from bayesprune.models.networks.lenet import lenet_300_100
from bayesprune.models.networks.resnet import resnet_18, resnet_20
from bayesprune.models.ready_networks import make_ready
from bayesprune.models.units.compact import compact
from bayesprune.models.ways.plain_layers import plain_network

SHAPE = (3, 32, 32)
READY = {
    "lenet-300-100": (0.1, 2),
    "lenet-5": (0.2, 3),
    "vgg-16-bn": (0.1, 13),
    "resnet-18": (0.1, 17),
    "resnet-20": (0.5, 19),
    "resnet-18-imagenet": (0.1, 17),
    "resnet-50": (0.05, 49),
    "resnet-34-cifar": (0.05, 33),
}


def fade(network):
    for layer in dyrelus_of(network):
        layer.put(0.0)
    return network


@pytest.mark.parametrize("name", READY)
def test_every_activation_gets_one_and_faded_it_is_the_network_it_was(name):
    width, places = READY[name]
    torch.manual_seed(0)
    plain = make_ready(name, SHAPE, 10, width)
    x = torch.randn(4, *SHAPE)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    made = with_dyrelu(plain)
    assert len(dyrelus_of(made)) == places and not any(isinstance(m, nn.ReLU) for m in made.modules())
    assert made.config == {**plain.config, "dyrelu": True} and "dyrelu" not in plain.config
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())  # which is left alone
    assert set(before) <= set(made.state_dict())
    made.eval(), plain.eval()
    assert not torch.equal(made(x), plain(x))  # control: it acts
    fade(made)
    assert torch.equal(made(x), plain(x))
    made.train(), plain.train()
    assert torch.equal(made(x), plain(x))


def test_each_of_torchvisions_places_has_its_own_and_its_own_number_of_channels():
    made = with_dyrelu(make_ready("resnet-50", SHAPE, 10, 0.125))
    block = made.layer2[1]
    assert [each.channels for each in (block.relu1, block.relu2, block.relu3)] == [16, 16, 64]
    assert len({id(p) for layer in dyrelus_of(made) for p in layer.parameters()}) == 4 * 49


@pytest.mark.parametrize(("name", "places", "count"), [("resnet-34", 33, 3_181_168), ("resnet-50", 49, 28_394_800)])
def test_hyper_networks_have_as_many_parameters_as_the_specification_says(name, places, count):
    with torch.device("meta"):
        plain = make_ready(f"{name}-cifar", SHAPE, 10)
        made = with_dyrelu(plain)
    layers = dyrelus_of(made)
    assert len(layers) == places
    assert sum(parameter.numel() for layer in layers for parameter in layer.parameters()) == count
    more = sum(p.numel() for p in made.parameters()) - sum(p.numel() for p in plain.parameters())
    assert more == count
    x = torch.zeros(1, *SHAPE)
    assert costs(made, x).weights == costs(plain, x).weights  # none of them is a weight


def test_macs_of_hyper_networks_are_theirs_and_gone_when_they_are_faded():
    plain = lenet_300_100(12, 3, (8, 4))
    made, x = with_dyrelu(plain, torch.zeros(1, 12)), torch.zeros(1, 12)
    found, before = count_macs(made, x), count_macs(plain, x)
    assert found["relu1"].dense == 8 * 2 + 2 * 32 and found["relu2"].dense == 4 + 16
    assert {name: found[name] for name in before} == before
    assert count_macs(fade(made), x) == before


def test_plain_networks_have_relu_and_no_other_parameters_than_before():
    torch.manual_seed(0)
    plain = make_ready("resnet-18", (3, 16, 16), 10, 0.1)
    made, x = with_dyrelu(plain).eval(), torch.randn(2, 3, 16, 16)
    assert plain_network(made) is made  # it acts still
    assert unfaded_note(made)[0].startswith("17 DyReLU layers were not faded") and "beta is 1" in unfaded_note(made)[0]
    dyrelus_of(made)[0].put(0.0)
    assert plain_network(made) is made and unfaded_note(made)[0].startswith("16 DyReLU")
    settled = plain_network(fade(made))
    assert settled is not made and not dyrelus_of(settled) and len(dyrelus_of(made)) == 17
    assert not unfaded_note(made) and not unfaded_note(plain)
    assert sum(isinstance(module, nn.ReLU) for module in settled.modules()) == 17
    assert settled.state_dict().keys() == plain.state_dict().keys()
    assert settled.config == plain.config and not any(module.training for module in settled.modules())
    assert torch.equal(settled(x), plain.eval()(x))
    assert isinstance(plain_network(fade(nn.Sequential(DyReLU(3)))), nn.Sequential)
    assert plain_network(plain) is plain


def test_what_acts_still_is_neither_compacted_nor_exported_and_what_does_not_is(tmp_path):
    torch.manual_seed(0)
    made, x = with_dyrelu(resnet_20(1, 3, 0.25), torch.zeros(1, 1, 8, 8)).eval(), torch.randn(2, 1, 8, 8)
    for refused in (lambda: compact(made, x), lambda: export_network(made, x, tmp_path / "none")):
        with pytest.raises(
            ValueError, match="^relu1 is a DyReLU that still acts, .* fit the network to the end"
        ) as told:
            refused()
        assert "\n" not in str(told.value)
    assert not (tmp_path / "none").exists()
    fade(made)
    for network in (made, plain_network(made)):
        torch.testing.assert_close(compact(network, x).network(x), made(x))
    export_network(plain_network(made), x, tmp_path / "some")
    assert (tmp_path / "some" / "network.py").exists()


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.relu = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x):
        return self.relu(self.fc(self.relu(self.fc(x))))


class Function(Twice):
    def forward(self, x):
        return self.relu(self.fc(F.relu(self.fc(x))))


class Method(Twice):
    def forward(self, x):
        return self.relu(self.fc(self.fc(x).relu()))


@pytest.mark.parametrize(
    ("network", "example", "said"),
    [
        (Twice(), torch.zeros(1, 4), "relu is called 2 times in a forward pass"),
        (Function(), torch.zeros(1, 4), "calls relu as a function besides its nn.ReLU modules"),
        (Method(), torch.zeros(1, 4), "calls relu as a function besides its nn.ReLU modules"),
        (nn.Sequential(nn.Linear(4, 2), nn.Tanh()), torch.zeros(1, 4), "has no nn.ReLU"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), None, "needs an input of the network"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.zeros(1, 5), "does not take an input of shape"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.zeros(1, 3, 4), r"0? ?.* is on inputs of shape \(1, 3, 4\)"),
        (with_dyrelu(nn.Sequential(nn.ReLU(), nn.Linear(4, 4)), torch.zeros(1, 4)), torch.zeros(1, 4), "no nn.ReLU"),
    ],
)
def test_networks_where_it_cannot_be_are_refused_in_a_sentence(network, example, said):
    with pytest.raises(ValueError, match=said) as told:
        with_dyrelu(network, example)
    assert "\n" not in str(told.value) and len(str(told.value)) < 400


def test_modes_dtypes_and_starts_are_those_asked_for():
    plain = resnet_18(3, 10, 0.05).double().eval()
    made = with_dyrelu(plain, torch.zeros(1, 3, 8, 8), zero_start=True)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(made(x), plain(x)) and not any(module.training for module in made.modules())
    assert {p.dtype for p in made.parameters()} == {torch.float64}
    assert not hasattr(made, "config")
