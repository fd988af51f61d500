"""Compaction of residual networks: branches that put out nothing but zeros go whole."""

import copy
import importlib.util
import json

import pytest
import torch
from torch import fx, nn

from bayesprune.models.deployment.export import export_network
from bayesprune.models.networks.lenet import lenet_5
from bayesprune.models.networks.resnet import resnet_18, resnet_20
from bayesprune.models.units.channel_groups import ChannelGroups
from bayesprune.models.units.compact import compact
from bayesprune.models.units.cutting import cut
from bayesprune.models.units.residual_branches import residual_branches

X = torch.zeros(2, 3, 32, 32)
DEAD = ["layer1.1", "layer3.0"]


def uneven(make, **options):
    """float64, in evaluation mode, with normalisations that do something."""
    torch.manual_seed(0)
    network = make(**{"width": 0.25, **options}).double()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.weight, layer.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (layer.bias, layer.running_mean):
                    tensor.normal_(0.0, 0.3)
    return network.eval()


def silence(network, names):
    branches = residual_branches(network, X.double())
    with torch.no_grad():
        for name in names:
            for output in branches[name].output:
                network.get_parameter(output).zero_()
    return network


def difference(one, other, seed=1):
    """Largest difference of outputs relative to their sd, on inputs that nobody has seen."""
    x = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        wanted, found = one(x), other(x)
    assert wanted.shape == found.shape and float(wanted.std()) > 0
    return float((wanted - found).abs().max() / wanted.std())


def check(network, names):
    """Branches of these names go whole, nothing of the outputs changes, and the plan says how."""
    result = compact(network, X)
    assert result.report.branches_removed == tuple(names)
    assert difference(network, result.network) < 1e-9
    plan = json.loads(json.dumps(result.plan))
    assert plan == result.plan and plan["branches_removed"] == list(names)
    left = {name for name, _ in result.network.named_modules()}
    for name in names:
        assert plan["units"][f"{name}.conv1"]["kept"] == [] and result.report.units_after[f"{name}.conv1"] == 0
        assert not left & {f"{name}.{layer}" for layer in ("conv1", "bn1", "conv2", "bn2")}
    fresh = copy.deepcopy(network)
    for parameter in fresh.parameters():
        nn.init.normal_(parameter)
    loaded = cut(fresh, X, plan)
    assert difference(result.network, loaded) > 1e-3  # the plan holds no weights
    loaded.load_state_dict(result.network.state_dict(), strict=True)
    assert difference(result.network, loaded) == 0.0
    return result


@pytest.mark.parametrize("names", [DEAD, ["layer2.0", "layer2.1", "layer2.2"]])
def test_dead_branches_of_resnet_20_go_whole(names):
    network = silence(uneven(resnet_20), names)
    result = check(network, names)
    assert isinstance(result.network, fx.GraphModule) and type(result.network).__name__ == "Sequential"
    gone = sum(p.numel() for n, p in network.named_parameters() for each in names if n.startswith(f"{each}."))
    assert result.report.parameters_after == result.report.parameters_before - gone
    assert f"residual branches removed whole: {', '.join(names)}\n" in f"{result.report}\n"
    # control: what a branch puts out matters as long as it is not zero
    with torch.no_grad():
        network.get_parameter(f"{names[0]}.bn2.bias")[1] = 0.1
    assert difference(network, result.network) > 1e-3
    assert compact(network, X).report.branches_removed == tuple(names[1:])


def test_dead_branches_of_resnet_18_go_and_projections_stay():
    names = ["layer1.0", "layer2.0", "layer4.1"]
    network = silence(uneven(resnet_18, width=0.1), names)
    groups = ChannelGroups(network, X)
    groups.zero(network, {"layer2.0.conv2": [2], "layer3.0.conv2": [0, 3], "layer4.0.conv1": [1]})
    with torch.no_grad():
        for stage in (network.layer2, network.layer3):  # else zero filters are not zero behind it
            stage[0].downsample[1].running_mean.zero_()
    report = check(network, names).report
    assert set(report.units_after) == set(groups.sets)  # under the names of the original network
    lost = {name: before - report.units_after[name] for name, before in report.units_before.items()}
    for name in names:
        del lost[f"{name}.conv1"]
    assert {name: count for name, count in lost.items() if count} == {
        "layer2.0.conv2": 1, "layer3.0.conv2": 2, "layer4.0.conv1": 1
    }  # fmt: skip


def test_a_network_of_nothing_but_dead_branches_is_a_chain():
    network = uneven(resnet_20)
    names = list(residual_branches(network, X))
    result = check(silence(network, names), names)
    assert result.network.fc.in_features == 4  # channels that only branches made are gone
    assert residual_branches(result.network, X.double()) == {}


def test_a_branch_is_dead_if_all_filters_that_make_its_output_are():
    network = uneven(resnet_20)
    block = network.layer2[1]
    with torch.no_grad():
        block.conv2.weight.zero_()
        block.bn2.bias.zero_()
        block.bn2.running_mean.zero_()
    check(network, ["layer2.1"])


