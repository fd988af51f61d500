"""The random graphs of network theory as priors: drawn by networkx, with probabilities that are exact, or none.

Seeds come from torch's global generator, so that `pyro.set_rng_seed` brings a graph again. An edge goes from the vertex
with the lower number to the other one.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import networkx as nx
import torch
from torch import Tensor

from bayesprune.models.checks.given_numbers import real_number, whole_number
from bayesprune.models.structure.barabasi_albert import MOST_EDGES_EACH, log_attachment
from bayesprune.models.structure.connected_graphs import connected_probability
from bayesprune.models.structure.graph_prior import DRAWS, GraphPrior, adjacency_of

__all__ = [
    "STARTS",
    "BarabasiAlbert",
    "ErdosRenyi",
    "GivenEdges",
    "NewmanWattsStrogatz",
    "WattsStrogatz",
]

STARTS = ("hub-last", "hub-first")
"""Of Barabasi and Albert's graphs: which vertex of the first star has all its edges."""


class ErdosRenyi(GraphPrior):
    """Each edge by itself with one probability (Gilbert 1959; Erdos and Renyi 1959).

    Given that the graph is connected, probabilities are exact too: divided by P(connected).

    Args:
        vertices: Number of vertices.
        probability: Of each edge, from 0 to 1; a tensor of one number lets log_prob pass gradients to it.
        connected: Whether graphs of several parts are drawn again; default False.
        tries: How often, at most; default 100.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(self, vertices: int, probability: float | Tensor, connected: bool = False, tries: int = 100) -> None:
        super().__init__(vertices, connected, tries)
        _require_share("ErdosRenyi(probability=...)", probability)
        self.probability = probability

    def draw(self, seed: int) -> nx.Graph:
        """See `GraphPrior`."""
        return nx.gnp_random_graph(self.vertices, float(self.probability), seed)

    def edge_probabilities(self, draws: int = DRAWS) -> Tensor:
        """Exact; see `GraphPrior`."""
        p = float(self.probability)
        if not self.connected or not 0.0 < p < 1.0:
            return _everywhere(self.vertices, p)
        # E[edges | connected] = pairs p + p (1 - p) d/dp log P(connected), and all edges are alike
        return _everywhere(
            self.vertices, p + p * (1.0 - p) * connected_probability(self.vertices, p)[1] / _pairs(self.vertices)
        )

    def _why_no_log_prob(self) -> str:
        if self.connected and isinstance(self.probability, Tensor):
            return "P(connected) passes no gradient to the probability, so give it as a number, or connected=False"
        return ""

    def _log_prob_of(self, adjacency: Tensor) -> Tensor:
        p = torch.as_tensor(self.probability, dtype=torch.float64)
        edges = adjacency.sum().to(torch.float64)
        found = torch.xlogy(edges, p) + torch.special.xlog1py(_pairs(self.vertices) - edges, -p)
        if self.connected and 0.0 < float(p) < 1.0:
            found = found - connected_probability(self.vertices, float(p))[0]
        return found

    def __str__(self) -> str:
        return _named(self, vertices=self.vertices, probability=float(self.probability))


class GivenEdges(GraphPrior):
    """All graphs with so many edges alike (Erdos and Renyi 1959): `ErdosRenyi` with the edges of another graph.

    Args:
        vertices: Number of vertices.
        edges: Number of edges.
        connected: Whether graphs of several parts are drawn again; default False.
        tries: How often, at most; default 100.

    Raises:
        ValueError: If there are more edges than pairs of vertices, or a number is out of its range.
    """

    def __init__(self, vertices: int, edges: int, connected: bool = False, tries: int = 100) -> None:
        super().__init__(vertices, connected, tries)
        self.edges, pairs = whole_number("GivenEdges(edges=...)", edges), _pairs(self.vertices)
        if self.edges > pairs:
            raise ValueError(
                f"GivenEdges(edges={edges}) is more than the {pairs} pairs of {vertices} vertices: give fewer edges"
            )

    def draw(self, seed: int) -> nx.Graph:
        """See `GraphPrior`."""
        return nx.gnm_random_graph(self.vertices, self.edges, seed)

    def edge_probabilities(self, draws: int = DRAWS) -> Tensor:
        """Exact, connected or not, as all edges are alike; see `GraphPrior`."""
        return _everywhere(self.vertices, self.edges / _pairs(self.vertices))

    def _why_no_log_prob(self) -> str:
        return "connected graphs of so many edges are not counted, so give connected=False" if self.connected else ""

    def _log_prob_of(self, adjacency: Tensor) -> Tensor:
        right = int(adjacency.sum()) == self.edges
        found = -math.log(math.comb(_pairs(self.vertices), self.edges)) if right else -math.inf
        return torch.tensor(found, dtype=torch.float64)

    def __str__(self) -> str:
        return _named(self, vertices=self.vertices, edges=self.edges)


class BarabasiAlbert(GraphPrior):
    """Growth with preferential attachment: each new vertex gets edges to so many earlier ones (Barabasi, Albert 1999).

    It begins with a star of `edges_each` + 1 vertices, whose hub is the last of them (which is what networkx did up to
    version 2.5: all the others are then sources of the acyclic graph) or the first (as networkx does now: it is the
    only source). It is connected always. Vertices come in their order, so that the probability of a graph is exact:
    that of the edges of each new vertex, given the graph before it.

    Args:
        vertices: Number of vertices.
        edges_each: Edges of each new vertex, fewer than vertices.
        start: ``"hub-last"`` (default) or ``"hub-first"``.

    Raises:
        ValueError: If a number is out of its range, or the start is none of them.
    """

    def __init__(self, vertices: int, edges_each: int, start: Literal["hub-last", "hub-first"] = "hub-last") -> None:
        super().__init__(vertices)
        self.edges_each = whole_number("BarabasiAlbert(edges_each=...)", edges_each)
        if edges_each >= vertices:
            raise ValueError(
                f"BarabasiAlbert(edges_each={edges_each}) needs more than {vertices} vertices: a new one has edges to "
                "earlier ones only, so give fewer"
            )
        if start not in STARTS:
            raise ValueError(f"BarabasiAlbert(start=...) takes one of {', '.join(STARTS)}, not {start!r}")
        self.start = start

    def draw(self, seed: int) -> nx.Graph:
        """See `GraphPrior`."""
        return nx.barabasi_albert_graph(self.vertices, self.edges_each, seed, initial_graph=self._star())

    def _star(self) -> nx.Graph:
        found, hub = nx.Graph(), self.edges_each if self.start == "hub-last" else 0
        found.add_nodes_from(range(self.edges_each + 1))
        found.add_edges_from((hub, other) for other in range(self.edges_each + 1) if other != hub)
        return found

    def _why_no_log_prob(self) -> str:
        if self.edges_each > MOST_EDGES_EACH:
            return f"it sums over the orders of the edges of a vertex, of which it takes at most {MOST_EDGES_EACH}"
        return ""

    def _log_prob_of(self, adjacency: Tensor) -> Tensor:
        first = self.edges_each + 1
        star = adjacency_of(self._star(), first).to(adjacency)
        if not bool((adjacency[:first, :first] == star).all()):
            return torch.tensor(-math.inf, dtype=torch.float64)
        return log_attachment(adjacency.cpu(), self.edges_each)

    def __str__(self) -> str:
        return _named(self, vertices=self.vertices, edges_each=self.edges_each, start=self.start)


class WattsStrogatz(GraphPrior):
    """A ring in which some edges are led elsewhere: a small world (Watts and Strogatz 1998).

    Each vertex has edges to its `neighbours` // 2 next ones on either side; each of them keeps its first end, and gets
    another second one with probability `rewiring`: 0.1 to 0.3 is a small world, 1 an almost random graph.

    Args:
        vertices: Number of vertices.
        neighbours: Edges of a vertex on the ring, at least 2 and fewer than vertices; odd ones count as one fewer.
        rewiring: Probability for each edge, from 0 to 1.
        tries: How often a graph of several parts is drawn again, at most; default 100.
        connected: Whether it is; default True.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self, vertices: int, neighbours: int, rewiring: float, tries: int = 100, connected: bool = True
    ) -> None:
        super().__init__(vertices, connected, tries)
        self.neighbours = whole_number(f"{type(self).__name__}(neighbours=...)", neighbours, 2)
        if neighbours >= vertices:
            raise ValueError(
                f"{type(self).__name__}(neighbours={neighbours}) needs more than {neighbours} vertices, and there are "
                f"{vertices}: give fewer neighbours"
            )
        self.rewiring = _require_share(f"{type(self).__name__}(rewiring=...)", rewiring)

    def draw(self, seed: int) -> nx.Graph:
        """See `GraphPrior`."""
        return nx.watts_strogatz_graph(self.vertices, self.neighbours, self.rewiring, seed)

    def edge_probabilities(self, draws: int = DRAWS) -> Tensor:
        """By the distance of two vertices on the ring: frequencies in draws, over all pairs of one distance.

        Edges are led elsewhere in the order of vertices, so that pairs of one distance differ, by a few thousandths in
        small graphs; their mean is what is returned. Without rewiring it is exact.

        Args:
            draws: How many graphs are drawn; default 2,000.
        """
        places = torch.arange(self.vertices)
        apart = (places[:, None] - places[None]).abs()
        distance = torch.minimum(apart, self.vertices - apart)
        drawn = super().edge_probabilities(1 if self.rewiring == 0.0 else draws)
        sums = torch.zeros(self.vertices, dtype=torch.float64)
        numbers = sums.clone()
        pairs = torch.ones_like(drawn).triu(1).bool()
        sums.index_add_(0, distance[pairs], drawn[pairs])
        numbers.index_add_(0, distance[pairs], torch.ones_like(drawn[pairs]))
        return ((sums / numbers.clamp_min(1.0))[distance]).triu(1)

    def _why_no_log_prob(self) -> str:
        return "which edge of the ring was led where is not seen in a graph, and the ways to it are not summed"

    def __str__(self) -> str:
        return _named(self, vertices=self.vertices, neighbours=self.neighbours, rewiring=self.rewiring)


