"""Features of a graph: the 23 by which performance was predicted, and further ones that others have found useful."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import networkx as nx
import numpy as np
import numpy.typing as npt
from torch import Tensor

from bayesprune.models.structure.layered_graph import LayeredGraph, layered

__all__ = ["FEATURES", "FURTHER", "GraphLike", "FeatureTable", "feature_table", "graph_features"]

GraphLike: TypeAlias = LayeredGraph | nx.Graph | Tensor
"""What features are taken of: a graph of networkx and an adjacency matrix are put in layers first, see `layered`."""
Array = npt.NDArray[np.float64]

_SPREADS = ("eccentricity", "degree", "closeness", "node_betweenness", "edge_betweenness")
FEATURES = (
    *("layers", "nodes", "edges", "source_nodes", "sink_nodes", "diameter", "density", "average_path_length"),
    *(f"{of}_{what}" for of in _SPREADS for what in ("mean", "variance", "sd")),
)
"""The 23 features, in the order of the columns."""
FURTHER = (
    *("clustering", "transitivity", "assortativity", "global_efficiency", "local_efficiency"),
    *("log_paths", "path_edges_mean", "skip_share", "bottlenecks", "dead_share", "in_degree_variance"),
)
"""Further features, of ``further=True``."""


def graph_features(graph: GraphLike, further: bool = False) -> dict[str, float]:
    """The features of one graph by name.

    Of the layers are ``layers`` (how many), ``source_nodes`` and ``sink_nodes`` (vertices of the first and of the last
    layer: not all that have no edge from them). All others are of the undirected graph with n vertices and m edges:
    ``diameter``, ``density`` m / (n (n - 1)), ``average_path_length`` over all pairs, and mean, variance and sd (of a
    sample, divided by one less than their number; 0 for a single one) of

    - ``eccentricity``, the distance to the farthest vertex;
    - ``degree``, the share of the other vertices next to one, so that its mean is exactly twice the density;
    - ``closeness``, (n - 1) / the sum of the distances to the others;
    - ``node_betweenness`` and ``edge_betweenness``, the share of pairs of (other) vertices whose shortest paths run
      through one, where there are several each by its share.

    Further ones: ``clustering`` (mean over vertices), ``transitivity``, ``assortativity`` of degrees (0 where all are
    equal, which leaves it undefined), ``global_efficiency`` and ``local_efficiency``; and of the directed graph
    ``log_paths`` (log of the number of paths from a source to a vertex without an edge from it) and
    ``path_edges_mean`` (mean edges of one), ``skip_share`` (of edges), ``bottlenecks`` (layers of a single vertex that
    no edge passes by, less the first and the last), ``dead_share`` (vertices from which the last layer cannot be
    reached) and ``in_degree_variance``.

    Args:
        graph: A graph in layers; or a graph of networkx or an adjacency matrix, which `layered` puts in layers.
        further: Whether the further ones follow; default False.

    Raises:
        ValueError: In one sentence, if `layered` refuses the graph, or it is of several parts.

    Source: Stier, Darji and Granitzer 2021, whose 23 columns these are, in the words of their released code.
    """
    found = graph if isinstance(graph, LayeredGraph) else layered(graph)
    plain = nx.Graph()
    plain.add_nodes_from(range(found.vertices))
    plain.add_edges_from(found.edges)
    if found.vertices < 2 or not nx.is_connected(plain):
        raise ValueError(
            f"distances need a graph of one part with two vertices or more, not {found.vertices} vertices in "
            f"{nx.number_connected_components(plain)} parts: take the largest part, or a denser graph"
        )
    numbers = _of_layers(found) | _of_distances(plain)
    return numbers | _further(found, plain) if further else numbers


def _of_layers(graph: LayeredGraph) -> dict[str, float]:
    n, m = graph.vertices, len(graph.edges)
    return {
        "layers": float(len(graph.layers)),
        "nodes": float(n),
        "edges": float(m),
        "source_nodes": float(graph.sizes[0]),
        "sink_nodes": float(graph.sizes[-1]),
    }


def _of_distances(graph: nx.Graph) -> dict[str, float]:
    n, m = len(graph), graph.number_of_edges()
    lengths = dict(nx.all_pairs_shortest_path_length(graph))
    eccentricity = {vertex: max(to.values()) for vertex, to in lengths.items()}
    found = {
        "diameter": float(max(eccentricity.values())),
        "density": m / (n * (n - 1)),
        "average_path_length": sum(sum(to.values()) for to in lengths.values()) / (n * (n - 1)),
    }
    spreads: Sequence[Mapping[Any, float]] = (
        eccentricity,
        nx.degree_centrality(graph),
        {vertex: (n - 1) / sum(to.values()) for vertex, to in lengths.items()},
        nx.betweenness_centrality(graph),
        nx.edge_betweenness_centrality(graph),
    )
    for name, values in zip(_SPREADS, spreads, strict=True):
        numbers = np.array(list(values.values()), dtype=np.float64)
        variance = float(numbers.var(ddof=1)) if len(numbers) > 1 else 0.0
        found |= {f"{name}_mean": float(numbers.mean()), f"{name}_variance": variance, f"{name}_sd": variance**0.5}
    return found


def _further(graph: LayeredGraph, plain: nx.Graph) -> dict[str, float]:
    degrees = {degree for _, degree in plain.degree()}
    directed = graph.graph()
    in_degrees = np.array([degree for _, degree in directed.in_degree()], dtype=np.float64)
    last = set(graph.layers[-1])
    alive = last.union(*(nx.ancestors(directed, vertex) for vertex in last))
    passed = {
        layer for begin, end in graph.skip_edges for layer in range(graph.layer_of[begin] + 1, graph.layer_of[end])
    }
    narrow = [layer for layer, size in enumerate(graph.sizes) if size == 1 and layer not in passed]
    log_paths, mean_edges = _paths(graph)
    return {
        "clustering": nx.average_clustering(plain),
        "transitivity": float(nx.transitivity(plain)),
        "assortativity": float(nx.degree_assortativity_coefficient(plain)) if len(degrees) > 1 else 0.0,
        "global_efficiency": nx.global_efficiency(plain),
        "local_efficiency": nx.local_efficiency(plain),
        "log_paths": log_paths,
        "path_edges_mean": mean_edges,
        "skip_share": len(graph.skip_edges) / len(graph.edges),
        "bottlenecks": float(len([layer for layer in narrow if 0 < layer < len(graph.layers) - 1])),
        "dead_share": 1.0 - len(alive) / graph.vertices,
        "in_degree_variance": float(in_degrees.var(ddof=1)),
    }


def _paths(graph: LayeredGraph) -> tuple[float, float]:
    """Log of the number of paths from sources to sinks, and mean edges of one; whole numbers until the end."""
    before: dict[int, list[int]] = {vertex: [] for vertex in range(graph.vertices)}
    for begin, end in graph.edges:
        before[end].append(begin)
    count, edges = dict.fromkeys(graph.sources, 1), dict.fromkeys(graph.sources, 0)
    for layer in graph.layers[1:]:
        for vertex in layer:
            count[vertex] = sum(count[one] for one in before[vertex])
            edges[vertex] = sum(edges[one] + count[one] for one in before[vertex])
    paths = sum(count[vertex] for vertex in graph.sinks)
    return math.log(paths), sum(edges[vertex] for vertex in graph.sinks) / paths


@dataclass(frozen=True)
class FeatureTable:
    """Features of several graphs, or of anything else that is to be predicted from numbers.

    Attributes:
        names: A name a column.
        values: Float64, `(graphs, features)`, all finite.

    Raises:
        ValueError: If these do not fit.
    """

    names: tuple[str, ...]
    values: Array

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.names) or not len(values):
            raise ValueError(
                f"a table of features is (graphs, features) with a name for each feature, not of shape {values.shape} "
                f"with {len(self.names)} names: give a row a graph"
            )
        if not np.isfinite(values).all():
            bad = [name for name, column in zip(self.names, values.T, strict=True) if not np.isfinite(column).all()]
            raise ValueError(f"features have to be finite numbers, and {', '.join(bad)} is not in every row: mend them")
        object.__setattr__(self, "values", values)

    def __len__(self) -> int:
        return len(self.values)

    def only(self, names: Sequence[str]) -> FeatureTable:
        """The table of these columns.

        Args:
            names: Their names, in the order wanted.

        Raises:
            ValueError: If one is not there.
        """
        if missing := [name for name in names if name not in self.names]:
            raise ValueError(f"there is no feature {missing[0]!r}: one of {', '.join(self.names)} is expected")
        return FeatureTable(tuple(names), self.values[:, [self.names.index(name) for name in names]])


def feature_table(graphs: Sequence[GraphLike], further: bool = False) -> FeatureTable:
    """The features of several graphs.

    Args:
        graphs: The graphs, as `graph_features` takes them.
        further: Whether the further ones follow; default False.

    Returns:
        `(graphs, 23)`, or `(graphs, 34)` with the further ones.

    Raises:
        ValueError: In one sentence, if there is no graph or `graph_features` refuses one.
    """
    if not len(graphs):
        raise ValueError("there are no graphs to take features of: give at least one")
    names = FEATURES + FURTHER if further else FEATURES
    rows = [graph_features(graph, further) for graph in graphs]
    return FeatureTable(names, np.array([[row[name] for name in names] for row in rows]))
