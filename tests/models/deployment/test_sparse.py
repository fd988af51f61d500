from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import bayesprune.models.deployment.sparse
from bayesprune.models.costs.latency import Latency
from bayesprune.models.deployment.sparse import to_sparse
from bayesprune.models.deployment.sparse_linear import SparseLinear
from bayesprune.models.networks.lenet import lenet_300_100


def masked(layer, density, block=1):
    """Zeros in place, of whole blocks; the same fraction of each layer up to chance."""
    rows, columns = layer.weight.shape
    keep = torch.rand(-(-rows // block), -(-columns // block)) < density
    keep = keep.repeat_interleave(block, 0).repeat_interleave(block, 1)[:rows, :columns]
    with torch.no_grad():
        layer.weight.mul_(keep)
    return layer


def network(density=0.05, block=1, hidden=(304, 112)):
    made = lenet_300_100(hidden=hidden).double()
    for layer in (made.fc1, made.fc2):
        masked(layer, density, block)
    return made


@pytest.fixture
def clock(monkeypatch):
    """Latencies that are given, by (in, out) of the layer: no test depends on the machine's mood."""
    asked = []

    def install(speed_ups):
        def latency(networks, example_input, repeats, threads, seconds):
            dense, sparse = networks["dense"], networks["sparse"]
            with torch.inference_mode():
                torch.testing.assert_close(sparse(example_input), dense(example_input))
            asked.append((dense.out_features, tuple(example_input.shape), repeats, threads, seconds))
            one = speed_ups.get(dense.out_features, 0.5)
            return {
                "dense": Latency(one, one, one, (one,) * 3, 10, 7),
                "sparse": Latency(1.0, 1.0, 1.0, (1.0,) * 3, 10, 7),
            }

        monkeypatch.setattr(bayesprune.models.deployment.sparse, "latency", latency)
        return asked

    return install


# ------------------------------------------------------------------------------------------- the layer


@pytest.mark.parametrize("block", [None, (16, 16), (8, 8)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(48,), (1, 48), (5, 48), (2, 3, 48), (1, 1, 48), (0, 48)])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_sparse_layer_gives_what_the_dense_one_gives(block, bias, shape, mode):
    linear = masked(nn.Linear(48, 32, bias=bias, dtype=torch.float64), 0.3, 8)
    sparse = SparseLinear(linear, block)
    x = torch.randn(shape, dtype=torch.float64)
    with mode():
        found, expected = sparse(x), linear(x)
    assert found.shape == expected.shape and found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)
    if x.numel():  # control: one weight less is seen
        with torch.no_grad():
            linear.weight.view(-1)[linear.weight.flatten().nonzero()[0]] = 0.0
        assert not torch.allclose(found, linear(x), rtol=1e-9)


def test_a_sparse_layer_stores_only_what_is_there():
    linear = masked(nn.Linear(48, 32), 0.2, 16)
    entries = int(torch.count_nonzero(linear.weight))
    assert SparseLinear(linear).values.shape == (entries,)
    assert SparseLinear(linear, (16, 16)).values.shape == (entries // 256, 16, 16)
    linear.weight.data[0, 0] = linear.weight.data[31, 47] = 1.0  # blocks with any entry are stored whole
    blocks = int((linear.weight.view(2, 16, 3, 16) != 0).any(3).any(1).sum())
    assert len(SparseLinear(linear, (16, 16)).values) == blocks
    torch.testing.assert_close(SparseLinear(linear, (16, 16)).weight.to_dense(), linear.weight.detach())


def test_a_layer_without_any_weight_left_gives_its_bias():
    linear = masked(nn.Linear(8, 4), 0.0)
    for x in (torch.randn(1, 8), torch.randn(3, 8)):
        for block in (None, (2, 2)):
            torch.testing.assert_close(SparseLinear(linear, block)(x), linear.bias.expand(len(x), 4))


def test_a_sparse_layer_is_copied_cast_saved_and_loaded_as_others_are(tmp_path):
    linear = masked(nn.Linear(48, 32), 0.3)
    sparse, x = SparseLinear(linear), torch.randn(4, 48)
    expected = sparse(x)
    copied = copy.deepcopy(sparse).double()
    torch.testing.assert_close(copied(x.double()).float(), expected)
    save_file(sparse.state_dict(), tmp_path / "layer.safetensors")
    other = SparseLinear(linear)
    other.values.mul_(2)
    assert not torch.allclose(other(x), expected)
    other.load_state_dict(load_file(tmp_path / "layer.safetensors"), assign=True)
    torch.testing.assert_close(other(x), expected, rtol=0, atol=0)
    copied.values.zero_()  # a copy shares nothing
    torch.testing.assert_close(sparse(x), expected, rtol=0, atol=0)
    assert f"{int(torch.count_nonzero(linear.weight))} entries" in repr(sparse)


# ----------------------------------------------------------------------------------------- the network


def test_layers_that_are_measured_faster_become_sparse_and_others_stay(clock):
    asked = clock({304: 2.5, 112: 0.8})
    dense, x = network(), torch.randn(7, 784, dtype=torch.float64)
    before = copy.deepcopy(dense.state_dict())
    result = to_sparse(dense, x, repeats=11, threads=None, seconds=0.1)
    assert [type(result.network.get_submodule(f"fc{k}")) for k in (1, 2, 3)] == [SparseLinear, nn.Linear, nn.Linear]
    assert asked == [(304, (7, 784), 11, None, 0.1), (112, (7, 304), 11, None, 0.1), (10, (7, 112), 11, None, 0.1)]
    y = torch.randn(3, 784, dtype=torch.float64)
    torch.testing.assert_close(result.network(y), dense(y), rtol=1e-12, atol=1e-13)
    one, two = result.report.layers["fc1"], result.report.layers["fc2"]
    assert one.converted and one.speed_up == one.dense_seconds == 2.5 and one.sparse_seconds == 1.0
    assert one.density == int(torch.count_nonzero(dense.fc1.weight)) / dense.fc1.weight.numel()
    assert one.block_density is None and one.input_shape == (7, 784)
    assert not two.converted and two.reason == "not faster" and two.speed_up == pytest.approx(0.8)
    assert 0 <= one.max_difference < 1e-13 and result.report.max_output_difference < 1e-13
    assert result.report.output_sd == pytest.approx(float(dense(x).detach().std(correction=0)))
    table = str(result.report).splitlines()
    assert len(table) == 5 and table[1].endswith("2.50  csr") and table[2].endswith("0.80  dense: not faster")
    assert not result.network.training and dense.training  # the network itself is left as it was
    assert type(dense.fc1) is nn.Linear and not dense.fc1._forward_pre_hooks
    torch.testing.assert_close(dense.state_dict(), before, rtol=0, atol=0)


def test_at_least_decides_what_is_faster(clock):
    clock({304: 1.04})
    x = torch.randn(7, 784, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"fc1 1.04x at density"):
        to_sparse(network(), x)
    assert to_sparse(network(), x, at_least=1.03).report.layers["fc1"].converted


def test_where_nothing_is_faster_the_sentence_has_the_measurements(clock):
    clock({304: 0.31, 112: 0.6})
    with pytest.raises(ValueError) as refusal:
        to_sparse(network(density=0.1), torch.randn(1, 784, dtype=torch.float64))
    text = str(refusal.value)
    assert text.startswith(
        "no Linear layer is faster in csr at batch 1: fc1 0.31x at density 0.1, fc2 0.60x at density 0."
    )
    assert "fc3 0.50x at density 1" in text and "\n" not in text


def test_bsr_stores_blocks_and_refuses_layers_that_they_do_not_divide(clock):
    clock({304: 3.0, 112: 2.0, 10: 2.0})
    dense, x = network(0.1, block=16), torch.randn(4, 784, dtype=torch.float64)
    result = to_sparse(dense, x, layout="bsr")
    layers = result.report.layers
    assert result.network.fc1.block == (16, 16) and layers["fc1"].block_density == layers["fc1"].density
    assert not layers["fc3"].converted and layers["fc3"].speed_up is None
    assert layers["fc3"].reason == "blocks of 16 x 16 do not divide its 10 x 112 weights"
    torch.testing.assert_close(result.network(x), dense(x), rtol=1e-12, atol=1e-13)
    spread = to_sparse(network(0.1), x, layout="bsr").report.layers["fc1"]  # single weights fill all blocks
    assert spread.block_density == 1.0 and spread.density < 0.2
    assert to_sparse(dense, x, "bsr", (2, 2)).report.layers["fc3"].converted
    narrow = to_sparse(nn.Sequential(dense.fc1, dense.fc2), x, "bsr", (16, 16)).report  # control: it can be done
    assert narrow.layers["1"].converted


def test_what_pytorch_does_not_run_is_refused_with_its_reason(monkeypatch, clock):
    clock({304: 3.0})

    def fails(self, x):
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr(SparseLinear, "forward", fails)
    with pytest.raises(ValueError, match=r"fc1: PyTorch does not run it \(no kernel\)"):
        to_sparse(network(), torch.randn(2, 784, dtype=torch.float64))


class Awkward(nn.Module):
    """A layer that is called twice, one that is never, one whose weight another layer has, one by keyword."""

    def __init__(self):
        super().__init__()
        self.twice, self.never, self.keyword = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 8)
        self.one, self.other = nn.Linear(8, 6), nn.Linear(8, 6)
        self.other.weight = self.one.weight
        self.again = self.twice
        self.double()

    def forward(self, x):
        x = self.again(torch.tanh(self.twice(x[:1])))
        return self.one(x) + self.other(self.keyword(input=x))


def test_layers_that_cannot_be_replaced_say_why(clock):
    clock({8: 2.0, 6: 2.0, 4: 2.0})
    dense, x = Awkward(), torch.randn(3, 8, dtype=torch.float64)
    dense.keyword.register_forward_hook(lambda *_: None)
    result = to_sparse(dense, x)
    reasons = {name: one.reason for name, one in result.report.layers.items()}
    assert reasons == {
        "twice": "",
        "never": "the network does not call it for the example",
        "keyword": "it has forward hooks",
        "one": "its weight is shared with another layer",
        "other": "its weight is shared with another layer",
    }
    assert type(result.network.twice) is SparseLinear and result.network.again is result.network.twice
    torch.testing.assert_close(result.network(x), dense(x), rtol=1e-12, atol=1e-13)


def test_a_network_that_is_one_layer_is_replaced(clock):
    clock({8: 2.0})
    layer = masked(nn.Linear(16, 8), 0.2)
    result = to_sparse(layer, torch.randn(2, 16))
    assert type(result.network) is SparseLinear and type(layer) is nn.Linear


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "coo"}, "layout takes 'csr' or 'bsr', not 'coo'"),
        ({"layout": "bsr", "block": (0, 16)}, "block takes"),
        ({"layout": "bsr", "block": (16,)}, "block takes"),
        ({"at_least": 0.5}, "at_least is a speed-up"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        to_sparse(network(), torch.randn(1, 784, dtype=torch.float64), **arguments)


def test_a_network_without_linear_layers_is_refused():
    with pytest.raises(ValueError, match="no layer of type nn.Linear"):
        to_sparse(nn.Sequential(nn.Conv2d(1, 2, 3)), torch.randn(1, 1, 8, 8))


def test_measured_for_real_one_percent_gains_at_batch_128_and_all_weights_do_not():
    dense = lenet_300_100()
    masked(dense.fc1, 0.01)
    result = to_sparse(dense, torch.randn(128, 784), seconds=0.2)
    layers = result.report.layers
    assert layers["fc1"].converted and layers["fc1"].speed_up > 1.5
    assert not layers["fc2"].converted and 0 < layers["fc2"].speed_up < 1.0  # control: all weights are there
    lower, upper = layers["fc1"].speed_up_quartiles
    assert lower <= layers["fc1"].speed_up <= upper
    with pytest.raises(ValueError, match="no Linear layer is faster in csr at batch 128: fc1 0"):
        to_sparse(lenet_300_100(), torch.randn(128, 784), seconds=0.2)
