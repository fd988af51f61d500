"""Expected costs are the mean over all gates of the costs of the network that is left, by formulas written by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from bayesprune.models.costs.costs import costs
from bayesprune.models.costs.expected_costs import ExpectedCosts
from bayesprune.models.gates.cost_pressure import CostPressure
from bayesprune.models.networks.resnet import resnet_20
from bayesprune.models.units.channel_groups import ChannelGroups
from bayesprune.models.units.cutting import cut
from tests.oracles.units_reference import Net

NEAR = {"rtol": 1e-13, "atol": 0.0}


@dataclass(frozen=True)
class Case:
    """A small network, and its costs by hand.

    Attributes:
        build: Makes the network.
        shape: Shape of one input.
        units: How many units, by name of set.
        count: MACs and parameters, of the numbers of open units by set and of which branches are there.
        branches: Modules by branch.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    units: dict[str, int]
    count: Callable[..., tuple[int, int]]
    branches: dict[str, tuple[str, ...]]


def perceptron():
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def count_perceptron(a, b):
    macs = 5 * a + a * b + 2 * b
    return macs, macs + a + b + 2


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 4, 3),
    )  # fmt: skip


def count_convolutional(a, b):
    macs = 36 * (9 * 2 * a) + 4 * (4 * a * b) + 3 * (4 * b)  # 6 x 6 positions, then 2 x 2
    return macs, 9 * 2 * a + 2 * a + 4 * a * b + b + 3 * (4 * b) + 3


def residual():
    def run(net, x):
        h = torch.relu(net.stem_bn(net.stem(x)))
        h = torch.relu(net.one_bn(net.one(h)) + h)  # rows and columns of one set
        h = torch.relu(net.b(torch.relu(net.a(h))) + h)
        return net.fc(h.mean(dim=(2, 3)))

    return Net(
        run,
        stem=nn.Conv2d(1, 3, 3, padding=1, bias=False),
        stem_bn=nn.BatchNorm2d(3),
        one=nn.Conv2d(3, 3, 3, padding=1, bias=False),
        one_bn=nn.BatchNorm2d(3),
        a=nn.Conv2d(3, 2, 1),
        b=nn.Conv2d(2, 3, 1),
        fc=nn.Linear(3, 2),
    )


def count_residual(stream, inner, one=1, two=1):
    weights = 9 * stream + one * 9 * stream**2 + two * 2 * stream * inner
    macs = 16 * weights + 2 * stream
    return macs, weights + 2 * stream + one * 2 * stream + two * (inner + stream) + 2 * stream + 2


def depthwise():
    return nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 3, groups=3, padding=1), nn.ReLU(),
        nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 16, 2),
    )  # fmt: skip


def count_depthwise(a, b):
    macs = 16 * (2 * a + 9 * a + a * b) + 2 * 16 * b
    return macs, 2 * a + a + 9 * a + a + a * b + b + 2 * 16 * b + 2


def recurrent():
    return Net(lambda net, x: net.fc(net.gru(x)[0][:, -1]), gru=nn.GRU(2, 4, batch_first=True), fc=nn.Linear(4, 2))


def count_recurrent(a):
    macs = 5 * 3 * (2 * a + a * a) + 2 * a  # five steps, three gates
    return macs, 3 * (2 * a + a * a) + 2 * 3 * a + 2 * a + 2


def nested():
    """A branch inside a branch, and two sources side by side."""

    def run(net, x):
        h = net.first(x)
        inner = net.outer.up(h)
        inner = net.outer.deep(inner) + inner
        h = net.outer.down(inner) + h
        return net.fc(torch.cat([torch.relu(h), net.side(x)], dim=1))

    outer = nn.ModuleDict({"up": nn.Linear(2, 3), "deep": nn.Linear(3, 3, bias=False), "down": nn.Linear(3, 2)})
    return Net(run, first=nn.Linear(3, 2), outer=outer, side=nn.Linear(3, 2), fc=nn.Linear(4, 2))


def count_nested(stream, inner, side, outer=1, deep=1):
    weights = 3 * stream + outer * (2 * stream * inner + deep * inner**2) + 3 * side + 2 * (stream + side)
    return weights, weights + stream + outer * (inner + stream) + side + 2


CASES = {
    "perceptron": Case(perceptron, (5,), {"0": 4, "2": 3}, count_perceptron, {}),
    "convolutional": Case(convolutional, (2, 6, 6), {"0": 3, "4": 2}, count_convolutional, {}),
    "residual": Case(
        residual,
        (1, 4, 4),
        {"stem": 3, "a": 2},
        count_residual,
        {"one": ("one", "one_bn"), "two": ("a", "b")},
    ),
    "depthwise": Case(depthwise, (2, 4, 4), {"0": 3, "4": 2}, count_depthwise, {}),
    "recurrent": Case(recurrent, (5, 2), {"gru": 4}, count_recurrent, {}),
    "nested": Case(
        nested,
        (3,),
        {"first": 2, "outer.up": 3, "side": 2},
        count_nested,
        {"outer": ("outer",), "outer.deep": ("outer.deep",)},
    ),
}