def test_a_branch_that_puts_out_a_constant_keeps_one_unit():
    network = uneven(resnet_20)
    with torch.no_grad():
        network.layer2[1].conv2.weight.zero_()
    with pytest.warns(UserWarning, match=r"layer2.1.conv1: all 8 units are dead: one is kept"):
        result = compact(network, X)
    assert result.report.branches_removed == () and result.report.units_after["layer2.1.conv1"] == 1
    assert "removed whole" not in str(result.report)
    assert difference(network, result.network) < 1e-9


def test_dead_units_and_dead_branches_go_together_and_a_compact_network_can_be_compacted_again():
    network = silence(uneven(resnet_20), ["layer1.1"])
    ChannelGroups(network, X).zero(network, {"layer2.0.conv1": [0, 2], "layer3.2.conv1": [5]})
    first = check(network, ["layer1.1"])
    assert first.plan["units"]["layer2.0.conv1"]["kept"] == [1, *range(3, 8)]
    again = silence(copy.deepcopy(first.network), ["layer3.1"])
    check(again, ["layer3.1"])


class Nested(nn.Module):
    """A branch in a branch."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.outer = nn.Conv2d(6, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 6, 3, padding=1)
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        x = self.first(x).relu()
        h = x + self.inner(x)
        x = x + self.outer(h.relu())
        return self.last(x.mean((2, 3)))


def test_branches_in_branches():
    torch.manual_seed(0)
    network = Nested().double()
    assert list(residual_branches(network, X.double())) == ["inner", "outer"]
    inner = compact(silence(copy.deepcopy(network), ["inner"]), X)
    assert inner.report.branches_removed == ("inner",)
    both = silence(copy.deepcopy(network), ["inner", "outer"])
    result = compact(both, X)
    assert result.report.branches_removed == ("outer",)  # the other is a part of it
    assert [name for name, _ in result.network.named_parameters()] == [
        "first.weight", "first.bias", "last.weight", "last.bias"
    ]  # fmt: skip
    assert difference(both, result.network) < 1e-9 < difference(network, result.network)


def test_plans_of_older_files_and_of_other_networks():
    network = uneven(resnet_20)
    ChannelGroups(network, X).zero(network, {"layer1.0.conv1": [1]})
    plan = compact(network, X).plan
    assert plan["branches_removed"] == []
    older = {key: value for key, value in plan.items() if key != "branches_removed"}
    assert difference(network, cut(network, X, older)) < 1e-9
    with pytest.raises(ValueError, match="no residual branch 'layer1.0': there are none"):
        cut(lenet_5(), torch.zeros(2, 1, 28, 28), {**plan, "branches_removed": ["layer1.0"]})


def test_frozen_branches_are_removed_and_what_stays_is_frozen_still():
    network = silence(uneven(resnet_20), DEAD)
    free = compact(network, X)
    network.layer1[0].conv1.weight.requires_grad_(False)  # not a part of a dead branch
    network.layer1[1].conv1.weight.requires_grad_(False)
    result = compact(network, X)
    assert result.report.branches_removed == free.report.branches_removed != ()
    frozen = [name for name, parameter in result.network.named_parameters() if not parameter.requires_grad]
    assert frozen == ["layer1.0.conv1.weight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_number_formats_are_checked_in_float64_too(dtype):
    network = silence(uneven(resnet_20), DEAD)
    ChannelGroups(network, X).zero(network, {"layer2.0.conv1": [0, 2]})
    result = compact(network.to(dtype), X)
    assert result.report.branches_removed == tuple(DEAD) and result.network.fc.weight.dtype is dtype
    assert difference(network.double(), result.network.double()) < 1e-9


def test_exported_code_of_a_network_without_two_branches(tmp_path):
    network = silence(uneven(resnet_20), DEAD)
    result = compact(network, X)
    folder = export_network(result.network, X[:1].double(), tmp_path / "small", plan=result.plan)
    spec = importlib.util.spec_from_file_location("exported_resnet", folder / "network.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert difference(network, module.load()) < 1e-9
    assert json.loads((folder / "plan.json").read_text())["branches_removed"] == DEAD
    other = uneven(resnet_20)  # control: branches that are not dead
    assert difference(other, module.load()) > 1e-3


@pytest.mark.slow
def test_onnx_of_a_network_without_two_branches(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from bayesprune.models.deployment.onnx_export import export_onnx

    network = silence(uneven(resnet_20), DEAD)
    file = export_onnx(compact(network, X).network.float(), X[:1], tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def by_onnx(x):
        return torch.as_tensor(session.run(None, {session.get_inputs()[0].name: x.float().numpy()})[0]).double()

    assert difference(network, by_onnx) < 1e-5  # float32
    assert difference(uneven(resnet_20), by_onnx) > 1e-3
