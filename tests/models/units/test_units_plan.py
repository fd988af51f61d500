"""`units_plan` and `cut`: units and branches behind closed gates are cut while a network is trained."""

import copy
import json

import pytest
import torch
from torch import fx, nn

from bayesprune.models.networks.lenet import lenet_5
from bayesprune.models.networks.resnet import resnet_18, resnet_20
from bayesprune.models.networks.vgg import vgg_16_bn
from bayesprune.models.units.channel_groups import ChannelGroups
from bayesprune.models.units.cutting import cut, units_plan
from bayesprune.models.units.residual_branches import residual_branches


def closed(network, groups, removed, branches=()):
    """The network as closed gates leave it: readers take these units for zero, and these branches put out zero."""
    masked = copy.deepcopy(network)
    tensors = dict(masked.named_parameters())
    found = residual_branches(network, torch.zeros(2, 3, 32, 32)) if branches else {}
    with torch.no_grad():
        for name, gone in removed.items():
            for part in groups.sets[name].slices:
                if part.role == "input":
                    index = (gone[part.unit.clamp_min(0)] & (part.unit >= 0)).nonzero().squeeze(1)
                    tensors[part.tensor].index_fill_(part.dim, index, 0.0)
        for name in branches:
            for output in found[name].output:
                tensors[output].zero_()
    return masked


def sliced(tensor, entry):
    for dim, kept in entry["kept"].items():
        tensor = tensor.index_select(int(dim), torch.tensor(kept))
    return tensor


def loss_and_gradients(network, x):
    out = network(x)
    (out.square().sum() + out[:, 0].sum()).backward()
    return out.detach()


def random_removal(groups, seed, share=0.4):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.rand(units.count, generator=generator) < share) & units.removable
        for name, units in groups.sets.items()
    }


CASES = [
    (lenet_5, (1, 28, 28), ()),
    (vgg_16_bn, (3, 32, 32), ()),
    (resnet_20, (3, 32, 32), ()),
    (resnet_20, (3, 32, 32), ("layer1.1", "layer2.0", "layer2.2")),
    (resnet_20, (3, 32, 32), ("layer2.0", "layer2.1", "layer2.2", "layer3.0", "layer3.1", "layer3.2")),
    (resnet_18, (3, 32, 32), ("layer1.0", "layer3.0", "layer4.1")),
]


@pytest.mark.parametrize(("make", "shape", "branches"), CASES)
def test_training_goes_on_as_with_closed_gates(make, shape, branches):
    torch.manual_seed(0)
    network = make(width=1.0 if make is lenet_5 else 0.25).double().train()
    x = torch.randn(3, *shape, dtype=torch.float64)
    groups = ChannelGroups(network, x)
    removed = random_removal(groups, 1)
    plan = json.loads(json.dumps(units_plan(network, x, groups, removed, branches)))
    masked = closed(network, groups, removed, branches)
    made = cut(masked, x, plan, keep_mode=True)
    assert made.training and plan["bias_added"] == [] and plan["branches_removed"] == list(branches)
    wanted, found = loss_and_gradients(masked, x), loss_and_gradients(made, x)
    assert float(wanted.std()) > 0
    assert float((wanted - found).abs().max()) < 1e-9 * float(wanted.std())
    whole, unchanged = dict(masked.named_parameters()), {"kept": {}}
    largest = max(float(parameter.grad.abs().max()) for parameter in whole.values())
    for name, parameter in made.named_parameters():
        expected = sliced(whole[name].grad, plan["tensors"].get(name, unchanged))
        assert torch.allclose(parameter.grad, expected, rtol=1e-8, atol=1e-12 * largest), name
    buffers = dict(masked.named_buffers())
    for name, buffer in made.named_buffers():
        assert torch.allclose(buffer.double(), sliced(buffers[name], plan["tensors"].get(name, unchanged)).double()), (
            name
        )
    # control: the network with its gates open is another, so that the comparison can fail
    with torch.no_grad():
        assert float((network(x) - found).abs().max()) > 1e-3 * float(wanted.std())


@pytest.mark.parametrize("branches", [(), ("layer1.0", "layer3.1")])
def test_exactly_these_units_are_cut(branches):
    network, x = resnet_20(width=0.25), torch.zeros(2, 3, 32, 32)
    groups = ChannelGroups(network, x)
    removed = random_removal(groups, 2)
    plan = units_plan(network, x, groups, removed, branches)
    for name, entry in plan["units"].items():
        of_branch = any(name.startswith(f"{branch}.") for branch in branches)
        expected = [] if of_branch else (~removed[name]).nonzero().squeeze(1).tolist()
        assert entry == {"of": groups.sets[name].count, "kept": expected}, name
    made = cut(network, x, plan)
    after = ChannelGroups(made, x)
    assert {name: units.count for name, units in after.sets.items()} == {
        name: len(entry["kept"]) for name, entry in plan["units"].items() if entry["kept"]
    }