def prepared(name: str) -> tuple[Case, nn.Module, torch.Tensor, ChannelGroups, ExpectedCosts]:
    case = CASES[name]
    network, example = case.build().eval(), torch.zeros(2, *case.shape)
    groups = ChannelGroups(network, example)
    return case, network, example, groups, ExpectedCosts(network, example, groups, case.branches)


def random_theta(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(size, generator=generator, dtype=torch.float64).requires_grad_()
        for name, size in sizes.items()
    }


def enumerated(case: Case, theta: dict[str, Any], layers: dict[str, Any]) -> tuple[float, float]:
    """The mean of the costs by hand over all gates, open and closed."""
    probabilities = [*(theta[name] for name in case.units), *(layers[name] for name in case.branches)]
    flat = torch.cat([part.detach().reshape(-1) for part in probabilities]).tolist()
    ends = list(itertools.accumulate(part.numel() for part in probabilities))
    terms: list[tuple[float, float]] = []
    for gates in itertools.product((0, 1), repeat=len(flat)):
        chance = math.prod(p if gate else 1.0 - p for p, gate in zip(flat, gates, strict=True))
        macs, parameters = case.count(*(sum(gates[a:b]) for a, b in itertools.pairwise([0, *ends])))
        terms.append((chance * macs, chance * parameters))
    return math.fsum(one for one, _ in terms), math.fsum(other for _, other in terms)


@pytest.mark.parametrize("name", CASES)
def test_expected_costs_are_the_mean_over_all_gates(name):
    case, network, example, groups, expected = prepared(name)
    assert {key: expected.units[key] for key in case.units} == case.units
    real = costs(network, example)
    assert expected.whole == (real.dense_macs, real.parameters)
    theta, layers = random_theta(case.units), random_theta(dict.fromkeys(case.branches, 1), seed=1)
    found = torch.stack([expected.macs(theta, layers), expected.parameters(theta, layers)])
    torch.testing.assert_close(found.tolist(), list(enumerated(case, theta, layers)), **NEAR)


@pytest.mark.parametrize("name", CASES)
def test_at_open_and_closed_gates_they_are_the_costs_of_the_cut_network(name):
    case, network, example, groups, expected = prepared(name)
    generator = torch.Generator().manual_seed(2)
    for _ in range(8):
        gates = {key: torch.rand(size, generator=generator) < 0.5 for key, size in case.units.items()}
        for own in gates.values():
            own[0] |= not own.any()  # a cut network keeps a unit of each layer
        real = costs(cut(network, example, plan(network, groups, gates)), example)
        theta = {key: own.float() for key, own in gates.items()}
        assert (expected.macs(theta).item(), expected.parameters(theta).item()) == (real.dense_macs, real.parameters)
        assert (real.dense_macs, real.parameters) == case.count(*(int(own.sum()) for own in gates.values()))


def plan(network, groups, gates):
    """What is left of each tensor where these gates are open."""
    tensors: dict[str, Any] = {}
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    for name, own in gates.items():
        for part in groups[name].slices:
            closed = (part.unit >= 0) & ~own[part.unit.clamp_min(0)]
            kept = tensors.setdefault(part.tensor, {"shape": shapes[part.tensor], "kept": {}})["kept"]
            before = kept.get(str(part.dim), range(len(closed)))
            kept[str(part.dim)] = [index for index in before if not closed[index]]
    return {"tensors": tensors, "bias_added": []}


@pytest.mark.parametrize("name", CASES)
def test_the_derivative_is_the_marginal_cost_of_a_gate(name):
    case, *_, expected = prepared(name)
    theta, layers = random_theta(case.units), random_theta(dict.fromkeys(case.branches, 1), seed=1)
    given = {**theta, **{f"branch {key}": value for key, value in layers.items()}}
    for cost in (expected.macs, expected.parameters):
        slopes = torch.autograd.grad(cost(theta, layers), list(given.values()))
        for (key, own), slope in zip(given.items(), slopes, strict=True):
            for gate in range(own.numel()):
                ends = []
                for state in (0.0, 1.0):
                    changed = own.detach().clone()
                    changed[gate] = state
                    both = {**given, key: changed}
                    ends.append(cost({k: both[k] for k in theta}, {k: both[f"branch {k}"] for k in layers}).detach())
                torch.testing.assert_close(slope[gate], ends[1] - ends[0], rtol=1e-11, atol=1e-11)


def test_a_gate_that_owns_rows_and_columns_counts_once():
    for name, tied in (("residual", 9), ("recurrent", 3), ("perceptron", 0)):
        case, *_, expected = prepared(name)
        theta = {key: value.detach() for key, value in random_theta(case.units).items()}
        own = next(iter(theta.values()))
        # Control: as if rows and columns had gates of their own, the costs at the expected widths.
        apart = case.count(*(part.sum() for part in theta.values()))[1]
        missing = tied * (own - own.square()).sum()
        assert (missing > 1.0) == (tied > 0)
        torch.testing.assert_close(expected.parameters(theta) - apart, missing, rtol=1e-12, atol=1e-12)


