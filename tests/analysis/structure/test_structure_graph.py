"""The graph of a fit, of a network and of layers; and its drawing, whose opacities are the probabilities."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from torch import nn

import bayesprune as bp
from bayesprune.analysis.structure_plots.structure_graph import FAINTEST, KINDS
from bayesprune.models.structure.edge_places import EdgePlace, edge_places
from bayesprune.models.structure.graph_recurrent import GraphRecurrent
from bayesprune.models.structure.layered_graph import layered

EDGES = torch.zeros(5, 5)
for begin, end in [(0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (0, 4)]:
    EDGES[begin, end] = 1.0
SKIPPING = layered(EDGES)


@pytest.fixture(scope="module")
def recurrent():
    """A short fit of a GRU of a graph with skip edges, with gates on its edges."""
    torch.manual_seed(0)
    network = GraphRecurrent(SKIPPING, kind="gru", vocabulary=5, embedding=3)
    gates = {place.tensor: bp.EdgeGates(density=0.3, gates=3, initial_inclusion=0.5) for place in edge_places(network)}
    x = torch.randint(1, 5, (40, 6))
    model = bp.BayesianNetwork(network, gates, data_size=40)
    fit = bp.fit(model, (x, (x[:, 0] > 2).long()), steps=20, batch_size=40, learning_rate=0.05, device="cpu")
    with torch.no_grad():  # probabilities that differ
        for parameter in fit.guide.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return fit


def test_edges_of_a_fit_have_the_inclusion_probabilities_of_their_weights(recurrent):
    graph = bp.structure_graph(recurrent)
    assert sorted(graph.edges) == list(SKIPPING.edges)
    assert [graph.nodes[vertex]["layer"] for vertex in range(5)] == list(SKIPPING.layer_of)
    known = recurrent.inclusion_probabilities()
    for begin, end, found in graph.edges(data=True):
        (layer,) = [n for n, vertices in enumerate(SKIPPING.layers) if end in vertices]
        sources = [v for s, t in SKIPPING.connections if t == layer for v in SKIPPING.layers[s]]
        row, column = SKIPPING.layers[layer].index(end), sources.index(begin)
        assert found["tensor"] == f"layers.{layer}.input.weight"
        assert found["probability"] == pytest.approx(float(known[found["tensor"]][row, column]))
    assert len({found for *_, found in graph.edges(data="probability")}) == len(SKIPPING.edges)  # none by chance
    table = nx.to_pandas_edgelist(graph)
    assert set(table.columns) == {"source", "target", "probability", "tensor"} and len(table) == 7


def test_a_network_has_the_edges_whose_weights_are_not_zero_in_any_gate():
    torch.manual_seed(0)
    network = GraphRecurrent(SKIPPING, kind="lstm", vocabulary=5, embedding=3)
    weight = network.get_parameter("layers.1.input.weight")  # vertex 2, of the sources 0 and 1
    with torch.no_grad():
        weight[:, 0] = 0.0
        weight[:3, 1] = 0.0  # three of four gates
    graph = bp.structure_graph(network)
    assert [edge[:2] for edge in graph.edges(data="probability") if edge[2] == 0.0] == [(0, 2)]
    assert sum(p for *_, p in graph.edges(data="probability")) == 6.0


def test_an_edge_between_vertices_of_several_units_is_there_with_any_of_them():
    class Wide(nn.Linear):
        def edge_places(self):
            return (EdgePlace("weight", (1, 1, 2, 2), (0, 0)),)

    network = Wide(2, 4)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    graph = bp.structure_graph(network)
    assert dict(graph.edges) == {
        (0, 1): {"probability": 1.0, "tensor": "weight"}, (0, 2): {"probability": 0.0, "tensor": "weight"}
    }  # fmt: skip


def test_layers_are_those_of_all_edges_where_only_some_have_gates():
    network = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
    x = torch.randn(20, 3)
    model = bp.BayesianNetwork(network, {"2.weight": bp.EdgeGates()}, bp.Normal(), data_size=20)
    fit = bp.fit(model, (x, x[:, 0]), steps=5, batch_size=20, device="cpu")
    graph = bp.structure_graph(fit)
    assert sorted(graph.edges) == [(3, 5), (4, 5)]
    assert dict(graph.nodes(data="layer")) == {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 2}
    with pytest.raises(ValueError, match="no probabilities|inclusion"):
        points = bp.BayesianNetwork(network, {"*.weight": bp.Gaussian(1.0)}, bp.Normal(), data_size=20)
        bp.structure_graph(bp.fit(points, (x, x[:, 0]), "map", steps=2, batch_size=20, device="cpu"))


def test_what_is_no_graph_is_refused():
    with pytest.raises(ValueError, match="structure_graph takes a fit, a network or a layered graph, not Graph"):
        bp.structure_graph(nx.path_graph(3))
    with pytest.raises(ValueError, match="has no layer"):
        bp.plot_structure(nx.DiGraph([(0, 1)]))


# -- the drawing -------------------------------------------------------------------------------------------------------


def drawn(figure):
    """Lines by whether they are bent: (ends, colour) of each."""
    (axis,) = figure.axes
    found = {False: [], True: []}
    for collection in axis.collections:
        if isinstance(collection, LineCollection):
            for line, colour in zip(collection.get_segments(), collection.get_colors(), strict=True):
                found[len(line) > 2].append((tuple(np.round(line[[0, -1]].ravel(), 6)), tuple(colour)))
    return found


def test_an_edge_is_as_opaque_as_it_is_probable_and_skips_are_bent(recurrent):
    graph = bp.structure_graph(recurrent)
    figure = bp.plot_structure(recurrent)
    found = drawn(figure)
    layer = dict(graph.nodes(data="layer"))
    for skips, (_, colour) in KINDS.items():
        mine = [
            to_rgba(colour, FAINTEST + (1.0 - FAINTEST) * p)
            for begin, end, p in graph.edges(data="probability")
            if (layer[end] - layer[begin] > 1) == skips
        ]
        assert len(mine) == len(SKIPPING.skip_edges if skips else SKIPPING.main_edges)
        np.testing.assert_allclose(sorted(colour for _, colour in found[skips]), sorted(mine), atol=1e-6)
        assert all(ends[0] < ends[2] for ends, _ in found[skips])  # from left to right
    assert f"of {len(graph.edges)} edges in the mean" in figure.get_suptitle().replace("\n", " ")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "to the next layer",
        "skips layers",
    ]


def test_pruned_edges_are_faded_and_the_title_counts_those_that_are_left(tmp_path):
    network = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
        network[0].weight[0] = 0.0
    figure = bp.plot_structure(network, path=tmp_path / "graph.svg")
    assert (tmp_path / "graph.svg").stat().st_size > 1000
    opacities = sorted(colour[3] for _, colour in drawn(figure)[False])
    assert opacities == pytest.approx([FAINTEST] * 4 + [1.0] * 14)
    assert figure.get_suptitle().replace("\n", " ") == "Structure: 9 vertices in 3 layers, 14 of 18 edges"


def test_a_layered_graph_is_drawn_as_it_is():
    figure = bp.plot_structure(SKIPPING)
    found = drawn(figure)
    assert len(found[False]) == len(SKIPPING.main_edges) and len(found[True]) == len(SKIPPING.skip_edges)
    assert all(colour[3] == 1.0 for kind in found.values() for _, colour in kind)
    (spots,) = [c for c in figure.axes[0].collections if not isinstance(c, LineCollection)]
    assert sorted(spots.get_offsets()[:, 0].tolist()) == sorted(SKIPPING.layer_of)


def test_a_file_of_another_kind_is_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(ValueError, match="format"):
        bp.plot_structure(SKIPPING, path=tmp_path / "graph.gif")
