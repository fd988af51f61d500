"""Features of graphs: rows worked by hand, and an implementation in numpy on random graphs."""

from __future__ import annotations

import random
import statistics
from fractions import Fraction

import networkx as nx
import numpy as np
import pytest
import torch

import bayesprune as bp
from bayesprune.analysis.structure.graph_features import FEATURES, FURTHER
from bayesprune.models.structure.layered_graph import layered
from tests.oracles.graph_features_reference import reference_features, reference_further

F = Fraction
THESIS = nx.DiGraph([(0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)])
# layers, nodes, edges, sources, sinks, diameter, density, average path; then the values that are spread
BY_HAND = {
    "path": (
        nx.path_graph(4),
        (4, 4, 3, 1, 1, 3, F(1, 4), F(10, 6)),
        ([3, 2, 2, 3], [F(1, 3), F(2, 3), F(2, 3), F(1, 3)], [F(1, 2), F(3, 4), F(3, 4), F(1, 2)],
         [0, F(2, 3), F(2, 3), 0], [F(3, 6), F(4, 6), F(3, 6)]),
    ),
    "star": (
        nx.star_graph(4),
        (2, 5, 4, 1, 4, 2, F(1, 5), F(16, 10)),
        ([1, 2, 2, 2, 2], [1] + [F(1, 4)] * 4, [1] + [F(4, 7)] * 4, [1, 0, 0, 0, 0], [F(4, 10)] * 4),
    ),
    "cycle": (
        nx.cycle_graph(5),
        (5, 5, 5, 1, 1, 2, F(1, 4), F(3, 2)),
        ([2] * 5, [F(1, 2)] * 5, [F(2, 3)] * 5, [F(1, 6)] * 5, [F(3, 10)] * 5),
    ),
    "complete": (
        nx.complete_graph(4),
        (4, 4, 6, 1, 1, 1, F(1, 2), 1),
        ([1] * 4, [1] * 4, [1] * 4, [0] * 4, [F(1, 6)] * 6),
    ),
    "thesis": (
        THESIS,
        (4, 5, 6, 2, 1, 2, F(3, 10), F(14, 10)),
        ([2, 2, 1, 2, 2], [F(1, 4), F(2, 4), 1, F(3, 4), F(2, 4)], [F(4, 7), F(4, 6), 1, F(4, 5), F(4, 6)],
         [0, 0, F(7, 12), F(1, 12), 0], [F(4, 10), F(5, 20), F(3, 20), F(2, 10), F(5, 20), F(3, 20)]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_the_row_of_a_small_graph_is_what_a_hand_works_out(name):
    graph, plain, spread = BY_HAND[name]
    row = [*map(float, plain)]
    for values in spread:
        variance = statistics.variance([F(one) for one in values])
        row += [float(sum(values, F(0)) / len(values)), float(variance), float(variance) ** 0.5]
    found = bp.graph_features(graph)
    assert tuple(found) == FEATURES and len(found) == 23
    np.testing.assert_allclose(list(found.values()), row, rtol=0, atol=1e-14)


def random_graphs(count=50):
    rng = random.Random(0)
    for number in range(count):
        n = rng.randrange(6, 22)
        if number % 3 == 0:
            yield nx.barabasi_albert_graph(n, rng.randrange(1, 4), seed=number)
        elif number % 3 == 1:
            yield nx.connected_watts_strogatz_graph(n, 4, rng.choice([0.2, 1.0]), tries=1000, seed=number)
        else:
            graph = nx.gnp_random_graph(n, 0.35, seed=number)
            yield nx.convert_node_labels_to_integers(graph.subgraph(max(nx.connected_components(graph), key=len)))


def test_features_are_those_of_an_implementation_in_numpy_on_random_graphs():
    tried = 0
    for graph in random_graphs():
        edges = [(min(edge), max(edge)) for edge in graph.edges()]
        found = bp.graph_features(graph, further=True)
        expected = reference_features(len(graph), edges) | reference_further(len(graph), edges)
        assert tuple(found) == FEATURES + FURTHER and set(expected) == set(found)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-10, abs=1e-10), (name, edges)
        # control: another orientation of the same graph has other layers, and the same distances
        turned = [(len(graph) - 1 - b, len(graph) - 1 - a) for a, b in edges]
        other = reference_features(len(graph), turned)
        tried += other["source_nodes"] != found["source_nodes"]
        assert other["average_path_length"] == pytest.approx(found["average_path_length"])
    assert tried > 20


def test_the_mean_degree_is_twice_the_density_and_sds_are_roots_of_variances():
    table = bp.feature_table(list(random_graphs(12)))
    column = dict(zip(table.names, table.values.T, strict=True))
    np.testing.assert_allclose(column["degree_mean"], 2.0 * column["density"], rtol=1e-12)
    np.testing.assert_allclose(column["closeness_sd"] ** 2, column["closeness_variance"], rtol=1e-12)


def test_graphs_in_layers_adjacency_matrices_and_graphs_of_networkx_have_the_same_features():
    graph = nx.barabasi_albert_graph(12, 2, seed=3)
    adjacency = torch.tensor(nx.to_numpy_array(graph))
    found = bp.feature_table([graph, layered(graph), adjacency, torch.triu(adjacency)], further=True)
    assert found.values.shape == (4, 34)
    for row in found.values[1:]:
        np.testing.assert_array_equal(row, found.values[0])


def test_an_edge_alone_has_spreads_of_zero():
    found = bp.graph_features(nx.path_graph(2), further=True)
    assert all(np.isfinite(list(found.values())))
    assert found["edge_betweenness_sd"] == 0.0 and found["assortativity"] == 0.0


def test_columns_are_taken_by_name():
    table = bp.feature_table([nx.path_graph(4), nx.star_graph(4)])
    np.testing.assert_array_equal(table.only(["edges", "nodes"]).values, [[3.0, 4.0], [4.0, 5.0]])
    with pytest.raises(ValueError, match="there is no feature 'width': one of layers, nodes"):
        table.only(["width"])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: bp.graph_features(nx.Graph([(0, 1), (2, 3)])), "the graph is of 2 parts"),
        (lambda: bp.graph_features(nx.DiGraph([(0, 1), (1, 0)])), "the directed graph has a cycle"),
        (lambda: bp.graph_features(nx.empty_graph(3)), "no edge, so nothing is connected"),
        (lambda: bp.graph_features([1, 2]), "a graph of networkx or an adjacency matrix is expected, not list"),
        (lambda: bp.feature_table([]), "there are no graphs to take features of: give at least one"),
        (lambda: bp.FeatureTable(("a",), np.ones((2, 2))), r"not of shape \(2, 2\) with 1 names"),
        (lambda: bp.FeatureTable(("a", "b"), np.array([[1.0, np.nan]])), "and b is not in every row"),
    ],
)
def test_what_has_no_features_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
