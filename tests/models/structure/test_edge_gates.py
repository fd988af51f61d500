"""Edge gates: their probabilities, how they are shared over gates, which weights they are, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.priors.ready import from_config
from bayesprune.models.structure.edge_gates import EdgeGates, edge_gates
from bayesprune.models.structure.edge_places import EdgePlace, edge_places
from bayesprune.models.structure.edge_probabilities import ring_layer
from bayesprune.models.structure.graph_network import graph_network
from bayesprune.models.structure.graph_recurrent import GraphRecurrent
from bayesprune.models.structure.layered_graph import layered
from bayesprune.models.structure.masked_linear import MaskedLinear
from bayesprune.models.structure.random_graphs import BarabasiAlbert, ErdosRenyi, WattsStrogatz

THREE_BY_TWO = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]


def bound(prior, shape):
    return TensorPrior("w", prior, shape, 10)


def prior_of_gates(prior, shape):
    """Log odds of every gate under the prior, taken from its log density."""
    one = bound(prior, shape)
    slab = torch.zeros(shape, dtype=torch.float64)
    gates = torch.zeros(one.sites["z"].shape, dtype=torch.float64)
    _, closed = one.evaluate({"z": gates, "slab": slab}, slab)
    found = torch.zeros_like(gates)
    for place in np.ndindex(*gates.shape):
        opened = gates.clone()
        opened[place] = 1.0
        found[place] = one.evaluate({"z": opened, "slab": slab}, slab)[1]["z"] - closed["z"]
    return found


# -- probabilities of a small world ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outputs", "inputs", "neighbours"), [(20, 20, 4), (7, 12, 3), (12, 5, 2), (1, 9, 8)])
def test_each_output_has_its_nearest_inputs_on_the_ring_and_as_many_edges_as_neighbours_in_the_mean(
    outputs, inputs, neighbours
):
    found = ring_layer(outputs, inputs, neighbours, 0.1)
    torch.testing.assert_close(found.sum(1), torch.full((outputs,), float(neighbours), dtype=torch.float64))
    for row in range(outputs):
        apart = [min(abs(row / outputs - k / inputs), 1 - abs(row / outputs - k / inputs)) for k in range(inputs)]
        near = sorted(range(inputs), key=lambda k: (round(apart[k], 9), k))[:neighbours]
        assert sorted((found[row] == 0.9).nonzero().flatten().tolist()) == sorted(near)
    assert len(found.unique()) == 2


def test_it_is_the_share_of_edges_of_rings_that_were_rewired():
    """A draw moves each edge of a nearest input to one that is not among them, each other edge staying where it is."""
    random, inputs, neighbours, rewiring = np.random.default_rng(0), 9, 3, 0.3
    near = np.flatnonzero(ring_layer(1, inputs, neighbours, rewiring)[0] > 0.5)
    far = np.setdiff1d(np.arange(inputs), near)
    counts, draws = np.zeros(inputs), 20_000
    for _ in range(draws):
        moved = random.random(neighbours) < rewiring
        counts[near[~moved]] += 1
        counts[random.choice(far, moved.sum(), replace=False)] += 1
    expected = ring_layer(1, inputs, neighbours, rewiring)[0].numpy()
    assert np.abs(counts / draws - expected).max() < 5 * math.sqrt(0.25 / draws)
    assert np.abs(counts / draws - ring_layer(1, inputs, neighbours, 0.4)[0].numpy()).max() > 0.05  # control


@pytest.mark.parametrize(
    ("neighbours", "rewiring", "said"), [(9, 0.1, "fewer than"), (0, 0.1, "at least 1"), (8, 0.5, "too few")]
)
def test_a_ring_without_room_is_refused(neighbours, rewiring, said):
    with pytest.raises(ValueError, match=said):
        ring_layer(4, 9, neighbours, rewiring)


# -- the prior ---------------------------------------------------------------------------------------------------------


def test_the_prior_odds_of_each_gate_are_those_of_its_edge():
    given = torch.tensor(THREE_BY_TWO, dtype=torch.float64)
    torch.testing.assert_close(prior_of_gates(EdgeGates(probabilities=THREE_BY_TWO), (3, 2)), torch.logit(given))
    ring = EdgeGates("watts-strogatz", neighbours=2, rewiring=0.3)
    torch.testing.assert_close(prior_of_gates(ring, (6, 5)), torch.logit(ring_layer(6, 5, 2, 0.3)))
    assert not torch.allclose(prior_of_gates(ring, (6, 5)), torch.logit(ring_layer(5, 6, 2, 0.3).T))  # control
    alike = prior_of_gates(EdgeGates(density=0.3), (3, 2))
    torch.testing.assert_close(alike, torch.full_like(alike, math.log(0.3 / 0.7)))


@pytest.mark.parametrize("gates", [1, 3, 4])
def test_an_edge_is_open_or_closed_for_all_gates_of_its_unit(gates):
    one = bound(EdgeGates(density=0.5, gates=gates), (gates * 5, 6))
    torch.manual_seed(0)
    drawn = one.simulate()
    assert drawn["z"].shape == (5, 6) and 0 < drawn["z"].mean() < 1
    blocks = (drawn["weight"] != 0).view(gates, 5, 6)
    for gate in range(gates):
        assert torch.equal(blocks[gate], drawn["z"].bool())
    if gates > 1:  # control: rows of one unit do not stand one after the other
        assert not torch.equal(drawn["weight"] != 0, drawn["z"].bool().repeat_interleave(gates, 0))


def test_a_density_that_is_not_known_has_a_beta_prior_that_the_evidence_states():
    one = bound(EdgeGates(density=0.3, evidence=20.0), (30, 40))
    torch.manual_seed(0)
    drawn = [one.simulate() for _ in range(400)]
    p = torch.stack([draw["p"] for draw in drawn])
    assert float(p.mean()) == pytest.approx(0.3, abs=5 * math.sqrt(0.01 / 400))
    assert float(p.var()) == pytest.approx(0.3 * 0.7 / 21, rel=0.25)
    shares = torch.stack([draw["z"].mean() for draw in drawn])
    assert float((shares - p).abs().max()) < 5 * math.sqrt(0.25 / 1200)  # edges of one layer share it


def test_one_density_is_that_of_all_layers_where_it_is_shared():
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    sites = {
        shared: sorted(bp.BayesianNetwork(
            network, {"*.weight": EdgeGates(evidence=5.0, shared=shared)}, data_size=9
        ).sites)
        for shared in ("layer", "network")
    }  # fmt: skip
    assert [site for site in sites["layer"] if site.endswith(".p")] == ["0.weight.p", "1.weight.p"]
    assert [site for site in sites["network"] if site.endswith(".p")] == ["*.weight.p"]


def test_the_slab_has_the_scale_of_he_for_the_edges_that_are_expected():
    for prior, edges in [
        (EdgeGates(density=0.2), 0.2 * 40),
        (EdgeGates("watts-strogatz", neighbours=4), 4),
        (EdgeGates(probabilities=[[0.25] * 40] * 30), 10),
    ]:
        torch.manual_seed(0)
        slab = bound(prior, (30, 40)).simulate()["slab"]
        assert float(slab.std()) == pytest.approx(math.sqrt(2.0 / edges), rel=0.1)


def test_probabilities_are_stored_with_a_fit_and_shown_by_their_number():
    one = EdgeGates(probabilities=torch.tensor(THREE_BY_TWO), gates=2)
    again = from_config(one.config)
    assert again.fingerprint() == one.fingerprint()
    other = EdgeGates(probabilities=[row[::-1] for row in THREE_BY_TWO], gates=2)
    assert other.fingerprint() != one.fingerprint()
    assert repr(one) == "EdgeGates(probabilities of 3 x 2 edges, gates=2)"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"graph": "barabasi-albert"}, "graph"),
        ({"density": 1.0}, "density"),
        ({"graph": "watts-strogatz"}, "neighbours"),
        ({"neighbours": 3}, "neighbours"),
        ({"graph": "watts-strogatz", "neighbours": 0}, "neighbours"),
        ({"graph": "watts-strogatz", "neighbours": 3, "density": 0.2}, "density"),
        ({"graph": "watts-strogatz", "neighbours": 3, "evidence": 2.0}, "evidence"),
        ({"graph": "watts-strogatz", "neighbours": 3, "probabilities": THREE_BY_TWO}, "in place of"),
        ({"rewiring": 0.0}, "rewiring"),
        ({"gates": 0}, "gates"),
        ({"evidence": 0.0}, "evidence"),
        ({"shared": "output"}, "shared"),
        ({"slab_sd": -1.0}, "slab_sd"),
        ({"initial_inclusion": 1.0}, "initial_inclusion"),
        ({"probabilities": [[0.1, 0.0]]}, "mask"),
        ({"probabilities": [[0.1], [0.1, 0.2]]}, "rows of numbers"),
        ({"probabilities": [0.1]}, "rows of numbers"),
        ({"probabilities": []}, "rows of numbers"),
        ({"probabilities": [["a"]]}, "rows of numbers"),
        ({"probabilities": [[0.1]], "density": 0.2}, "density"),
    ],
)
def test_settings_out_of_range_are_refused_in_a_sentence(settings, said):
    with pytest.raises(ValueError, match=said):
        EdgeGates(**settings)


@pytest.mark.parametrize(
    ("prior", "network", "said"),
    [
        (EdgeGates(probabilities=THREE_BY_TWO), nn.Linear(3, 2), "3 x 2 edges, but weight has 2 x 3"),
        (EdgeGates("watts-strogatz", neighbours=4), nn.Linear(4, 9), "fewer neighbours"),
        (EdgeGates("watts-strogatz", neighbours=8, rewiring=0.5), nn.Linear(9, 9), "too few others"),
        (EdgeGates(gates=3), nn.Linear(4, 8), "not those of 3 gates"),
        (EdgeGates("watts-strogatz", neighbours=1), nn.Conv2d(3, 2, 3), "matrix"),
    ],
)
def test_a_tensor_of_other_edges_is_refused(prior, network, said):
    with pytest.raises(ValueError, match=said):
        bp.BayesianNetwork(network, {"weight": prior}, data_size=9)


# -- which edges weights are -------------------------------------------------------------------------------------------


def test_inputs_and_units_of_linear_layers_are_numbered_layer_by_layer():
    mask = torch.tensor([[True, False], [True, True]])
    network = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), MaskedLinear(mask), nn.Linear(2, 1))
    found = edge_places(network)
    assert [(one.tensor, one.sources, one.targets) for one in found] == [
        ("0.weight", (0, 1, 2), (3, 4)), ("2.weight", (3, 4), (5, 6)), ("3.weight", (5, 6), (7,))
    ]  # fmt: skip
    assert torch.equal(found[1].there, mask) and bool(found[0].there.all())


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)),
        nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2)),
        nn.GRU(3, 2),
        nn.ReLU(),
    ],
)
def test_edges_of_other_networks_are_not_guessed(network):
    with pytest.raises(ValueError, match="is not known"):
        edge_places(network)


@pytest.mark.parametrize("skips", ["shared", "published"])
def test_weights_of_a_recurrent_network_of_a_graph_are_its_edges_each_once(skips):
    torch.manual_seed(0)
    graph = layered(WattsStrogatz(20, 4, 0.3).graph())
    network = GraphRecurrent(graph, kind="gru", vocabulary=4, embedding=3, skips=skips)
    tensors = dict(network.named_parameters())
    found = []
    for place in edge_places(network):
        assert tensors[place.tensor].shape == (3 * len(place.targets), len(place.sources))
        layer = network.get_submodule(place.tensor.removesuffix(".weight"))
        assert torch.equal(layer.mask, place.there.repeat(3, 1))
        found += [(place.sources[k], place.targets[row]) for row, k in place.there.nonzero().tolist()]
    assert sorted(found) == list(graph.edges)


@pytest.mark.parametrize(("combine", "units"), [("before", 1), ("after", 1), ("before", 2)])
def test_weights_of_a_network_of_a_graph_are_its_edges(combine, units):
    torch.manual_seed(0)
    network = graph_network(WattsStrogatz(20, 4, 0.3), (3,), 2, combine=combine, units=units)
    tensors, found = dict(network.named_parameters()), []
    for place in edge_places(network):
        assert tensors[place.tensor].shape == (len(place.targets), len(place.sources))
        layer = network.get_submodule(place.tensor.removesuffix(".weight"))
        assert torch.equal(layer.mask, place.there)
        found += [(place.sources[k], place.targets[row]) for row, k in place.there.nonzero().tolist()]
    assert sorted(found) == sorted(list(network.graph.edges) * units**2)


def test_a_random_graph_over_all_vertices_gives_each_layer_the_probabilities_of_its_edges():
    network = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    graphs = BarabasiAlbert(15, 2)
    torch.manual_seed(0)
    found = edge_gates(network, graphs, least=0.01)
    torch.manual_seed(0)
    known = graphs.edge_probabilities()
    for name, rows, columns in (("0.weight", range(6, 11), range(6)), ("1.weight", range(11, 15), range(6, 11))):
        expected = known[list(columns)][:, list(rows)].T.clamp(0.01, 0.99)
        torch.testing.assert_close(torch.sigmoid(prior_of_gates(found[name], expected.shape)), expected)
    bp.BayesianNetwork(network, found, data_size=9)  # it fits


def test_a_random_graph_of_other_vertices_and_vertices_of_several_units_are_refused():
    with pytest.raises(ValueError, match="8 vertices, but the network has 7"):
        edge_gates(nn.Linear(4, 3), ErdosRenyi(8, 0.2))
    with pytest.raises(ValueError, match="least"):
        edge_gates(nn.Linear(4, 3), ErdosRenyi(7, 0.2), least=0.5)

    class Wide(nn.Linear):
        def edge_places(self):
            return (EdgePlace("weight", (1, 1), (0, 0)),)

    with pytest.raises(ValueError, match="several units"):
        edge_gates(Wide(2, 2), ErdosRenyi(2, 0.2))