def test_what_is_not_given_is_open():
    case, *_, expected = prepared("residual")
    theta = random_theta({"a": 2})
    every = {**theta, "stem": torch.ones(3, dtype=torch.float64)}
    branches = {"one": torch.ones(1), "two": torch.ones(())}
    assert expected.macs(theta).equal(expected.macs(every, branches))
    assert not expected.macs(theta).equal(expected.macs(theta, {"one": torch.tensor(0.5)}))
    assert expected.macs({}).item() == expected.whole[0]


def test_costs_are_computed_where_the_probabilities_are():
    *_, expected = prepared("perceptron")
    assert expected.macs({"0": torch.ones(4, device="meta")}).device.type == "meta"
    assert expected.macs({"0": torch.ones(4)}).item() == expected.whole[0]


def test_a_network_with_streams_through_all_stages_costs_what_it_costs():
    network, example = resnet_20().eval(), torch.zeros(2, 3, 32, 32)
    groups = ChannelGroups(network, example)
    branch = tuple(f"layer2.1.{name}" for name in ("conv1", "bn1", "conv2", "bn2"))
    expected = ExpectedCosts(network, example, groups, {"layer2.1": branch})
    real = costs(network, example)
    assert expected.whole == (real.dense_macs, real.parameters) == (40_551_040, 269_722)
    gone = [real.layers[name] for name in branch]
    closed = {"layer2.1": torch.zeros(1)}
    assert expected.macs({}, closed).item() == real.dense_macs - sum(row.dense_macs for row in gone)
    assert expected.parameters({}, closed).item() == real.parameters - sum(row.parameters for row in gone)


# ------------------------------------------------------------------------------------------------------ the pressure


@pytest.mark.parametrize(
    ("share", "layers"), [(1.0, None), (0.0, None), (0.3, None), (0.3, 0.0), (0.3, 1.0), (0.3, 0.6)]
)
def test_the_penalty_mixes_costs_as_it_says(share, layers):
    case, *_, expected = prepared("residual")
    theta, branches = random_theta(case.units), random_theta(dict.fromkeys(case.branches, 1), seed=1)
    whole = (2.0 * expected.whole[0], 3.0 * expected.whole[1])  # as it was before something was removed

    def share_of(theta, branches):
        macs, parameters = enumerated(case, theta, branches)
        return share * macs / whole[0] + (1.0 - share) * parameters / whole[1]

    units_open = {name: torch.ones(size, dtype=torch.float64) for name, size in case.units.items()}
    there = {name: torch.ones(1, dtype=torch.float64) for name in case.branches}
    alone = share_of(theta, there), share_of(units_open, branches)
    wanted = share_of(theta, branches) if layers is None else (1.0 - layers) * alone[0] + layers * alone[1]
    found = CostPressure(0.7, share, layers).penalty(expected, theta, branches, whole)
    torch.testing.assert_close(found.item(), 0.7 * wanted, **NEAR)
    other = CostPressure(0.7, share, 0.5 if layers is None else None).penalty(expected, theta, branches, whole)
    assert abs(other.item() - found.item()) > 1e-3  # control: the third knob matters


def test_the_penalty_has_the_dtype_of_the_probabilities():
    *_, expected = prepared("perceptron")
    theta = {"0": torch.full((4,), 0.5, requires_grad=True)}
    found = CostPressure(0.1).penalty(expected, theta, None, expected.whole)
    assert found.dtype == torch.float32 and expected.macs(theta).dtype == torch.float64
    found.backward()
    assert theta["0"].grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": 0.0}, "strength"),
        ({"strength": math.inf}, "strength"),
        ({"strength": 1.0, "macs": 1.1}, "macs"),
        ({"strength": 1.0, "layers": -0.1}, "layers"),
    ],
)
def test_a_pressure_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CostPressure(**arguments)


def test_wrong_input_is_told():
    case, network, example, groups, expected = prepared("residual")
    with pytest.raises(ValueError, match="no set of units 'conv', only stem, a, fc"):
        expected.macs({"conv": torch.ones(3)})
    with pytest.raises(ValueError, match="has 3 gates, but got 2"):
        expected.macs({"stem": torch.ones(2)})
    with pytest.raises(ValueError, match="no branch 'three', only one, two"):
        expected.parameters({}, {"three": torch.ones(1)})
    with pytest.raises(ValueError, match="module 'conv'"):
        ExpectedCosts(network, example, groups, {"one": ("conv",)})
    with pytest.raises(ValueError, match="must be positive"):
        CostPressure(1.0).penalty(expected, {}, None, (0.0, 1.0))
    with pytest.raises(ValueError, match="costs nothing"):
        ExpectedCosts(nn.Flatten(), example, ChannelGroups(nn.Flatten(), example))
