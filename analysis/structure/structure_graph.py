"""The graph of a network: which edges there are, and how probable each is after a fit."""

from __future__ import annotations

import networkx as nx
import numpy as np
import torch
from torch import nn

from bayesprune.inference.fit_result import Fit
from bayesprune.models.structure.edge_places import EdgePlace, edge_places
from bayesprune.models.structure.layered_graph import LayeredGraph

__all__ = ["structure_graph"]


def structure_graph(of: Fit | nn.Module | LayeredGraph, restart: int = 0) -> nx.DiGraph:
    """The graph of a network, each edge with its probability.

    A table of it is ``networkx.to_pandas_edgelist(graph)``.

    Args:
        of: A fit: an edge has the posterior inclusion probability of its weight, of the gates and units of a vertex
            the largest. A network, such as a pruned one: 1 where a weight of the edge is not zero, else 0. A layered
            graph: 1 everywhere.
        restart: Which restart of a fit; default the first.

    Returns:
        Vertices with their ``layer``, counted from the sources; edges with ``probability``, and those of a fit or a
        network with ``tensor``, the name of the weight that they stand in. Edges that the network has not, by its
        masks, are not there.

    Raises:
        ValueError: If it is none of these, the network's edges are not known (`edge_places`), or none of its weights
            has inclusion probabilities.
    """
    if isinstance(of, LayeredGraph):
        found = of.graph()
        nx.set_edge_attributes(found, 1.0, "probability")
        return found
    if not isinstance(of, Fit | nn.Module):
        raise ValueError(
            f"structure_graph takes a fit, a network or a layered graph, not {type(of).__name__}: make a graph of "
            "networkx one by layered(graph)"
        )
    network = of if isinstance(of, nn.Module) else of.restart(restart).model.network
    places = edge_places(network)
    known = _of_weights(network, places) if isinstance(of, nn.Module) else _of_fit(of, restart)
    whole, found = nx.DiGraph(), nx.DiGraph()  # layers are those of all edges, whatever has probabilities
    for place in places:
        there = [
            (place.sources[column], place.targets[row], row, column) for row, column in place.there.nonzero().tolist()
        ]
        whole.add_nodes_from((*place.sources, *place.targets))
        whole.add_edges_from((begin, end) for begin, end, _, _ in there)
        if place.tensor not in known:
            continue
        largest = known[place.tensor].reshape(place.gates, len(place.targets), len(place.sources)).max(axis=0)
        for begin, end, row, column in there:
            several = found.get_edge_data(begin, end, {"probability": 0.0})["probability"]  # vertices of several units
            found.add_edge(begin, end, probability=max(several, float(largest[row, column])), tensor=place.tensor)
    if not found:
        raise ValueError(
            f"none of the weights of the graph, {', '.join(place.tensor for place in places)}, has inclusion "
            "probabilities: give them a prior with gates, such as EdgeGates()"
        )
    layer_of = {v: number for number, layer in enumerate(nx.topological_generations(whole)) for v in layer}
    found.add_nodes_from((vertex, {"layer": layer_of[vertex]}) for vertex in sorted(layer_of))
    return found


def _of_weights(network: nn.Module, places: tuple[EdgePlace, ...]) -> dict[str, np.ndarray]:
    """One where a weight is not zero."""
    tensors = dict(network.named_parameters())
    with torch.no_grad():
        return {place.tensor: (tensors[place.tensor] != 0).double().cpu().numpy() for place in places}


def _of_fit(fit: Fit, restart: int) -> dict[str, np.ndarray]:
    return {str(name): one.values for name, one in fit.inclusion_probabilities(restart).data_vars.items()}
