"""Budgets by layer: uniform and ERK against the formula, MACs against the counter, files and what is refused."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.models.costs.layer_budgets import LayerBudget, LayerDensity, counts_by_layer
from bayesprune.models.costs.macs import count_macs
from tests.oracles.erk_reference import erk_densities

LENET = {"fc1.weight": (300, 784), "fc2.weight": (100, 300), "fc3.weight": (10, 100)}
SIZES = {name: math.prod(shape) for name, shape in LENET.items()}
CONVOLUTIONS = {"conv1": (64, 3, 7, 7), "depthwise": (64, 1, 3, 3), "conv2": (128, 64, 3, 3), "one": (32, 128, 1, 1),
                "fc": (10, 512)}  # fmt: skip


def random_shapes(rng):
    return {
        str(n): tuple(rng.choice([1, 2, 3, 5, 8, 16, 40]) for _ in range(rng.choice([2, 4])))
        for n in range(rng.randint(2, 8))
    }


# -- makers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.01, 0.1, 0.3, 0.6, 0.95, 1.0])
@pytest.mark.parametrize("shapes", [LENET, CONVOLUTIONS])
def test_erk_is_the_formula_of_the_paper(shapes, density):
    whole = sum(math.prod(shape) for shape in shapes.values())
    budget = LayerBudget.erk(shapes, density)
    assert budget.left == round(density * whole)  # the total to a weight
    for name, exact in erk_densities(shapes, budget.left).items():
        assert budget[name] <= 1.0
        assert abs(budget[name] - exact) * math.prod(shapes[name]) <= 1.0 + 1e-9


def test_erk_of_random_shapes():
    rng, dense = random.Random(0), 0
    for _ in range(200):
        shapes = random_shapes(rng)
        whole = sum(math.prod(shape) for shape in shapes.values())
        asked = rng.randint(len(shapes), whole)
        budget = LayerBudget.erk(shapes, asked if asked > 1 else 1.0)
        exact = erk_densities(shapes, asked)
        assert budget.left == asked and all(1 <= one.left <= one.weights for one in budget.layers)
        # A tensor that would have less than one weight has one, which others have to give.
        given = sum(max(0.0, 1.0 - share * math.prod(shapes[name])) for name, share in exact.items())
        assert all(
            abs(budget[name] - share) * math.prod(shapes[name]) <= 1.0 + given + 1e-6 for name, share in exact.items()
        )
        dense += any(share == 1.0 for share in exact.values())
    assert dense > 50  # control: layers that are full were among them


def test_erk_counts_the_kernel():
    plain = erk_densities({name: shape[:2] for name, shape in CONVOLUTIONS.items()}, 2000)
    budget = LayerBudget.erk(CONVOLUTIONS, 10_000)
    assert max(abs(budget[name] - plain[name]) for name in plain) > 0.05  # control: it is no Erdos-Renyi of channels


def test_uniform_is_the_same_everywhere_to_a_weight():
    budget = LayerBudget.uniform(LENET, 0.0234)
    assert budget.left == round(0.0234 * sum(SIZES.values())) and budget.density == pytest.approx(0.0234, rel=1e-4)
    assert all(abs(one.left - 0.0234 * one.weights) <= 1.0 for one in budget.layers)


def test_of_networks_models_masks_and_shapes_are_the_same_tensors():
    network = bp.lenet_300_100()
    model = bp.BayesianNetwork(network, {"*.weight": bp.HALO()}, data_size=10)
    some = bp.BayesianNetwork(network, {"fc[12].weight": bp.HALO()}, data_size=10)
    assert LayerBudget.erk(network, 0.05) == LayerBudget.erk(model, 0.05) == LayerBudget.erk(LENET, 0.05)
    assert [one.tensor for one in LayerBudget.erk(some, 0.05).layers] == ["fc1.weight", "fc2.weight"]
    normalised = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm((4, 6, 6)), nn.Linear(6, 2))
    assert [one.tensor for one in LayerBudget.uniform(normalised, 0.5).layers] == ["0.weight", "3.weight"]


def test_what_a_network_or_masks_have_left():
    network = bp.lenet_300_100()
    with torch.no_grad():
        network.get_parameter("fc2.weight")[10:] = 0.0
        network.get_parameter("fc3.weight").zero_()
    budget = LayerBudget.of(network)
    assert [one.left for one in budget.layers] == [SIZES["fc1.weight"], 3000, 0]
    masks = {name: network.get_parameter(name) != 0 for name in LENET}
    assert LayerBudget.of(masks) == budget


# -- MACs ----------------------------------------------------------------------------------------------------


def test_macs_are_those_of_a_network_with_so_many_zeros():
    network, x = bp.lenet_5(), torch.zeros(2, 1, 28, 28)
    budget = LayerBudget.erk(network, 0.1).with_macs(network, x)
    with torch.no_grad():
        for one in budget.layers:
            flat = network.get_parameter(one.tensor).view(-1)
            flat.fill_(1.0)
            flat[one.left :] = 0.0
    counted = count_macs(network, x)
    assert budget.dense_macs == sum(macs.dense for macs in counted.values())
    assert budget.macs == sum(macs.sparse for macs in counted.values())
    assert budget.macs > 1.5 * 0.1 * budget.dense_macs  # control: convolutions use their weights more often
    assert LayerBudget.erk(network, 0.1).macs is None


def test_macs_of_a_layer_with_several_tensors_and_of_a_shared_one():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.first, self.second = nn.GRUCell(5, 7), nn.Linear(7, 7), nn.Linear(7, 7)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(self.cell(x)))

    network = Two()
    budget = LayerBudget.uniform(network, 1.0).with_macs(network, torch.zeros(3, 5))
    assert {one.tensor: one.macs for one in budget.layers} == {
        "cell.weight_ih": 5 * 21, "cell.weight_hh": 7 * 21, "first.weight": 2 * 49,
    }  # fmt: skip


def test_the_published_convention_is_a_sum():
    budget = LayerBudget((LayerDensity("a", 0.5, 10, 1000), LayerDensity("b", 0.1, 20, 40)))
    assert (budget.macs, budget.dense_macs, budget.left, budget.weights) == (504, 1040, 7, 30)
    assert "504" in str(budget) and "0.2333" in str(budget)


# -- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".json", ".csv", ".JSON"])
def test_it_comes_back_from_a_file(tmp_path, ending):
    network = bp.lenet_5()
    for budget in (
        LayerBudget.erk(network, 0.05),
        LayerBudget.erk(network, 0.031).with_macs(network, torch.zeros(1, 1, 28, 28)),
        LayerBudget.from_densities({"fc*.weight": 0.1}),
    ):
        budget.write(tmp_path / f"b{ending}")
        assert LayerBudget.read(tmp_path / f"b{ending}") == budget


def test_a_table_by_hand(tmp_path):
    (tmp_path / "b.csv").write_text("density, tensor\n0.02, fc1.weight\n\n1.0, fc[23].weight\n")
    budget = LayerBudget.read(tmp_path / "b.csv")
    assert counts_by_layer(budget, SIZES) == {"fc1.weight": 4704, "fc2.weight": 30_000, "fc3.weight": 1000}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("b.csv", "tensor,weights\nfc1.weight,3\n", "it has no column density"),
        ("b.csv", "", "it has no column tensor and no column density"),
        ("b.csv", "tensor,density\nfc1.weight\n", "a row has 1 cells, where the header has 2"),
        ("b.csv", "tensor,density\nfc1.weight,much\n", "'much' in the column density is no number"),
        ("b.csv", "tensor,density\nfc1.weight,nan\n", "the density of fc1.weight is a share in \\[0, 1\\], not nan"),
        ("b.csv", "tensor,density\nfc1.weight,2\n", "is a share in \\[0, 1\\], not 2.0"),
        ("b.csv", "tensor,density,weights\nfc1.weight,0.5,2.5\n", "in the column weights is no whole number"),
        ("b.csv", "tensor,density,weights\nfc1.weight,0.5,-2\n", "weights of fc1.weight is a whole number from 1 on"),
        ("b.csv", "tensor,density\na,0.5\na,0.5\n", "names each tensor once, and not a twice"),
        ("b.csv", "tensor,density\n", "this one is empty"),
        ("b.json", "{", "is damaged"),
        ("b.json", "[]", "an object is expected"),
        ("b.json", json.dumps({"layers": [3]}), "layers holds what is no object"),
        ("b.json", json.dumps({"layers": [{"tensor": "a"}]}), "it lacks density"),
        ("b.json", '{"layers": [{"tensor": "a", "density": 0.5, "weights": "x"}]}', "a whole number from 1 on"),
        ("b.txt", "", "is a file .json or .csv"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_refused_in_a_sentence(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=says) as told:
        LayerBudget.read(tmp_path / name)
    assert "\n" not in str(told.value) and len(str(told.value)) < 400


@pytest.mark.parametrize("name", ["notes.csv", "notes.json"])
def test_only_a_budget_is_written_over(tmp_path, name):
    budget, other = LayerBudget.erk(LENET, 0.1), LayerBudget.erk(LENET, 0.2)
    (tmp_path / name).write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="exists already and is not a budget by layer"):
        budget.write(tmp_path / name)
    assert (tmp_path / name).read_text() == "a,b\n1,2\n"
    with pytest.raises(ValueError, match="there is no folder"):
        budget.write(tmp_path / "nowhere" / name)
    (tmp_path / name).unlink()
    budget.write(tmp_path / name)
    other.write(tmp_path / name)
    assert LayerBudget.read(tmp_path / name) == other and [file.name for file in tmp_path.iterdir()] == [name]


def test_a_file_that_is_missing_is_said_to_be(tmp_path):
    with pytest.raises(ValueError, match="b.csv is missing"):
        LayerBudget.read(tmp_path / "b.csv")


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"fc1.weight": 0.0}, "a share in \\(0, 1\\] or a whole number of weights from 2 on, not 0.0"),
        ({"fc1.weight": 1.5}, "from 2 on, not 1.5"),
        ({"fc1.weight": -3}, "from 2 on, not -3"),
        ({"fc1.weight": True}, "not True"),
        ({"fc1.weight": "many"}, "not 'many'"),
        ({"fc9.weight": 0.1}, "'fc9.weight', which matches no tensor that it may be of: these are fc1.weight"),
        ({"fc1.weight": 0.1, "*": 0.1}, "both match fc1.weight: narrow one of them"),
        ({"fc3.weight": 1e-4}, "leaves none of the 1,000 weights of fc3.weight: give it 0.001 at least"),
        ({"fc3.weight": 1001}, "leaves 1,001 weights of fc3.weight, which has 1,000: ask for less"),
        ({}, "this one is empty"),
        (LayerBudget((LayerDensity("fc1.weight", 0.0),)), "leaves nothing of fc1.weight"),
        (LayerBudget((LayerDensity("fc1.weight", 0.5, 10),)), "of another network: fc1.weight has 235,200 weights"),
    ],
)  # fmt: skip
def test_a_budget_that_does_not_fit_is_refused(given, says):
    with pytest.raises(ValueError, match=says):
        counts_by_layer(given, SIZES)


def test_numbers_shares_and_patterns_go_together():
    assert counts_by_layer({"fc1.weight": 0.01, "fc[23]*": 7}, SIZES) == {
        "fc1.weight": 2352, "fc2.weight": 7, "fc3.weight": 7,
    }  # fmt: skip
    assert counts_by_layer({"fc3.weight": 1}, SIZES) == {"fc3.weight": 1000}  # 1 is all of them


@pytest.mark.parametrize("maker", [LayerBudget.uniform, LayerBudget.erk])
@pytest.mark.parametrize(
    ("of", "density", "says"),
    [
        (LENET, 0.0, "the density of a budget is a share"),
        (LENET, 1.5, "the density of a budget is a share"),
        (LENET, 2, "does not go into 3 tensors"),
        (LENET, 10**7, "does not go into 3 tensors"),
        (nn.ReLU(), 0.5, "no weight tensors"),
        ({"a": "b"}, 0.5, "the shape of a is one or more whole numbers"),
        ({"a": (0, 3)}, 0.5, "the shape of a is one or more whole numbers"),
        (3, 0.5, "is of a model, a network or shapes by name, not 3"),
    ],
)
def test_a_density_that_cannot_be_is_refused(maker, of, density, says):
    with pytest.raises(ValueError, match=says):
        maker(of, density)


def test_tensors_that_are_not_there_have_no_macs():
    with pytest.raises(ValueError, match="the network has no tensor 'x'"):
        LayerBudget.from_densities({"x": 0.5}).with_macs(bp.lenet_300_100(), torch.zeros(1, 784))
    with pytest.raises(ValueError, match="LayerBudget.of takes a fit"):
        LayerBudget.of(3)
    with pytest.raises(KeyError, match="names no"):
        LayerBudget.erk(LENET, 0.1)["x"]
