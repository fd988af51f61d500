"""Graphs in layers: a directed acyclic graph, each vertex in the layer of the longest path that ends at it.

Every network of this wing has the connections of such a graph: a main edge goes to the next layer, a skip edge further.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import networkx as nx
import torch
from torch import Tensor

__all__ = ["ORDERS", "LayeredGraph", "layered"]

ORDERS = ("index", "degree", "random")
"""Orders of vertices by which an undirected graph is made acyclic."""


@dataclass(frozen=True)
class LayeredGraph:
    """A directed acyclic graph in layers.

    Attributes:
        vertices: Number of vertices, which are called 0, 1, ...
        edges: Pairs (from, to), sorted, each once.
        layers: Vertices by layer, each sorted; layer 0 has those without an edge to them, any other vertex stands in
            the layer after the last one that it has an edge from.
    """

    vertices: int
    edges: tuple[tuple[int, int], ...]
    layers: tuple[tuple[int, ...], ...]

    @functools.cached_property
    def layer_of(self) -> tuple[int, ...]:
        """The layer of each vertex."""
        found = {vertex: number for number, layer in enumerate(self.layers) for vertex in layer}
        return tuple(found[vertex] for vertex in range(self.vertices))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Vertices of each layer."""
        return tuple(len(layer) for layer in self.layers)

    @property
    def sources(self) -> tuple[int, ...]:
        """Vertices without an edge to them: layer 0."""
        return self.layers[0]

    @functools.cached_property
    def sinks(self) -> tuple[int, ...]:
        """Vertices without an edge from them, of all layers."""
        begins = {source for source, _ in self.edges}
        return tuple(vertex for vertex in range(self.vertices) if vertex not in begins)

    @functools.cached_property
    def connections(self) -> tuple[tuple[int, int], ...]:
        """Pairs of layers (from, to) with an edge between them, sorted by the second; the main ones are among them."""
        found = {(self.layer_of[source], self.layer_of[target]) for source, target in self.edges}
        return tuple(sorted(found, key=lambda pair: (pair[1], pair[0])))

    @property
    def main_edges(self) -> tuple[tuple[int, int], ...]:
        """Edges from one layer to the next."""
        return tuple(edge for edge in self.edges if self._length(edge) == 1)

    @property
    def skip_edges(self) -> tuple[tuple[int, int], ...]:
        """Edges that leave out a layer at least."""
        return tuple(edge for edge in self.edges if self._length(edge) > 1)

    def mask(self, source: int, target: int) -> Tensor:
        """The edges between two layers as the mask of a weight.

        Args:
            source: Number of the layer that they come from.
            target: Number of the layer that they go to.

        Returns:
            Boolean, `(vertices of target, vertices of source)`, in the order of `layers`.
        """
        found = torch.zeros(len(self.layers[target]), len(self.layers[source]), dtype=torch.bool)
        places = self._places.get((source, target))
        if places:
            rows, columns = zip(*places, strict=True)
            found[list(rows), list(columns)] = True
        return found

    def graph(self) -> nx.DiGraph:
        """The same as a graph of networkx, each vertex with its ``layer``."""
        found = nx.DiGraph()
        found.add_nodes_from((vertex, {"layer": number}) for vertex, number in enumerate(self.layer_of))
        found.add_edges_from(self.edges)
        return found

    @functools.cached_property
    def _places(self) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """Row and column of each edge, by the layers that it goes from and to: thousands of masks in one pass."""
        within = {vertex: place for layer in self.layers for place, vertex in enumerate(layer)}
        found: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for begin, end in self.edges:
            found.setdefault((self.layer_of[begin], self.layer_of[end]), []).append((within[end], within[begin]))
        return found

    def _length(self, edge: tuple[int, int]) -> int:
        return self.layer_of[edge[1]] - self.layer_of[edge[0]]


