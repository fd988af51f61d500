"""Independent references of networks of graphs: longest paths, growth as networkx 2.4 had it, forward passes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import networkx as nx
import numpy as np
import torch


def longest_paths(vertices: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Edges of the longest path that ends at each vertex, by relaxing all edges again and again (Bellman and Ford)."""
    found = [0] * vertices
    for _ in range(vertices):
        for begin, end in edges:
            found[end] = max(found[end], found[begin] + 1)
    return found


def old_growth(vertices: int, edges_each: int, seed) -> nx.Graph:
    """Barabasi and Albert's graph as networkx 2.4 drew it: the first new vertex gets edges to all of the start."""
    found = nx.empty_graph(edges_each)
    targets, repeated = set(range(edges_each)), []
    for source in range(edges_each, vertices):
        found.add_edges_from((source, target) for target in targets)
        repeated += [*targets, *[source] * edges_each]
        if source + 1 < vertices:
            targets = set()
            while len(targets) < edges_each:
                targets.add(seed.choice(repeated))
    return found


def all_graphs(vertices: int) -> Iterator[torch.Tensor]:
    """Every adjacency matrix with ones at [i, j], i < j."""
    pairs = list(itertools.combinations(range(vertices), 2))
    for bits in itertools.product((0.0, 1.0), repeat=len(pairs)):
        found = torch.zeros(vertices, vertices)
        for (i, j), bit in zip(pairs, bits, strict=True):
            found[i, j] = bit
        yield found


def attached_by_orders(degrees: Sequence[int], chosen: Sequence[int]) -> float:
    """Probability that draws by degree, with others again where one has come, are this set: summed over all orders."""
    total = 0.0
    for order in itertools.permutations(chosen):
        left, product = float(sum(degrees)), 1.0
        for one in order:
            product *= degrees[one] / left
            left -= degrees[one]
        total += product
    return total


def growth_log_probability(adjacency: torch.Tensor, edges_each: int) -> float:
    """Of the edges of all vertices after the first star, by the sum over orders."""
    edges = [(i, j) for i, j in adjacency.nonzero().tolist()]
    found = 0.0
    for new in range(edges_each + 1, len(adjacency)):
        degrees = [0] * new
        for i, j in edges:
            if j < new:
                degrees[i] += 1
                degrees[j] += 1
        chosen = [i for i, j in edges if j == new]
        found += math.log(attached_by_orders(degrees, chosen)) if len(chosen) == edges_each else -math.inf
    return found


def forward_by_edges(network, x: np.ndarray, flipped: bool = False) -> np.ndarray:
    """Outputs of a `GraphNetwork` of one unit a vertex, vertex by vertex and edge by edge, from its parameters.

    Args:
        network: The network, float64, of combine="before" or "after", without layer norm.
        x: Inputs, `(N, inputs)`.
        flipped: Whether weights are read as from the target to the source; for networks that are to disagree.
    """
    graph = network.graph
    act = {"ReLU": lambda z: np.maximum(z, 0.0), "Tanh": np.tanh}[type(network.activation).__name__]
    tensors = {name: tensor.detach().numpy() for name, tensor in network.named_parameters()}
    layer_of, value = graph.layer_of, {}
    for row, vertex in enumerate(graph.layers[0]):
        value[vertex] = act(x @ tensors["layers.0.weight"][row] + tensors["layers.0.bias"][row])
    for number, layer in enumerate(graph.layers[1:], start=1):
        read = sorted({layer_of[s] for s, t in graph.edges if layer_of[t] == number})
        for row, vertex in enumerate(layer):
            sources = [s for s, t in graph.edges if t == vertex]
            if flipped:
                sources = [s for s in range(vertex) if layer_of[s] in read and s not in sources] or sources
            parts = {}
            for source in sources:
                place = graph.layers[layer_of[source]].index(source)
                if network.combine == "before":
                    offset = sum(len(graph.layers[one]) for one in read if one < layer_of[source])
                    weight = tensors[f"layers.{number}.weight"][row, offset + place]
                else:
                    weight = tensors[f"layers.{number}.{layer_of[source]}.weight"][row, place]
                parts.setdefault(layer_of[source], 0.0)
                parts[layer_of[source]] = parts[layer_of[source]] + weight * value[source]
            if network.combine == "before":
                value[vertex] = act(sum(parts.values()) + tensors[f"layers.{number}.bias"][row])
            else:
                biases = {one: tensors[f"layers.{number}.{one}.bias"][row] for one in read}
                value[vertex] = sum(act(parts.get(one, 0.0) + biases[one]) for one in read)
    ends = graph.sinks if network.readout == "sinks" else graph.layers[-1]
    layers = sorted({layer_of[vertex] for vertex in ends})
    columns = [vertex for one in layers for vertex in graph.layers[one]]
    weight = tensors["output.weight"]
    total = sum(np.outer(value[v], weight[:, place]) for place, v in enumerate(columns) if v in ends)
    return total + tensors["output.bias"]
