"""Costs are exact: against loops, files and SciPy's CSR."""

from __future__ import annotations

import json
import warnings

import pytest
import scipy.sparse
import torch
from safetensors.torch import save_file
from torch import nn

from bayesprune.models.costs.costs import costs
from bayesprune.models.networks.lenet import lenet_5

KEYS = {
    "weights",
    "nonzero",
    "parameters",
    "compact_parameters",
    "dense_macs",
    "sparse_macs",
    "compact_macs",
    "dense_bytes",
    "csr_bytes",
}


def zeros_in_place(network, fraction=0.7, seed=0):
    """Sets a random part of every weight to zero, and none of the others."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(torch.rand(parameter.shape, generator=generator) > fraction)
    return network


# ----------------------------------------------------------------------------------- weights and bytes


def test_biases_and_normalisation_are_no_weights():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm((4, 6, 6)), nn.Flatten(), nn.Linear(144, 2)
    )
    found = costs(network, torch.randn(2, 1, 8, 8))
    assert found.weights == 4 * 9 + 144 * 2
    assert found.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert [row.weights for row in found.layers.values()] == [36, 0, 0, 288]
    assert found.layers["1"].sparsity == 0.0
    attention = nn.MultiheadAttention(4, 1, add_bias_kv=True)  # its biases have three dimensions
    assert costs(attention, (torch.randn(1, 2, 4),) * 3).weights == 4 * 4 * 4


def test_zeros_are_counted():
    network = zeros_in_place(lenet_5())
    found = costs(network, torch.randn(1, 1, 28, 28))
    tensors = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    nonzero = [sum(value != 0 for value in tensor.flatten().tolist()) for tensor in tensors]
    assert [row.nonzero for row in found.layers.values()] == nonzero
    assert found.nonzero == sum(nonzero)
    assert found.density == pytest.approx(0.3, abs=0.01)
    assert found.sparsity == 1.0 - found.density
    positions = [24 * 24, 8 * 8, 1, 1]
    assert found.sparse_macs == sum(n * p for n, p in zip(nonzero, positions, strict=True))


def test_bytes_are_those_of_a_file_and_of_scipys_csr(tmp_path):
    network = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(216, 4).half().float())
    zeros_in_place(network)
    network.register_buffer("steps", torch.zeros(3, dtype=torch.int64))
    network.register_buffer("passing", torch.zeros(50), persistent=False)
    found = costs(network, torch.randn(1, 2, 8, 8))
    file = tmp_path / "network.safetensors"
    save_file(network.state_dict(), file)
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    assert found.dense_bytes == file.stat().st_size - header
    csr = 0
    for tensor in network.state_dict().values():
        if tensor.ndim < 2:
            csr += tensor.numpy().nbytes
            continue
        matrix = scipy.sparse.csr_matrix(tensor.flatten(1).numpy())
        csr += matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    assert found.csr_bytes == csr < found.dense_bytes
    assert found.layers["(network)"].dense_bytes == 24


def test_a_tied_parameter_is_counted_once_in_the_totals_and_works_twice():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.read = nn.Linear(4, 10, bias=False)
            self.again = nn.Linear(4, 10)
            self.read.weight = self.again.weight = self.embed.weight

        def forward(self, x):
            return self.read(self.embed(x)) + self.again(self.embed(x))

    network = Tied()
    with torch.no_grad():
        network.embed.weight[:5] = 0.0
    found = costs(network, torch.tensor([[1, 2, 3]]))
    assert [row.weights for row in found.layers.values()] == [40, 40, 40]
    assert (found.weights, found.nonzero, found.parameters, found.dense_bytes) == (40, 20, 50, 200)
    assert [row.dense_macs for row in found.layers.values()] == [0, 120, 120]
    assert (found.dense_macs, found.sparse_macs) == (240, 120)


@pytest.mark.parametrize("layout", ["csr", "csc", "bsr"])
@pytest.mark.parametrize("bias", [True, False])
def test_weights_of_a_sparse_layout_cost_what_they_cost_dense(layout, bias):
    network = zeros_in_place(nn.Sequential(nn.Linear(8, 6, bias=bias)))
    dense = costs(network, torch.randn(2, 8))
    weight = network[0].weight.detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls these layouts beta
        sparse = weight.to_sparse_bsr((2, 2)) if layout == "bsr" else getattr(weight, f"to_sparse_{layout}")()
        network[0].weight = nn.Parameter(sparse, requires_grad=False)
        found = costs(network, torch.randn(2, 8))
    assert found == dense
    assert found.sparse_macs == int(weight.count_nonzero()) < found.dense_macs == 48
    if layout == "bsr":
        assert sparse.values().numel() > found.nonzero  # control: blocks hold zeros


def test_on_the_meta_device_nothing_is_known_to_be_zero():
    network = zeros_in_place(lenet_5())
    real, example = costs(network, torch.randn(1, 1, 28, 28)), torch.randn(1, 1, 28, 28)
    found = costs(network.to("meta"), example)
    assert (found.weights, found.dense_macs, found.dense_bytes) == (real.weights, real.dense_macs, real.dense_bytes)
    assert (found.nonzero, found.sparse_macs) == (found.weights, found.dense_macs)
    assert real.nonzero < real.weights


# ------------------------------------------------------------------------------------ the compact network


def test_compact_layers_are_matched_by_name():
    def build(width, names=("first", "norm", "middle", "last")):
        layers = {
            "first": nn.Linear(8, width),
            "norm": nn.BatchNorm1d(width),
            "middle": nn.Linear(width, width),
            "last": nn.Linear(width, 2),
            "added": nn.Linear(2, 2),
        }
        network = nn.Sequential()
        for name in names:
            network.add_module(name, layers[name])
        return network

    example = torch.randn(2, 8)
    alone = costs(build(10), example)
    assert alone.compact_macs is None and alone.compact_parameters is None
    assert {row.compact_macs for row in alone.layers.values()} == {None}
    found = costs(build(10), example, build(3, ("first", "norm", "last", "added")))
    assert {name: (row.dense_macs, row.compact_macs) for name, row in found.layers.items()} == {
        "first": (80, 24),
        "norm": (0, 0),
        "middle": (100, 0),
        "last": (20, 6),
        "added": (0, 4),
    }
    assert found.layers["middle"].compact_parameters == 0
    assert (found.compact_macs, found.compact_parameters) == (34, 27 + 6 + 8 + 6)
    assert (found.dense_macs, found.parameters) == (alone.dense_macs, alone.parameters)
    assert found.weights == sum(row.weights for row in found.layers.values())


def test_a_tied_parameter_of_the_compact_network_is_counted_once():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    found = costs(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), torch.randn(1, 3), network)
    assert (found.parameters, found.compact_parameters, found.compact_macs) == (24, 15, 18)


def test_a_traced_compact_network_is_counted_in_full():
    network = nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.ReLU(), nn.Linear(6, 2)))
    traced = torch.fx.symbolic_trace(network)
    found = costs(network, torch.randn(1, 4), traced)
    assert {name: row.compact_macs for name, row in found.layers.items()} == {"0": 24, "1.1": 12}
    assert found.compact_macs == found.dense_macs


# ------------------------------------------------------------------------------------------- what is seen


def test_the_dictionary_is_json_and_the_table_has_all_rows():
    network = zeros_in_place(lenet_5())
    found = costs(network, torch.randn(1, 1, 28, 28), network)
    told = json.loads(json.dumps(found.as_dict()))
    assert set(told) == KEYS | {"layers"}
    assert list(told["layers"]) == ["conv1", "conv2", "fc1", "fc2"]
    assert all(set(row) == KEYS for row in told["layers"].values())
    assert all(isinstance(told[key], int) for key in KEYS)
    assert told["dense_macs"] == found.dense_macs == 2_293_000
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "conv1", "conv2", "fc1", "fc2", "total"]
    assert len({len(line) for line in lines}) == 1
    assert lines[-1].split()[1:4] == ["430,500", f"{found.nonzero:,}", f"{found.density:.4f}"]
    assert "compact MACs" in lines[0]
    assert "compact" not in str(costs(network, torch.randn(1, 1, 28, 28)))


# --------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("network", "example", "message"),
    [
        (nn.Linear(3, 2), torch.randn(2, 4), r"does not take an example input of shape \(2, 4\)"),
        (nn.Linear(3, 2), (torch.randn(2, 3), torch.randn(2, 3)), r"example input of shape \(2, 3\), \(2, 3\)"),
        (nn.Linear(3, 2), torch.randn(0, 3), r"shape \(0, 3\) is empty: pass at least one example"),
        (nn.Linear(3, 2), torch.tensor(1.0), "holds no batch"),
        (nn.Linear(3, 2), (), "holds no batch"),
        (nn.Linear(3, 2), None, "holds no batch"),
        (nn.ReLU(), torch.randn(1, 3), "holds no parameters"),
        (nn.LazyLinear(2), torch.randn(1, 3), "weight is lazy"),
        ("lenet-5", torch.randn(1, 3), "costs takes a network .*, not a str"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(network, example, message):
    with pytest.raises(ValueError, match=message) as caught:
        costs(network, example)
    assert "\n" not in str(caught.value)


def test_a_compact_network_is_checked_too():
    with pytest.raises(ValueError, match="holds no parameters"):
        costs(nn.Linear(3, 2), torch.randn(1, 3), nn.ReLU())
    with pytest.raises(ValueError, match="does not take"):
        costs(nn.Linear(3, 2), torch.randn(1, 3), nn.Linear(4, 2))