def layered(graph: nx.Graph | nx.DiGraph | Tensor, order: str = "index", seed: int = 0) -> LayeredGraph:
    """Puts a graph in layers; an undirected one is made acyclic first.

    Each edge of an undirected graph goes from the vertex that comes first in the order to the other one. Vertices are
    then numbered in that order; those of a directed graph as it has them.

    Args:
        graph: A graph of networkx without loops; or an adjacency matrix `(vertices, vertices)`, not zero at [i, j]
            where an edge goes from i to j, symmetric where it is undirected.
        order: Of an undirected graph: ``"index"`` (default: as the graph lists its vertices), ``"degree"`` (hubs first,
            equal ones as listed) or ``"random"``. A directed graph has its own.
        seed: Of a random order; default 0.

    Raises:
        ValueError: In one sentence, if the graph has no vertices, no edges or a loop, is of several parts, or is
            directed and has a cycle.
    """
    if order not in ORDERS:
        raise ValueError(f"order= takes one of {', '.join(ORDERS)}, not {order!r}")
    given = _as_graph(graph)
    loops = list(nx.selfloop_edges(given))
    if loops:
        raise ValueError(f"the graph has an edge from vertex {loops[0][0]!r} to itself: remove loops")
    if given.number_of_edges() == 0:
        raise ValueError(f"the graph has {len(given)} vertices and no edge, so nothing is connected: give it edges")
    parts = list(nx.weakly_connected_components(given) if given.is_directed() else nx.connected_components(given))
    if len(parts) > 1:
        raise ValueError(
            f"the graph is of {len(parts)} parts without an edge between them: take the largest one, "
            "graph.subgraph(max(nx.connected_components(graph), key=len)), or a denser graph"
        )
    if given.is_directed() and not nx.is_directed_acyclic_graph(given):
        cycle = [edge[0] for edge in nx.find_cycle(given)]
        raise ValueError(
            f"the directed graph has a cycle ({' -> '.join(map(repr, [*cycle, cycle[0]]))}): remove an edge of it, or "
            "give graph.to_undirected(), which is made acyclic by an order"
        )
    number = {vertex: place for place, vertex in enumerate(_ordered(given, order, seed))}
    pairs = ((number[begin], number[end]) for begin, end in given.edges())
    return _in_layers(len(number), pairs if given.is_directed() else ((min(p), max(p)) for p in pairs))


def _in_layers(vertices: int, edges: Iterable[tuple[int, int]]) -> LayeredGraph:
    acyclic = nx.DiGraph()
    acyclic.add_nodes_from(range(vertices))
    acyclic.add_edges_from(edges)
    layers = tuple(tuple(sorted(layer)) for layer in nx.topological_generations(acyclic))
    return LayeredGraph(vertices, tuple(sorted(acyclic.edges())), layers)


def _as_graph(graph: Any) -> nx.Graph:
    """A simple graph of networkx, whatever was given."""
    if isinstance(graph, Tensor):
        if graph.ndim != 2 or graph.shape[0] != graph.shape[1]:
            raise ValueError(f"an adjacency matrix is square, (vertices, vertices), not of shape {tuple(graph.shape)}")
        there = (graph != 0).cpu().numpy()
        return nx.from_numpy_array(there, create_using=nx.Graph if (there == there.T).all() else nx.DiGraph)
    if not isinstance(graph, nx.Graph):
        raise ValueError(
            f"a graph of networkx or an adjacency matrix is expected, not {type(graph).__name__}: write for example "
            "nx.watts_strogatz_graph(30, 4, 0.2)"
        )
    return nx.DiGraph(graph) if graph.is_directed() else nx.Graph(graph)


def _ordered(graph: nx.Graph, order: str, seed: int) -> list[Any]:
    listed = list(graph)
    if graph.is_directed() or order == "index":
        return listed
    if order == "degree":
        return sorted(listed, key=lambda vertex: -graph.degree(vertex))
    places = torch.randperm(len(listed), generator=torch.Generator().manual_seed(seed)).tolist()
    return [listed[place] for place in places]
