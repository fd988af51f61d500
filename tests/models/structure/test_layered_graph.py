"""Graphs in layers: beside networkx, and beside longest paths found in another way."""

from __future__ import annotations

import networkx as nx
import pyro
import pytest
import torch

from bayesprune.models.structure.graph_network import GraphNetwork
from bayesprune.models.structure.layered_graph import LayeredGraph, layered
from bayesprune.models.structure.random_graphs import BarabasiAlbert, ErdosRenyi, WattsStrogatz
from tests.oracles.layered_networks import longest_paths


def drawn_graphs(count: int) -> list[LayeredGraph]:
    """Of three kinds and sizes, 10 to 50 vertices as published."""
    pyro.set_rng_seed(0)
    found = []
    for number in range(count):
        n = int(torch.randint(10, 51, ()))
        kind = (
            BarabasiAlbert(n, n // 10),
            WattsStrogatz(n, max(2, n // 5), 1.0),
            ErdosRenyi(n, 0.2, connected=True, tries=10_000),
        )[number % 3]
        found.append(layered(kind.sample()))
    return found


def test_layers_of_200_random_graphs_are_those_of_longest_paths_and_of_networkx():
    wrong = 0
    for graph in drawn_graphs(200):
        assert list(graph.layer_of) == longest_paths(graph.vertices, graph.edges)
        assert [set(layer) for layer in graph.layers] == list(map(set, nx.topological_generations(graph.graph())))
        assert all(begin < end for begin, end in graph.edges)
        there = {edge for edge in graph.connections if edge[1] == edge[0] + 1}
        assert len(there) == len(graph.layers) - 1  # layers that follow each other are connected
        assert sorted(graph.main_edges + graph.skip_edges) == list(graph.edges)
        backwards = longest_paths(graph.vertices, [(end, begin) for begin, end in graph.edges])
        wrong += list(graph.layer_of) != backwards
    assert wrong == 200  # the other way they are others


def test_the_example_of_the_thesis():
    graph = layered(nx.DiGraph([(0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)]))
    assert graph.vertices == 5 and graph.edges[0] == (0, 1)  # as networkx lists vertices: 0, 2, 1, 3, 4
    listed = nx.DiGraph()
    listed.add_nodes_from(range(5))
    listed.add_edges_from([(0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)])
    graph = layered(listed)
    assert graph.layer_of == (0, 0, 1, 2, 3) and graph.sinks == (4,) and graph.sources == (0, 1)
    assert graph.skip_edges == ((1, 3), (2, 4))
    assert graph.mask(0, 1).tolist() == [[True, True]] and graph.mask(0, 2).tolist() == [[False, True]]
    assert graph.mask(1, 0).sum() == 0


def test_masks_have_every_edge_once():
    for graph in drawn_graphs(12):
        masks = {pair: graph.mask(*pair) for pair in graph.connections}
        assert sum(int(mask.sum()) for mask in masks.values()) == len(graph.edges)
        for (source, target), mask in masks.items():
            for row, column in mask.nonzero().tolist():
                assert (graph.layers[source][column], graph.layers[target][row]) in graph.edges


def test_shares_of_skip_edges_and_of_dead_vertices_are_those_that_were_published():
    """Skip edges 43 %, 53 % and 67 % (the last of graphs of 30 vertices), dead with the last layer 47 %, 25 %, 16 %."""
    shares: list[list[float]] = [[], [], []]
    dead: list[list[float]] = [[], [], []]
    for number, graph in enumerate(drawn_graphs(300)):
        shares[number % 3].append(len(graph.skip_edges) / len(graph.edges))
        dead[number % 3].append(len(GraphNetwork(graph, 2, 2, readout="last").dead_vertices) / graph.vertices)
    of_30 = [layered(ErdosRenyi(30, 0.2, connected=True).sample()) for _ in range(100)]
    shares[2] = [len(graph.skip_edges) / len(graph.edges) for graph in of_30]
    found = [sum(each) / len(each) for each in (*shares, *dead)]
    assert found == pytest.approx([0.43, 0.53, 0.67, 0.47, 0.25, 0.16], abs=0.05)
    assert GraphNetwork(of_30[0], 2, 2).dead_vertices == ()


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (nx.Graph([(0, 1), (2, 3)]), "^the graph is of 2 parts without an edge between them: take the largest one"),
        (nx.DiGraph([(0, 1), (1, 2), (2, 0)]), r"^the directed graph has a cycle \(0 -> 1 -> 2 -> 0\): remove an edge"),
        (nx.empty_graph(0), "^the graph has 0 vertices and no edge"),
        (nx.empty_graph(3), "^the graph has 3 vertices and no edge"),
        (nx.Graph([(0, 0), (0, 1)]), "^the graph has an edge from vertex 0 to itself: remove loops"),
        (torch.ones(2, 3), "^an adjacency matrix is square"),
        ([(0, 1)], "^a graph of networkx or an adjacency matrix is expected, not list"),
    ],
)
def test_what_cannot_be_layered_is_refused_in_a_sentence(graph, said):
    with pytest.raises(ValueError, match=said) as told:
        layered(graph)
    assert "\n" not in str(told.value)


def test_orders_of_undirected_graphs():
    star = nx.Graph([(1, 0), (2, 0), (3, 0)])
    assert len(layered(star).sources) == 1  # 1 is listed first, then 0: 1 -> 0 -> 2, 3
    assert layered(star, "degree").sizes == (1, 3)
    orders = {layered(nx.path_graph(6), "random", seed).edges for seed in range(10)}
    assert len(orders) > 5 and layered(nx.path_graph(6), "random", 1) == layered(nx.path_graph(6), "random", 1)
    with pytest.raises(ValueError, match="^order= takes one of index, degree, random, not 'hub'"):
        layered(star, "hub")
