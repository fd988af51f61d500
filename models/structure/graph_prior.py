"""Distributions over graphs, for Pyro: values are adjacency matrices, which `layered` takes as they are."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import networkx as nx
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from bayesprune.models.checks.given_numbers import whole_number

__all__ = ["DRAWS", "AnyGraph", "GraphPrior", "adjacency_of"]

DRAWS = 2000
"""Graphs that are drawn for frequencies of edges."""


class GraphPrior(TorchDistribution):
    """Base of distributions over graphs of so many vertices: override `draw`, and what is known of its probabilities.

    Values are `(vertices, vertices)` of torch's default precision: one at [i, j], i < j, where there is an edge. Their
    log probabilities are in nats, float64. It has no parameters; `expand` repeats it for plates.

    Args:
        vertices: Number of vertices.
        connected: Whether graphs of several parts are drawn again, so that it is the distribution given that there is
            one part; default False.
        tries: How often, at most; default 100.

    Raises:
        ValueError: If there are fewer than two vertices, or no try.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.boolean, 2)
    has_rsample = False

    def __init__(self, vertices: int, connected: bool = False, tries: int = 100) -> None:
        kind = type(self).__name__
        self.vertices = whole_number(f"{kind}(vertices=...)", vertices, 2)
        self.connected, self.tries = connected, whole_number(f"{kind}(tries=...)", tries)
        super().__init__(torch.Size(), torch.Size((self.vertices, self.vertices)), validate_args=False)

    @abstractmethod
    def draw(self, seed: int) -> nx.Graph:
        """One graph with vertices 0, 1, ..., connected or not.

        Args:
            seed: From 0 to 2^31 - 2.
        """

    def graph(self) -> nx.Graph:
        """Draws one as a graph of networkx, undirected, whose vertices 0, 1, ... are in order.

        Raises:
            ValueError: If it has another number of vertices, or `tries` draws were all of several parts.
        """
        for _ in range(self.tries if self.connected else 1):
            drawn = self.draw(int(torch.randint(2**31 - 1, (), device="cpu")))
            if not isinstance(drawn, nx.Graph) or sorted(drawn) != list(range(self.vertices)):
                raise ValueError(
                    f"{self} drew something else than a graph of networkx with vertices 0 to {self.vertices - 1}: give "
                    "vertices= of the generator, and nx.convert_node_labels_to_integers(...) of its graphs"
                )
            found = nx.Graph()
            found.add_nodes_from(range(self.vertices))
            found.add_edges_from(sorted((min(edge), max(edge)) for edge in drawn.edges() if edge[0] != edge[1]))
            if not self.connected or nx.is_connected(found):
                return found
        raise ValueError(
            f"{self} drew {self.tries} graphs, each of several parts: make it denser, or give connected=False"
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Adjacency matrices, `(*sample_shape, *batch_shape, vertices, vertices)`."""
        shape = torch.Size(sample_shape) + self.batch_shape
        drawn = [adjacency_of(self.graph(), self.vertices) for _ in range(shape.numel())]
        stacked = torch.stack(drawn) if drawn else torch.zeros(0, *self.event_shape, device="cpu")
        return stacked.reshape(shape + self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GraphPrior:
        """The same, for each place of a batch by itself."""
        made: GraphPrior = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        made._batch_shape = torch.Size(batch_shape)
        return made

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of graphs in nats, float64, of shape `value.shape[:-2]`.

        Args:
            value: Adjacency matrices, `(..., vertices, vertices)`.

        Raises:
            ValueError: In one sentence, if it has no closed form, or the values are no such matrices.
        """
        reason = self._why_no_log_prob()
        if reason:
            raise ValueError(f"{self} has no log_prob: {reason}")
        graphs = self._checked(value).reshape(-1, *self.event_shape)
        flat = [self._log_prob_of(one) if not self.connected or _is_connected(one) else _nowhere() for one in graphs]
        found = torch.stack(flat) if flat else torch.zeros(0, dtype=torch.float64)
        return found.reshape(value.shape[:-2]).expand(torch.broadcast_shapes(value.shape[:-2], self.batch_shape))

    def edge_probabilities(self, draws: int = DRAWS) -> Tensor:
        """Marginal probability of each edge, float64, `(vertices, vertices)`, at [i, j], i < j.

        Here by frequencies in draws, whose standard error is at most 0.5 / sqrt(draws); subclasses have what is known.

        Args:
            draws: How many graphs are drawn where it is not known; default 2,000.
        """
        found = torch.zeros(self.event_shape, dtype=torch.float64)
        for _ in range(draws):
            for begin, end in self.graph().edges():
                found[begin, end] += 1.0
        return found / draws

    def _why_no_log_prob(self) -> str:
        """The reason for which it has none, or nothing."""
        return "its generator does not say how probable a graph is"

    def _log_prob_of(self, adjacency: Tensor) -> Tensor:
        """Of one graph, in nats, as a scalar of float64."""
        raise NotImplementedError

    def _checked(self, value: Tensor) -> Tensor:
        if value.shape[-2:] != self.event_shape or bool(((value != 0) & (value != 1)).any()):
            raise ValueError(
                f"{self} has values of zeros and ones, (..., {self.vertices}, {self.vertices}), and got "
                f"{tuple(value.shape)}: give adjacency matrices"
            )
        if bool((value.tril() != 0).any()):
            raise ValueError(f"{self} has edges at [i, j] with i < j only: give adjacency.triu(1)")
        return value

    def __str__(self) -> str:
        return f"{type(self).__name__}(vertices={self.vertices})"


class AnyGraph(GraphPrior):
    """The graphs of any generator, such as ``AnyGraph(lambda seed: nx.random_labeled_tree(20, seed=seed))``.

    Args:
        generator: Takes a seed, and returns a graph of networkx whose vertices are 0, 1, ...; loops are left out, and
            directions too.
        vertices: Number of vertices; default None: that of the graph with seed 0.
        connected: Whether graphs of several parts are drawn again; default True.
        tries: How often, at most; default 100.

    Raises:
        ValueError: If the generator is no callable, or returns no graph.
    """

    def __init__(
        self,
        generator: Callable[[int], nx.Graph],
        vertices: int | None = None,
        connected: bool = True,
        tries: int = 100,
    ) -> None:
        first = generator(0) if callable(generator) and vertices is None else ()
        if not callable(generator) or (vertices is None and not isinstance(first, nx.Graph)):
            raise ValueError(
                "AnyGraph takes what makes a graph of networkx of a seed: write for example "
                "AnyGraph(lambda seed: nx.random_labeled_tree(20, seed=seed))"
            )
        super().__init__(len(first) if vertices is None else vertices, connected, tries)
        self.generator = generator

    def draw(self, seed: int) -> nx.Graph:
        """See `GraphPrior`."""
        return self.generator(seed)


def adjacency_of(graph: nx.Graph, vertices: int) -> Tensor:
    """Ones at [i, j], i < j, `(vertices, vertices)`, on the CPU whatever device is the default.

    Args:
        graph: An undirected graph with vertices 0, 1, ...
        vertices: How many.
    """
    found = torch.zeros(vertices, vertices, device="cpu")
    pairs = [(min(edge), max(edge)) for edge in graph.edges()]
    if pairs:
        rows, columns = torch.tensor(pairs, device="cpu").T
        found[rows, columns] = 1.0
    return found


def _is_connected(adjacency: Tensor) -> bool:
    return bool(nx.is_connected(nx.from_numpy_array((adjacency != 0).cpu().numpy())))


def _nowhere() -> Tensor:
    return torch.tensor(-math.inf, dtype=torch.float64)