class NewmanWattsStrogatz(WattsStrogatz):
    """As `WattsStrogatz`, with edges added in place of led elsewhere: the ring stays (Newman and Watts 1999).

    Args:
        vertices: Number of vertices.
        neighbours: Edges of a vertex on the ring, at least 2 and fewer than vertices; odd ones count as one fewer.
        rewiring: Probability of a further edge, for each edge of the ring, from 0 to 1.
        tries: Of no account, as it is connected always; default 100.
        connected: Likewise; default True.

    Raises:
        ValueError: If a number is out of its range.
    """

    def draw(self, seed: int) -> nx.Graph:
        """See `GraphPrior`."""
        return nx.newman_watts_strogatz_graph(self.vertices, self.neighbours, self.rewiring, seed)


def _pairs(vertices: int) -> int:
    return vertices * (vertices - 1) // 2


def _everywhere(vertices: int, probability: float) -> Tensor:
    """One probability for all edges."""
    return torch.ones(vertices, vertices, dtype=torch.float64).triu(1) * probability


def _named(prior: GraphPrior, **settings: Any) -> str:
    listed = ", ".join(f"{key}={value!r}" for key, value in settings.items())
    return f"{type(prior).__name__}({listed})"


def _require_share(name: str, value: Any) -> float:
    found = float(real_number(name, value))
    if not 0.0 <= found <= 1.0:
        raise ValueError(f"{name} takes a probability, from 0 to 1, not {found}")
    return found
