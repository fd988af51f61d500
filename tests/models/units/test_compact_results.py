"""The result of compaction: an ordinary network, a plan that JSON can hold, and a report."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from bayesprune.models.networks.lenet import lenet_5
from bayesprune.models.units.compact import compact
from bayesprune.models.units.cutting import cut
from tests.oracles.units_reference import Net

X = torch.zeros(2, 3, 9, 9)
V = torch.zeros(2, 4)


def conv(a, b, kernel=3, **options):
    return nn.Conv2d(a, b, kernel, **options)


def silence(layer, rows, bias=0.0):
    with torch.no_grad():
        layer.weight[rows] = 0.0
        if layer.bias is not None:
            layer.bias[rows] = bias


def varied():
    """A network with constants to move, a bias to add, buffers, a raw gate and a part in two."""

    def forward(s, x):
        h = s.norm(s.a(x)).relu() * s.gate
        first, second = h.split([4, 2], dim=1)
        return s.head(torch.cat([s.b(torch.sigmoid(first)), s.c(second)], 1).mean((2, 3)))

    network = Net(
        forward,
        a=conv(3, 6, bias=False),
        norm=nn.BatchNorm2d(6),
        gate=nn.Parameter(torch.rand(6, 1, 1) + 0.5),
        b=conv(4, 5, bias=False),
        c=conv(2, 3),
        head=nn.Linear(8, 2),
    ).double()
    network.norm.running_mean.normal_()
    silence(network.norm, [1, 5])
    silence(network.b, [2])
    return network


def difference(one, other, x):
    with torch.no_grad():
        a, b = one(x), other(x)
    return float((a - b).abs().max() / a.std(dim=0).mean())


def test_the_original_network_is_left_bit_for_bit_and_in_its_mode():
    network = varied().train()
    network.c.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = {name: module.training for name, module in network.named_modules()}
    compact(network, X)
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert network.b.bias is None and not hasattr(network, "config")


def test_the_result_is_in_evaluation_mode_and_has_the_original_names():
    network = varied().train()
    result = compact(network, X).network
    assert not any(module.training for module in result.modules())
    assert set(result.state_dict()) == {*network.state_dict(), "b.bias"}


def test_the_plan_survives_json_and_cuts_a_network_that_takes_the_weights():
    network = varied()
    result = compact(network, X)
    plan = json.loads(json.dumps(result.plan))
    assert plan == result.plan
    assert plan["bias_added"] == ["b"]
    assert plan["tensors"]["a.weight"] == {"shape": [6, 3, 3, 3], "kept": {"0": [0, 2, 3, 4]}}
    assert plan["tensors"]["gate"] == {"shape": [6, 1, 1], "kept": {"0": [0, 2, 3, 4]}}
    assert plan["units"]["a"] == {"of": 6, "kept": [0, 2, 3, 4]}
    empty = varied()  # as it comes out of its constructor
    loaded = cut(empty, X, plan)
    loaded.load_state_dict(result.network.state_dict(), strict=True)
    x = torch.randn(5, 3, 9, 9, dtype=torch.float64)
    assert difference(result.network, loaded, x) == 0.0
    assert difference(network.eval(), loaded, x) < 1e-10
    assert empty.a.weight.shape == (6, 3, 3, 3)


def test_a_plan_of_another_network_is_refused():
    plan = compact(varied(), X).plan
    with pytest.raises(
        ValueError, match=r"plan is of another network: it has a.weight of shape \[6, 3, 3, 3\], here is"
    ):
        cut(lenet_5(), torch.zeros(2, 1, 28, 28), plan)
    other = varied()
    plan["tensors"]["a.weight"]["kept"]["2"] = [0, 1]
    with pytest.raises(ValueError, match="dimension 2 of a.weight holds no units"):
        cut(other, X, plan)


def test_indices_of_the_plan_are_those_of_the_original_tensors():
    network = varied()
    result = compact(network, X)
    for name, entry in result.plan["tensors"].items():
        expected = network.state_dict()[name]
        if name in ("b.bias", "c.bias"):
            continue
        for dim, kept in entry["kept"].items():
            expected = expected.index_select(int(dim), torch.tensor(kept))
        assert torch.equal(result.network.state_dict()[name], expected), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_number_format_is_kept_and_constants_are_rounded_to_it_only(dtype):
    network = nn.Sequential(conv(3, 6), nn.Sigmoid(), conv(6, 4), nn.ReLU(), conv(4, 2)).to(dtype)
    silence(network[0], [1, 2])
    result = compact(network, torch.zeros(2, 3, 9, 9))
    assert {parameter.dtype for parameter in result.network.parameters()} == {dtype}
    assert result.report.units_after["0"] == 4
    exact = network[2].bias.double() + 0.5 * network[2].weight.double()[:, [1, 2]].sum(dim=(1, 2, 3))
    assert torch.equal(result.network[2].bias, exact.to(dtype))
    assert result.report.max_output_difference <= torch.finfo(dtype).eps
    assert result.report.output_sd > 100 * result.report.max_output_difference


@pytest.mark.gpu
def test_the_device_is_kept():
    network = varied().cuda()
    result = compact(network, X)
    assert {tensor.device.type for tensor in result.network.state_dict().values()} == {"cuda"}
    x = torch.randn(5, 3, 9, 9, dtype=torch.float64, device="cuda")
    assert difference(network.eval(), result.network, x) < 1e-10


def test_a_network_that_casts_to_float32_is_compared_as_it_is():
    network = Net(lambda s, x: s.b(s.a(x.float() / 255).relu()), a=nn.Linear(4, 6), b=nn.Linear(6, 2))
    silence(network.a, [1, 2])
    result = compact(network, torch.randint(0, 255, (2, 4), dtype=torch.uint8))
    assert result.report.units_after["a"] == 4
    network = Net(lambda s, x: s.b(s.a(x).relu()).float(), a=nn.Linear(4, 6).double(), b=nn.Linear(6, 2).double())
    silence(network.a, [1, 2], 0.3)
    assert compact(network, V.double()).report.units_after["a"] == 4


def test_requires_grad_and_gradients_of_the_result_work():
    network = varied()
    network.head.requires_grad_(False)
    network.head.bias.requires_grad_(True)
    with torch.no_grad():
        network.b.weight[2] = 1.0
        network.norm.bias.fill_(0.5)
        network.norm.weight.fill_(1.0)
        network.gate[5] = 0.0
    result = compact(network, X).network
    assert not result.head.weight.requires_grad and result.head.bias.requires_grad
    result(torch.randn(3, 3, 9, 9, dtype=torch.float64)).sum().backward()
    assert result.a.weight.grad.shape == result.a.weight.shape


def literal():
    """Sizes are written in its code: the compact network needs other code."""

    def forward(s, x):
        h = s.a(x).relu()
        first, second = h.split([4, 2], dim=1)
        h = torch.cat([first * 2, second, h[:, :3], h[:, -2:]], 1)
        return s.b(h.view(-1, 11 * 49))

    return Net(forward, a=conv(3, 6), b=nn.Linear(11 * 49, 2)).double()


def test_sizes_in_the_code_are_written_anew():
    network = literal()
    silence(network.a, [1, 2, 4])
    result = compact(network, X)
    assert isinstance(result.network, fx.GraphModule)
    assert [name for name, _ in result.network.named_parameters()] == ["a.weight", "a.bias", "b.weight", "b.bias"]
    assert type(result.network).__name__ == "Net"
    assert result.report.units_after["a"] == 3
    for count in (1, 2, 5):  # the batch is not written
        x = torch.randn(count, 3, 9, 9, dtype=torch.float64)
        with torch.no_grad():
            assert float((network(x) - result.network(x)).abs().max()) < 1e-12
    loaded = cut(literal(), X, result.plan)
    loaded.load_state_dict(result.network.state_dict())
    assert difference(loaded, result.network, torch.randn(5, 3, 9, 9, dtype=torch.float64)) == 0.0


def test_sizes_in_the_code_that_do_not_change_leave_the_class():
    network = literal()
    silence(network.b, [])
    result = compact(network, X)
    assert type(result.network) is Net


@pytest.mark.parametrize("make", [varied, literal])
def test_the_result_can_be_copied_saved_and_compacted_again(make, tmp_path):
    network = make()
    silence(network.a, [1])
    result = compact(network, X).network
    x = torch.randn(5, 3, 9, 9, dtype=torch.float64)
    copied = copy.deepcopy(result)
    assert difference(result, copied, x) == 0.0
    torch.save(result.state_dict(), tmp_path / "weights.pt")
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    copied.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert difference(result, copied, x) == 0.0
    again = compact(result, X)
    assert again.report.parameters_after == again.report.parameters_before
    assert difference(result, again.network, x) < 1e-12


def test_forward_that_reads_sizes_of_its_layers_goes_on_with_the_old_ones():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            h = self.a(x).relu()
            skip = h if self.b.in_features == self.b.out_features else self.c(h)
            return self.d((self.b(h) + skip) / self.b.out_features)

    network = Reads().double()
    silence(network.b, [0, 1])
    silence(network.c, [0, 1])
    result = compact(network, V)
    assert (result.network.b.in_features, result.network.b.out_features) == (4, 4)
    x = torch.randn(5, 4, dtype=torch.float64)
    assert difference(network, result.network, x) < 1e-12


def test_the_configuration_of_a_network_that_is_cut_is_dropped():
    from bayesprune.models.ready_networks import NETWORKS

    network = NETWORKS["lenet-5"]((1, 28, 28), 10)
    assert hasattr(compact(network, torch.zeros(2, 1, 28, 28)).network, "config")
    silence(network.conv1, [0])
    assert not hasattr(compact(network, torch.zeros(2, 1, 28, 28)).network, "config")
    assert network.config["input_shape"] == [1, 28, 28]


class Two(nn.Module):
    """Two inputs, one of them whole numbers, an option that is left out, and a dict of outputs."""

    def __init__(self):
        super().__init__()
        self.words, self.a, self.b, self.head = nn.Embedding(11, 5), nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 2)

    def forward(self, x, index, scale=None):
        h = self.words(index).mean(1) + self.a(x)
        if scale is not None:
            h = h * scale
        return {"first": self.b(h.relu()), "second": (self.head(h.relu()), h.shape[0])}


def test_several_inputs_and_outputs_and_arguments_left_out():
    network = Two().double()
    with torch.no_grad():
        network.words.weight[:, [0, 2]] = 0.0
    silence(network.a, [0, 2])
    index = torch.randint(0, 11, (2, 6))
    result = compact(network, (V, index))
    assert result.report.units_after == {"words": 3, "b": 3, "head": 2}
    assert result.network.words.embedding_dim == 3
    x, index = torch.randn(7, 4, dtype=torch.float64), torch.randint(0, 11, (7, 6))
    with torch.no_grad():
        one, other = network(x, index), result.network(x, index)
    assert other["second"][1] == 7
    for a, b in ((one["first"], other["first"]), (one["second"][0], other["second"][0])):
        assert float((a - b).abs().max()) < 1e-10 * float(a.std(dim=0).mean())


def test_layers_that_evaluation_never_runs_are_named():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.aux = nn.Linear(4, 5), nn.Linear(5, 2), nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 2))

        def forward(self, x):
            h = self.a(x).relu()
            return (self.b(h), self.aux(h)) if self.training else self.b(h)

    network = Auxiliary()
    silence(network.a, [1])
    result = compact(network, V)
    assert result.report.idle == ("aux.0", "aux.1")
    assert "not run in evaluation mode, left as they are: aux.0, aux.1" in str(result.report)
    assert torch.equal(result.network.aux[0].weight, network.aux[0].weight)


def test_the_report_is_a_table():
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    silence(network[0], [0, 1, 2])
    report = compact(network, V).report
    lines = str(report).splitlines()
    assert lines[0].startswith("27 of 51 parameters (52.94 %); outputs differ by at most ")
    assert lines[1:] == ["  0       3 of      6 units", "  2       3 of      3 units"]
    assert report.output_sd > 0.01 > report.max_output_difference


def test_the_output_sd_is_that_over_inputs():
    """A network that is linear in its inputs has the sd of its weights, and one without live weights has none."""
    network = nn.Sequential(nn.Linear(400, 3), nn.Identity(), nn.Linear(3, 2, bias=False)).double()
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]))
        network[0].weight.fill_(0.05)
    sd = compact(network, torch.zeros(64, 400)).report.output_sd
    assert sd == pytest.approx(1.5, rel=0.15)
    with torch.no_grad():
        network[0].weight.zero_()
    with pytest.warns(UserWarning, match="all 3 units are dead"):
        assert compact(network, torch.zeros(64, 400)).report.output_sd == 0.0


def test_the_seed_is_that_of_the_check_and_leaves_the_global_generator_alone():
    network = varied()
    state = torch.random.get_rng_state()
    first, second = compact(network, X, seed=1).report, compact(network, X, seed=2).report
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.output_sd != second.output_sd


def test_a_subclass_that_pickle_cannot_find_needs_none():
    """Nothing here is pickled: a network with a local function inside is compacted all the same."""
    network = literal()
    silence(network.a, [1])
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(network)
    assert compact(network, X).report.units_after["a"] == 5


def test_padding_with_channels_is_written_anew():
    def forward(s, x):
        h = s.a(x)
        return s.c(F.relu(F.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0) + s.b(h)))

    network = Net(forward, a=conv(3, 4), b=conv(4, 8, stride=2, padding=1), c=conv(8, 2)).double()
    silence(network.a, [0])
    silence(network.b, [0, 2, 7])
    result = compact(network, X)
    assert isinstance(result.network, fx.GraphModule)
    assert result.report.units_after["a"] == 5
    x = torch.randn(5, 3, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        assert float((network(x) - result.network(x)).abs().max()) < 1e-12
