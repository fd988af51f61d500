"""Figure: the graph of a network by layers, its edges faded by their probability."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
from torch import nn

from bayesprune.analysis.plots.style import COLOURS, POSTERIOR, check_path, finished, legend_below, new_figure, styled
from bayesprune.analysis.structure.structure_graph import structure_graph
from bayesprune.inference.fit_result import Fit
from bayesprune.models.structure.layered_graph import LayeredGraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAINTEST = 0.06
"""Opacity of an edge of probability zero: it is seen to be missing."""
SPREAD = 0.6
"""Power of the share of the largest layer by which the vertices of a smaller one stand further apart."""
BEND = 0.8
"""How far a skip edge leaves its straight line, in vertices, by the square root of the layers that it spans."""
BENDS = 25
"""Points of a bent edge."""
KINDS = {False: ("to the next layer", POSTERIOR), True: ("skips layers", COLOURS[1])}
"""Label and colour of edges, by whether they skip a layer."""


def plot_structure(
    of: Fit | nn.Module | LayeredGraph | nx.DiGraph, restart: int = 0, path: str | Path | None = None
) -> Figure:
    """Draws a graph by layers, each edge as opaque as it is probable; pruned edges are hardly seen.

    Layers stand side by side from the sources on, and edges that skip a layer are bent. The title says how many edges
    there are, in the mean where they are not sure: the sum of their probabilities.

    Args:
        of: A fit, a network (pruned edges are those whose weights are zero), a layered graph, or what
            `structure_graph` has made of one.
        restart: Which restart of a fit; default the first.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: If the graph cannot be had (`structure_graph`), or the format of the path is unknown.
    """
    check_path(path)
    graph = of if isinstance(of, nx.DiGraph) else structure_graph(of, restart)
    layers: dict[int, list[Any]] = {}
    for vertex, layer in sorted(graph.nodes(data="layer")):
        if layer is None:
            raise ValueError(f"vertex {vertex!r} has no layer: give the graph that structure_graph or layered makes")
        layers.setdefault(layer, []).append(vertex)
    largest = max(len(vertices) for vertices in layers.values())
    places = {
        vertex: (float(layer), (largest / len(vertices)) ** SPREAD * ((len(vertices) - 1) / 2.0 - number))
        for layer, vertices in layers.items()
        for number, vertex in enumerate(vertices)
    }
    probabilities = [p for *_, p in graph.edges(data="probability", default=1.0)]
    are_sure = all(p in (0.0, 1.0) for p in probabilities)
    there = f"{sum(probabilities):,.0f}" if are_sure else f"{sum(probabilities):,.1f}"
    title = (
        f"Structure: {len(graph):,} vertices in {len(layers):,} layers, {there} of {len(probabilities):,} edges"
        f"{'' if are_sure else ' in the mean'}"
    )
    panel = (min(10.0, max(3.4, 0.8 * len(layers) + 1.0)), min(6.0, max(2.6, 0.07 * largest)))
    with styled():
        figure, (axis,) = new_figure(1, 1, title, panel)
        for skips in KINDS:
            _edges(axis, graph, places, skips)
        spots = np.array(list(places.values()))
        axis.scatter(spots[:, 0], spots[:, 1], s=max(2.0, 22.0 - 0.2 * largest), color="black", zorder=3, linewidths=0)
        axis.set_xlabel("layer")
        axis.locator_params(axis="x", integer=True, nbins=min(len(layers) + 1, 12), min_n_ticks=1)
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        axis.margins(0.04)
        legend_below(axis)
        return finished(figure, path)


def _edges(axis: Any, graph: nx.DiGraph, places: dict[Any, tuple[float, float]], skips: bool) -> None:
    """The edges to the next layer, or those that skip one."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba

    label, colour = KINDS[skips]
    lines, colours = [], []
    for begin, end, probability in graph.edges(data="probability", default=1.0):
        start, stop = np.array(places[begin]), np.array(places[end])
        if (stop[0] - start[0] > 1.0) != skips:
            continue
        along = np.linspace(0.0, 1.0, BENDS if skips else 2)[:, None]
        line = start + along * (stop - start)
        if skips:
            line[:, 1] += BEND * np.sqrt(stop[0] - start[0]) * np.sin(np.pi * along[:, 0])
        lines.append(line)
        colours.append(to_rgba(colour, FAINTEST + (1.0 - FAINTEST) * probability))
    if lines:
        axis.add_collection(LineCollection(lines, colors=colours, linewidths=0.8))
        axis.plot([], [], color=colour, label=label)
        axis.update_datalim(np.concatenate(lines))