def test_padded_channels_that_nothing_makes_go_with_the_branches():
    network, x = resnet_20(width=0.25), torch.zeros(2, 3, 32, 32)
    groups = ChannelGroups(network, x)
    stage = ("layer3.0", "layer3.1", "layer3.2")
    assert units_plan(network, x, groups, {}, stage)["units"]["conv1"]["kept"] == list(range(8))
    assert units_plan(network, x, groups, {}, stage[1:])["units"]["conv1"]["kept"] == list(range(16))
    made = cut(network, x, units_plan(network, x, groups, {}, stage))
    assert made.fc.weight.shape == (10, 8) and made(x).shape == (2, 10)


def test_a_layer_is_never_empty():
    network, x = resnet_20(width=0.25), torch.zeros(2, 3, 32, 32)
    groups = ChannelGroups(network, x)
    removed = {name: units.removable.clone() for name, units in groups.sets.items()}
    plan = units_plan(network, x, groups, removed)
    assert [len(entry["kept"]) for entry in plan["units"].values()] == [1] * 10 + [10]
    assert cut(network, x, plan, keep_mode=True)(x).shape == (2, 10)
    first = {"conv1": torch.arange(16) < 4}  # the first layer makes these only
    assert units_plan(network, x, groups, first)["units"]["conv1"]["kept"] == [0, *range(4, 16)]


def test_modes_and_frozen_parameters_stay_as_they_are():
    network, x = resnet_20(width=0.25), torch.zeros(2, 3, 32, 32)
    network.layer2.eval()
    network.layer1[0].conv1.weight.requires_grad_(False)
    network.fc.bias.requires_grad_(False)
    groups = ChannelGroups(network, x)
    modes = {name: module.training for name, module in network.named_modules()}
    for branches in ((), ("layer1.1",)):
        plan = units_plan(network, x, groups, random_removal(groups, 3), branches)
        kept = cut(network, x, plan, keep_mode=True)
        assert {name: each.training for name, each in kept.named_modules()}.items() <= modes.items()
        frozen = [name for name, parameter in kept.named_parameters() if not parameter.requires_grad]
        assert frozen == ["layer1.0.conv1.weight", "fc.bias"]
        assert not any(module.training for module in cut(network, x, plan).modules())
    assert {name: module.training for name, module in network.named_modules()} == modes


class Dropping(nn.Module):
    """Functional dropout, which new code would freeze; a size in the code, so that it has to be written anew."""

    def __init__(self, module):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3), nn.Linear(6 * 49, 2)
        self.drop = nn.Dropout() if module else None

    def forward(self, x):
        h = self.a(x).view(-1, 6 * 49)
        h = nn.functional.dropout(h, training=self.training) if self.drop is None else self.drop(h)
        return self.b(h)


def test_code_that_is_another_in_training_is_refused_where_it_would_be_written_anew():
    x, gone = torch.zeros(2, 3, 9, 9), {"a": torch.tensor([True, False, False, True, False, False])}
    plans = {}
    for module in (True, False):
        network = Dropping(module)
        plans[module] = units_plan(network, x, ChannelGroups(network, x), gone)
    made = cut(Dropping(True), x, plans[True], keep_mode=True)
    assert isinstance(made, fx.GraphModule) and made.training and not torch.equal(made(x + 1), made(x + 1))
    with pytest.raises(ValueError, match="something else in training mode"):
        cut(Dropping(False), x, plans[False], keep_mode=True)
    assert cut(Dropping(False), x, plans[False])(x).shape == (2, 2)


def test_what_does_not_fit_is_refused():
    network, x = lenet_5(), torch.zeros(2, 1, 28, 28)
    groups = ChannelGroups(network, x)
    with pytest.raises(ValueError, match=r"conv1: removed has torch.bool of shape \(3,\), but one boolean is needed"):
        units_plan(network, x, groups, {"conv1": torch.zeros(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="conv1: removed has torch.float32"):
        units_plan(network, x, groups, {"conv1": torch.zeros(20)})
    with pytest.raises(ValueError, match="fc2: units may not be removed"):
        units_plan(network, x, groups, {"fc2": torch.ones(10, dtype=torch.bool)})
    with pytest.raises(KeyError, match="no layer 'conv9'"):
        units_plan(network, x, groups, {"conv9": torch.zeros(20, dtype=torch.bool)})
    with pytest.raises(ValueError, match="no residual branch 'conv1': there are none"):
        units_plan(network, x, groups, {}, ["conv1"])
    small = cut(network, x, units_plan(network, x, groups, random_removal(groups, 0)))
    with pytest.raises(ValueError, match="the groups are of another network: conv1.weight is of another shape"):
        units_plan(small, x, groups, random_removal(groups, 0))
