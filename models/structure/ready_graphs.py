"""The graph networks that have a name, and graph networks made again from what a file says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import networkx as nx
from torch import nn

from bayesprune.models.checks.size_bounds import checked_count
from bayesprune.models.networks.widths import scaled
from bayesprune.models.structure.graph_network import ACTIVATIONS, COMBINE, GRAPH, READOUTS, GraphNetwork, graph_network
from bayesprune.models.structure.graph_prior import GraphPrior
from bayesprune.models.structure.layered_graph import layered
from bayesprune.models.structure.masked_linear import PLAIN, masks_of
from bayesprune.models.structure.random_graphs import BarabasiAlbert, ErdosRenyi, WattsStrogatz
from bayesprune.models.ways.plain_layers import plain_network

__all__ = ["READY_GRAPHS", "UNITS", "VERTICES", "graph_network_again", "random_graph_network"]

VERTICES, UNITS = 32, 16
"""Of the ready graph networks, and units of each vertex: all inputs pass the few vertices of layer 0."""

_FEWEST, _TRIES = 6, 1000
_MOST_VERTICES, _MOST_EDGES, _MOST_UNITS = 20_000, 10**6, 1000  # that a file may ask for
_MOST_DRAWN = 2000  # vertices of a ready network: a fifth of all pairs are edges, where it is Erdos and Renyi's


def _watts_strogatz(vertices: int) -> GraphPrior:
    return WattsStrogatz(vertices, 4, 0.75, _TRIES)


def _barabasi_albert(vertices: int) -> GraphPrior:
    return BarabasiAlbert(vertices, min(5, vertices // 2))


def _erdos_renyi(vertices: int) -> GraphPrior:
    return ErdosRenyi(vertices, 0.2, connected=True, tries=_TRIES)


READY_GRAPHS: dict[str, Callable[[int], GraphPrior]] = {
    "watts-strogatz": _watts_strogatz,
    "barabasi-albert": _barabasi_albert,
    "erdos-renyi": _erdos_renyi,
}
"""Random graphs by the name of their networks, for so many vertices: the best of each kind in Xie et al. 2019."""


def random_graph_network(name: str, input_shape: Sequence[int], classes: int, width: float = 1.0) -> GraphNetwork:
    """A network of a random graph of 32 vertices with 16 units each, or another multiple of them, drawn now.

    The graph is drawn by torch's global generator; its edges stand in ``network.config``, so that the same network is
    made again from it.

    Args:
        name: A name in `READY_GRAPHS`.
        input_shape: Shape of one input, which is flattened.
        classes: Number of outputs.
        width: Multiplies the vertices; they are rounded and at least 6.

    Raises:
        ValueError: If the width is not positive, a size below 1, or there would be more than 2,000 vertices.
    """
    vertices = max(_FEWEST, *scaled([VERTICES], width))
    if vertices > _MOST_DRAWN:
        raise ValueError(
            f"{name} of width {width:g} has {vertices:,} vertices, but at most {_MOST_DRAWN:,} are expected: make it "
            "narrower, or give graph_network a graph of your own"
        )
    graph = READY_GRAPHS[name](vertices)
    made = graph_network(graph, input_shape, classes, units=UNITS)
    made.config = {**made.config, "name": name, "width": width}  # type: ignore[assignment, dict-item]
    return made


def graph_network_again(config: Mapping[str, Any], input_shape: Sequence[int], classes: int) -> nn.Module:
    """Makes a graph network from its config, as a file has it, whoever wrote it.

    Args:
        config: What `graph_network` has noted: its edges and options under ``graph``; and under ``plain`` the masked
            layers that `prune` has left as plain ones.
        input_shape: Shape of one input, as checked.
        classes: Number of outputs, as checked.

    Raises:
        ValueError: In one sentence, if it is something else or out of bounds.
    """
    found = config[GRAPH]
    if not isinstance(found, Mapping):
        raise ValueError(f"{GRAPH} is of type {type(found).__name__}, but vertices, edges and options are expected")
    vertices = checked_count(found.get("vertices"), "vertices", _MOST_VERTICES)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(vertices))
    graph.add_edges_from(_checked_edges(found.get("edges"), vertices))
    options: dict[str, Any] = {
        "combine": _one_of(found, "combine", COMBINE),
        "readout": _one_of(found, "readout", READOUTS),
        "activation": _one_of(found, "activation", tuple(ACTIVATIONS)),
        "units": checked_count(found.get("units", 1), "units", _MOST_UNITS),
        "layer_norm": _one_of(found, "layer_norm", (False, True)),
    }
    made = graph_network(layered(graph), input_shape, classes, **options)
    made.config = {**made.config, "name": config.get("name"), "width": config.get("width", 1.0)}  # type: ignore[assignment, dict-item]
    plain = config.get(PLAIN, [])
    masked = {name.removesuffix(".weight") for name in masks_of(made)}
    if not isinstance(plain, list) or not all(isinstance(name, str) and name in masked for name in plain):
        raise ValueError(f"{PLAIN} names no masked layers of the network: a list of them is expected")
    return plain_network(made, [f"{name}.weight" for name in plain])


def _checked_edges(edges: Any, vertices: int) -> list[tuple[int, int]]:
    if not isinstance(edges, list) or not 1 <= len(edges) <= _MOST_EDGES:
        raise ValueError(f"edges are no list of 1 to {_MOST_EDGES:,} pairs of vertices")
    for edge in edges:
        right = isinstance(edge, list) and len(edge) == 2 and all(type(end) is int for end in edge)
        if not right or not all(0 <= end < vertices for end in edge):
            raise ValueError(f"edges are pairs of whole numbers below {vertices}, not {str(edge)[:60]}")
    return [(begin, end) for begin, end in edges]


def _one_of(found: Mapping[str, Any], key: str, known: Sequence[Any]) -> Any:
    value = found.get(key, known[0])
    if type(value) is not type(known[0]) or value not in known:
        raise ValueError(f"{key} is {str(value)[:60]!r}, but one of {', '.join(map(str, known))} is expected")
    return value
