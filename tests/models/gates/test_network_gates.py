"""Gates on weights, by hooks and by hand are the same; which weights they open has the probability said."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call

import bayesprune as bp
from bayesprune.models.networks.resnet import resnet_20
from bayesprune.models.unit_removal import without_units
from tests.oracles.gated_networks import CASES, PERCEPTRON
from tests.oracles.units_reference import Net

EXACT = {"rtol": 0.0, "atol": 1e-13}
EVERY = pytest.mark.parametrize("name", CASES)


def weights_of(model):
    return {name: model.network.get_parameter(name).detach() for name in model.gates.tensors}


def other_units(values):
    """Gates of the unit before, of sets that have several."""
    return {site: gates.roll(1, -1) for site, gates in values.items()}


@EVERY
@pytest.mark.parametrize("training", [True, False])
def test_gates_on_weights_by_hooks_and_by_hand_are_the_same(name, training):
    case = CASES[name]
    model, x, values = case.model(), case.inputs(), case.values()
    model.train(training)
    network, gates = model.network, model.gates
    assert {site: one.count for site, one in gates.sets.items()} == case.gates
    assert gates.per_example is case.per_example
    with torch.no_grad():
        wanted = case.by_hand(network, x, values)
        by_weights = functional_call(network, gates.weights(weights_of(model), values, network), (x,))
        assert float(wanted.std()) > 1e-3
        torch.testing.assert_close(by_weights, wanted, **EXACT)
        if case.per_example:
            with gates.inside(network, values):
                torch.testing.assert_close(network(x), wanted, **EXACT)
        wrong = functional_call(network, gates.weights(weights_of(model), other_units(values), network), (x,))
        assert float((wrong - wanted).abs().max()) > 1e-4  # control: gates of other units
        assert float((network(x) - wanted).abs().max()) > 1e-4  # and none: the hooks are gone


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.per_example])
def test_gates_of_each_example_are_those_of_a_loop_over_examples(name):
    case = CASES[name]
    model, x, values = case.model(), case.inputs(), case.values(batch=4)
    network = model.network.eval()
    with torch.no_grad():
        with model.gates.inside(network, values):
            found = network(x)
        torch.testing.assert_close(found, case.by_hand(network, x, values), **EXACT)
        for number, one in enumerate(x):
            own = {site: gates[number] for site, gates in values.items()}
            alone = functional_call(network, model.gates.weights(weights_of(model), own, network), (one[None],))
            torch.testing.assert_close(found[number], alone[0], **EXACT)
            others = {site: gates[number - 1] for site, gates in values.items()}
            wrong = functional_call(network, model.gates.weights(weights_of(model), others, network), (one[None],))
            assert float((wrong[0] - alone[0]).abs().max()) > 1e-5  # control: gates of another example


@EVERY
@pytest.mark.parametrize("training", [True, False])
def test_closing_changes_no_output_and_leaves_nothing_of_closed_units(name, training):
    case = CASES[name]
    model, x, values = case.model(), case.inputs(), case.values()
    if case.layers:
        values["a_two.layer_gate"] = torch.zeros(1, dtype=torch.float64)
        values["b_two.layer_gate"] = torch.tensor([0.7], dtype=torch.float64)
    network, gates = model.network.train(training), model.gates
    multiplied, closed = (function(weights_of(model), values, network) for function in (gates.weights, gates.closed))
    assert set(multiplied) == set(closed)
    with torch.no_grad():
        wanted, found = (functional_call(network, weights, (x,)) for weights in (multiplied, closed))
        torch.testing.assert_close(found, wanted, rtol=0.0, atol=1e-12)
    site, units = next((site, gates) for site, gates in values.items() if (gates == 0).any())
    numbers = gates.sets[site].numbers[units == 0]
    for part in gates.groups[gates.sets[site].owner].slices:
        if part.tensor in gates.tensors and part.role != "pass":
            index = torch.isin(part.unit, numbers).nonzero().squeeze(1)
            own = closed[part.tensor].index_select(part.dim, index)
            assert bool((own == 0).all())
            if part.role == "output" and part.tensor not in ("a_out.weight", "b_out.weight"):
                before = multiplied[part.tensor].index_select(part.dim, index)
                assert bool((before != 0).any()), part.tensor  # control: `weights` leaves the makers
    if case.layers:
        assert bool((closed["a_in.weight"] == 0).all()) and not bool((closed["b_in.weight"] == 0).all())


@EVERY
def test_the_probability_of_a_weight_to_be_open_is_that_of_all_gates_enumerated(name):
    case = CASES[name]
    model = case.model()
    gates, network = model.gates, model.network
    random = torch.Generator().manual_seed(3)
    # Of large sets two gates are random, and the others are closed or open for sure.
    theta = {site: torch.randint(2, (count,), generator=random).double() for site, count in case.gates.items()}
    places = [(site, unit) for site, count in case.gates.items() for unit in range(min(count, 2))]
    for site, unit in places:
        theta[site][unit] = torch.rand((), generator=random, dtype=torch.float64)
    ones = {n: torch.ones_like(p) for n, p in network.named_parameters() if p.ndim >= 2}
    expected = {n: torch.zeros_like(w) for n, w in ones.items()}
    for bits in itertools.product((0.0, 1.0), repeat=len(places)):
        drawn, chance = {site: gates.clone() for site, gates in theta.items()}, 1.0
        for (site, unit), bit in zip(places, bits, strict=True):
            drawn[site][unit] = bit
            chance *= float(theta[site][unit]) if bit else 1.0 - float(theta[site][unit])
        for tensor, weight in gates.closed(ones, drawn, network).items():
            if tensor in expected:
                expected[tensor] += chance * (weight != 0).double()
    found = gates.open(theta, network)
    assert set(gates.tensors) <= set(found)
    for tensor, probability in found.items():
        torch.testing.assert_close(probability, expected[tensor].detach(), rtol=0.0, atol=1e-12)
    if name == "recurrent":  # control: as if rows and columns of one unit had two gates
        at = theta["cell.gate"]
        twice = at.repeat(3)[:, None] * at
        assert float((found["cell.weight_hh"] - twice).abs().max()) > 0.05


def test_units_that_may_not_be_removed_have_no_gate():
    def run(net, x):
        h = torch.relu(net.one(x))
        return net.two(torch.cat([h, net.norm(net.other(x))], dim=1))

    network = Net(run, one=nn.Linear(3, 4), other=nn.Linear(3, 5), norm=nn.LayerNorm(5), two=nn.Linear(9, 2))
    model = bp.BayesianNetwork(
        network.double(), {}, data_size=9, gates=bp.UnitGates(kappa=0.1), example_input=torch.zeros(2, 3)
    )
    assert list(model.gates.sets) == ["one.gate"] and model.gates.tensors == ("one.weight", "two.weight")
    x, closed = torch.randn(4, 3, dtype=torch.float64), torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    found = functional_call(network, model.gates.closed(weights_of(model), {"one.gate": closed}, network), (x,))
    h = torch.cat([torch.relu(network.one(x)) * closed, network.norm(network.other(x))], dim=1)
    torch.testing.assert_close(found, network.two(h), **EXACT)
    assert not torch.allclose(network(x), found, rtol=0.0, atol=1e-3)  # control
    units, layers = model.gates.by_owner({"one.gate": closed})
    assert layers == {} and units["one"].equal(closed)


def test_the_price_is_the_slope_of_the_cost_and_removed_gates_cost_what_closed_ones_do():
    theta = PERCEPTRON.values()
    for options in ({}, {"log_gamma": None, "kappa": 0.3}, {"log_gamma": None, "cost": {"strength": 0.5}}):
        gates = PERCEPTRON.model(**options).gates
        prices = gates.prices(theta)
        for site, price in prices.items():
            for unit in range(len(price)):
                ends = []
                for end in (0.0, 1.0):
                    moved = {**theta, site: theta[site].clone()}
                    moved[site][unit] = end
                    ends.append(float(gates.cost(moved)))
                assert float(price[unit]) == pytest.approx(ends[1] - ends[0], rel=1e-9)  # a straight line
        if gates.is_pressed_by_cost:
            gates.press(theta)
            assert all(torch.equal(gates.pressure(site).log_gamma, price) for site, price in prices.items())
        else:
            assert all(bool((price == (2.0 if not options else 15.0)).all()) for price in prices.values())
    before = PERCEPTRON.model()
    closed = {"0.gate": torch.tensor([False, True, True, False]), "2.gate": torch.zeros(3, dtype=torch.bool)}
    left = {"0.gate": theta["0.gate"][[0, 3]], "2.gate": theta["2.gate"]}
    whole = {"0.gate": torch.where(closed["0.gate"], 0.0, theta["0.gate"]), "2.gate": theta["2.gate"]}
    after = without_units(before, closed).model.gates
    assert float(after.cost(left)) == pytest.approx(float(before.gates.cost(whole)), rel=1e-13)
    assert float(before.gates.cost(theta)) != pytest.approx(float(after.cost(left)), rel=1e-3)  # control


def test_a_network_that_cannot_have_gates_is_refused():
    example = torch.zeros(1, 3)

    def declare(network, **options):
        arguments = {"gates": bp.UnitGates(kappa=1e-3), "data_size": 9, "example_input": example, **options}
        return bp.BayesianNetwork(network, {}, **arguments)

    with pytest.raises(ValueError, match="pass example_input="):
        declare(PERCEPTRON.make(), example_input=None)
    with pytest.raises(ValueError, match="no unit of the network may be removed.*it is an output of the network"):
        declare(nn.Sequential(nn.Linear(3, 2)))
    with pytest.raises(ValueError, match="layers=True puts gates on residual branches, but the network has none"):
        declare(PERCEPTRON.make(), gates=bp.UnitGates(kappa=1e-3, layers=True))
    with pytest.raises(ValueError, match="gates= takes UnitGates"):
        declare(PERCEPTRON.make(), gates="units")

    def depends_on_data(net, x):
        return net.one(x) if x.sum() > 0 else net.one(-x)

    with pytest.raises(ValueError, match="traced"):
        declare(Net(depends_on_data, one=nn.Linear(3, 2)))
    assert declare(PERCEPTRON.make()).gates.sets  # control: the same call with nothing wrong


def test_branches_of_a_residual_network_have_gates_of_their_own():
    model = bp.BayesianNetwork(
        resnet_20(width=0.25), {}, data_size=9, gates=bp.UnitGates(kappa=1e-3, layers=True),
        example_input=torch.zeros(1, 3, 32, 32),
    )  # fmt: skip
    layers = [one.owner for one in model.gates.sets.values() if one.is_layer]
    assert layers == [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3)]
