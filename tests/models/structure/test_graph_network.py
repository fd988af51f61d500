"""Networks of graphs: beside their formula, edge by edge, and by the gradients of what is no edge."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pyro
import pytest
import torch
from torch import nn

from bayesprune.models.costs.costs import costs
from bayesprune.models.structure.graph_network import GraphNetwork, graph_network
from bayesprune.models.structure.layered_graph import LayeredGraph, layered
from bayesprune.models.structure.masked_linear import MaskedLinear, masks_of
from bayesprune.models.structure.random_graphs import BarabasiAlbert, ErdosRenyi, WattsStrogatz
from tests.oracles.layered_networks import forward_by_edges


def some_graphs(count: int) -> list[LayeredGraph]:
    pyro.set_rng_seed(0)
    kinds = (BarabasiAlbert(14, 3), WattsStrogatz(13, 4, 0.5), ErdosRenyi(12, 0.3, connected=True))
    return [layered(kinds[number % 3].sample()) for number in range(count)]


@pytest.mark.parametrize("combine", ["before", "after"])
@pytest.mark.parametrize("readout", ["sinks", "last"])
def test_outputs_are_those_of_the_formula_edge_by_edge(combine, readout):
    others = 0
    for number, graph in enumerate(some_graphs(20)):
        activation = ("relu", "tanh")[number % 2]
        network = GraphNetwork(graph, 5, 3, combine, readout, activation=activation).double()
        x = torch.randn(7, 5, dtype=torch.float64)
        with torch.no_grad():
            for parameter in network.parameters():  # numbers where there is no edge, which have to be of no account
                parameter.copy_(torch.randn_like(parameter))
            found = network(x).numpy()
        np.testing.assert_allclose(found, forward_by_edges(network, x.numpy()), rtol=1e-12, atol=1e-12)
        others += np.abs(found - forward_by_edges(network, x.numpy(), flipped=True)).max() > 1e-3
    assert others > 12  # not all, as the last layer alone may be zeros


@pytest.mark.parametrize("combine", ["before", "after"])
def test_gradients_of_edges_are_there_and_others_exactly_zero(combine):
    for graph in some_graphs(6):
        network = GraphNetwork(graph, 5, 3, combine, activation="tanh").double()
        network(torch.randn(9, 5, dtype=torch.float64)).pow(2).sum().backward()
        masks, edges = masks_of(network), 0
        for name, mask in masks.items():
            gradient = network.get_parameter(name).grad
            assert bool((gradient[~mask] == 0).all()) and bool((gradient[mask] != 0).all())
            assert bool((network.get_parameter(name)[~mask] == 0).all())
            edges += int(mask.sum()) if name.startswith("layers") else 0
        assert edges == len(graph.edges)  # no edge is left out


def test_order_of_vertices_within_a_layer_makes_no_other_functions():
    """Another numbering of the vertices, in the same layers: the same function with rows and columns moved along."""
    graph = layered(nx.DiGraph([(0, 2), (0, 3), (1, 3), (2, 4), (3, 4), (1, 4)]))
    swapped = {vertex: vertex for vertex in range(5)}
    first, second = graph.layers[0]
    swapped[first], swapped[second] = second, first
    listed = nx.DiGraph()
    listed.add_nodes_from(range(5))
    listed.add_edges_from((swapped[begin], swapped[end]) for begin, end in graph.edges)
    other = layered(listed)
    assert other.layers == graph.layers and other.edges != graph.edges
    one, two = (GraphNetwork(each, 3, 2).double() for each in (graph, other))
    state = one.state_dict()
    for key in ("weight", "bias"):
        state[f"layers.0.{key}"] = state[f"layers.0.{key}"].flip(0)
    for number, read in enumerate(two._reads[1:], start=1):
        if 0 in read:
            for key in ("weight", "mask"):
                both = state[f"layers.{number}.{key}"]
                state[f"layers.{number}.{key}"] = torch.cat([both[:, :2].flip(1), both[:, 2:]], 1)
    assert all(torch.equal(state[name], mask) for name, mask in two.named_buffers())
    two.load_state_dict(state)
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(two(x), one(x), rtol=0.0, atol=1e-14)


def test_weights_start_by_all_connections_of_a_vertex():
    """Mean square gain^2 / connections, however these are spread over layers."""
    graph = layered(BarabasiAlbert(60, 8).sample())
    for combine in ("before", "after"):
        pyro.set_rng_seed(1)
        sums, counts = dict[int, float](), dict[int, int]()
        for _ in range(40):
            network = GraphNetwork(graph, 4, 2, combine)
            for number in range(1, len(graph.layers)):
                layer = network.layers[number]
                parts = list(layer.values()) if isinstance(layer, nn.ModuleDict) else [layer]
                for row, vertex in enumerate(graph.layers[number]):
                    sums[vertex] = sums.get(vertex, 0.0) + sum(
                        float(p.weight[row].detach().pow(2).sum()) for p in parts
                    )
                    counts[vertex] = counts.get(vertex, 0) + 1
        found = np.array([sums[vertex] / counts[vertex] for vertex in sums])
        assert found.mean() == pytest.approx(2.0, rel=0.02) and found.std() < 0.3
    torch_start = MaskedLinear(graph.mask(0, 1))  # as torch: a third, whatever other layers it reads
    assert float(torch_start.weight.detach().pow(2).sum(1).mean()) < 1.0


def test_signals_keep_their_size_through_hundreds_of_layers():
    pyro.set_rng_seed(2)
    graph = layered(WattsStrogatz(400, 8, 0.1).sample())
    network, x = GraphNetwork(graph, 8, 2), torch.randn(256, 8)
    sizes = []
    for layer in network.layers:
        layer.register_forward_hook(lambda _m, _x, y: sizes.append(float(y.detach().pow(2).mean())))
    network(x)
    assert len(sizes) > 200 and 0.05 < np.median(sizes[-50:]) < 20.0


def test_units_norms_and_counts():
    graph = layered(WattsStrogatz(12, 4, 0.2).sample())
    wide = GraphNetwork(graph, 4, 3, units=3, layer_norm=True)
    blocks = {name: mask for name, mask in masks_of(wide).items() if name.startswith("layers")}
    assert sum(int(mask.sum()) for mask in blocks.values()) == 9 * len(graph.edges)
    for mask in blocks.values():
        assert torch.equal(mask, mask[::3, ::3].repeat_interleave(3, 0).repeat_interleave(3, 1))
    assert all(isinstance(norm, nn.LayerNorm) for norm in wide.norms)  # of three units at least
    single = GraphNetwork(graph, 4, 3, layer_norm=True)  # of one unit a norm would give a constant
    assert [isinstance(n, nn.LayerNorm) for n in single.norms] == [size > 1 for size in graph.sizes]
    assert wide(torch.randn(2, 2, 2)).shape == (2, 3)
    report = costs(GraphNetwork(graph, 4, 3).eval(), torch.randn(2, 4))
    readers = len(graph.sinks) * 3
    assert sum(row.nonzero for row in report.layers.values()) == 4 * graph.sizes[0] + len(graph.edges) + readers


def test_a_graph_of_two_thousand_vertices_is_built_and_trained_in_moments():
    pyro.set_rng_seed(3)
    network = graph_network(WattsStrogatz(2000, 4, 0.75), (8, 8), 10)
    loss = network(torch.randn(16, 8, 8)).logsumexp(1).sum()
    loss.backward()
    assert len(network.graph.edges) == 4000 and math.isfinite(float(loss.detach()))
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda g: GraphNetwork(g, 3, 2, combine="pre"), "^combine= takes one of before, after, not 'pre'"),
        (lambda g: GraphNetwork(g, 3, 2, readout="all"), "^readout= takes one of sinks, last, not 'all'"),
        (lambda g: GraphNetwork(g, 3, 2, activation="gelu"), "^activation= takes one of relu, tanh"),
        (lambda g: GraphNetwork(g, 0, 2), "^inputs must be at least 1, not 0"),
        (lambda g: GraphNetwork(g, 3, 0), "^outputs must be at least 1, not 0"),
        (lambda g: GraphNetwork(g, 3, 2, units=0), "^units must be at least 1, not 0"),
        (lambda g: GraphNetwork(g.graph(), 3, 2), "^a LayeredGraph is expected, not DiGraph: write layered"),
        (lambda g: GraphNetwork(LayeredGraph(2, ((0, 1),), ((1,), (0,))), 3, 2), "^the layers of the graph are not"),
        (lambda g: GraphNetwork(LayeredGraph(2, ((0, 1),), ((0,),)), 3, 2), "^the layers of the graph are not"),
        (lambda g: graph_network(ErdosRenyi(40, 0.01), (3,), 2), "drew 100 graphs, each of several parts"),
        (lambda g: graph_network(nx.DiGraph([(0, 1), (1, 0)]), (3,), 2), "^the directed graph has a cycle"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(made, said):
    with pytest.raises(ValueError, match=said) as told:
        made(layered(nx.path_graph(3)))
    assert "\n" not in str(told.value)


def test_every_read_out_has_a_path_from_the_inputs():
    """Layers are those of longest paths from sources, so that no vertex is out of reach of the inputs."""
    moved = 0
    for graph in some_graphs(9):
        reached = set(graph.sources)
        for begin, end in sorted(graph.edges, key=lambda edge: graph.layer_of[edge[0]]):
            reached |= {end} if begin in reached else set()
        assert len(reached) == graph.vertices
        network = GraphNetwork(graph, 3, 2, readout="last").double()
        dead, x = network.dead_vertices, torch.randn(4, 3, dtype=torch.float64)
        before = network(x)
        for vertex in range(graph.vertices):
            layer = graph.layer_of[vertex]
            with torch.no_grad():
                network.layers[layer].bias[graph.layers[layer].index(vertex)] += 3.0
            after = network(x)
            assert vertex not in dead or torch.equal(before, after)
            moved += not torch.equal(before, after)
            before = after
    assert moved > 20
