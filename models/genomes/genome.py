"""Genomes: networks as acyclic graphs of operations, which a search changes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import networkx as nx

from bayesprune.models.checks.size_bounds import checked_count
from bayesprune.models.genomes.operations import OPERATIONS, kind_of, kind_of_inputs

__all__ = ["MOST_EDGES", "MOST_VERTICES", "WIDEST_VERTEX", "Genome"]

MOST_VERTICES, MOST_EDGES, WIDEST_VERTEX = 200, 2000, 2**16
"""Of a genome, whoever wrote it."""


@dataclass(frozen=True)
class Genome:
    """An acyclic graph of operations from an input to an output.

    Vertex 0 is the input, vertices 1, 2, ... have an operation each, and the last one is the output. Edges go from
    lower to higher numbers: the adjacency matrix is upper triangular. Vertices that lie on no path from input to
    output may be there; networks leave them out (`pruned`).

    Args:
        operations: Names in `OPERATIONS`, of vertices 1, 2, ...
        widths: Channels or units that these make, one each; 0 where the operation has no width.
        edges: Pairs (from, to); they are kept sorted, each once.

    Raises:
        ValueError: In one sentence, if an operation is unknown, a width is none, or an edge leads backwards or to no
            vertex.
    """

    operations: tuple[str, ...]
    widths: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        operations, widths = tuple(self.operations), tuple(self.widths)
        if len(operations) > MOST_VERTICES or len(self.edges) > MOST_EDGES:
            raise ValueError(f"a genome has at most {MOST_VERTICES} vertices and {MOST_EDGES} edges: leave some out")
        if unknown := [name for name in operations if not isinstance(name, str) or name not in OPERATIONS]:
            raise ValueError(f"operation {unknown[0]!r:.80} is unknown: expected one of {', '.join(OPERATIONS)}")
        if len(widths) != len(operations):
            raise ValueError(f"a genome of {len(operations)} operations has {len(widths)} widths: give one each")
        for name, width in zip(operations, widths, strict=True):
            if OPERATIONS[name].has_width:
                checked_count(width, f"the width of a vertex {name}", WIDEST_VERTEX)
        edges = tuple(sorted({(begin, end) for begin, end in self.edges}))
        for begin, end in edges:
            if not 0 <= begin < end <= len(operations) + 1:
                raise ValueError(
                    f"a genome has the edge {begin} -> {end}, but edges go from lower to higher numbers among "
                    f"0 to {len(operations) + 1}: number its vertices in the order in which they are reached"
                )
        kept = tuple(width if OPERATIONS[name].has_width else 0 for name, width in zip(operations, widths, strict=True))
        for name, value in (("operations", operations), ("widths", kept), ("edges", edges)):
            object.__setattr__(self, name, value)

    @property
    def vertices(self) -> int:
        """Vertices with an operation."""
        return len(self.operations)

    @property
    def output(self) -> int:
        """Number of the output."""
        return len(self.operations) + 1

    @functools.cached_property
    def inputs(self) -> tuple[tuple[int, ...], ...]:
        """The vertices from which an edge leads to each, input and output among them, sorted."""
        found: list[list[int]] = [[] for _ in range(self.output + 1)]
        for begin, end in self.edges:
            found[end].append(begin)
        return tuple(map(tuple, found))

    @functools.cached_property
    def active(self) -> tuple[int, ...]:
        """Vertices with an operation that lie on a path from input to output, sorted."""
        reached, needed = {0}, {self.output}
        for begin, end in self.edges:  # sorted by their beginning, so that it is known by then whether it is reached
            if begin in reached:
                reached.add(end)
        for begin, end in sorted(self.edges, key=lambda edge: -edge[1]):
            if end in needed:
                needed.add(begin)
        return tuple(vertex for vertex in range(1, self.output) if vertex in reached and vertex in needed)

    @property
    def has_path(self) -> bool:
        """Whether a path leads from input to output."""
        return bool(self.active) or (0, self.output) in self.edges

    def pruned(self) -> Genome:
        """The genome of the vertices that lie on a path from input to output, numbered anew in their order."""
        return self.without(set(range(1, self.output)) - set(self.active))

    def without(self, vertices: Iterable[int]) -> Genome:
        """The genome less some vertices and their edges."""
        gone = set(vertices)
        left = [vertex for vertex in range(1, self.output) if vertex not in gone]
        number = {0: 0, **{vertex: place for place, vertex in enumerate(left, start=1)}, self.output: len(left) + 1}
        return Genome(
            tuple(self.operations[vertex - 1] for vertex in left),
            tuple(self.widths[vertex - 1] for vertex in left),
            tuple((number[begin], number[end]) for begin, end in self.edges if begin in number and end in number),
        )

    def kinds(self, input_shape: tuple[int, ...]) -> dict[int, str | None]:
        """The kind of values that each vertex of the pruned genome makes (`KINDS`), the input's by 0.

        Args:
            input_shape: Of one input.

        Returns:
            By number in the genome itself; None for a vertex that cannot read what it is given, and for those after it.
        """
        found: dict[int, str | None] = {0: kind_of_inputs(input_shape)}
        for vertex in self.active:
            given = [found[begin] for begin in self.inputs[vertex] if begin in found]
            known = [kind for kind in given if kind is not None]
            found[vertex] = kind_of(self.operations[vertex - 1], known) if len(known) == len(given) else None
        return found

    @functools.cached_property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that are those of every genome with the same network, however it is numbered.

        That of Weisfeiler and Lehman on the pruned graph, with operations and widths, edges to and from a vertex apart,
        as that of NAS-Bench-101 (Ying et al., arXiv:1902.09635). Genomes that are no isomorphic graphs have
        different ones unless colours of vertices cannot tell them apart, which small acyclic graphs make rare.
        """
        graph = self.pruned()
        labels = ["input", *(f"{name} {width}" for name, width in zip(graph.operations, graph.widths, strict=True))]
        colours = [_digest(label) for label in [*labels, "output"]]
        outputs: list[list[int]] = [[] for _ in colours]
        for begin, end in graph.edges:
            outputs[begin].append(end)
        for _ in colours:
            colours = [
                _digest(
                    colours[vertex],
                    "from", *sorted(colours[one] for one in graph.inputs[vertex]),
                    "to", *sorted(colours[one] for one in outputs[vertex]),
                )
                for vertex in range(len(colours))
            ]  # fmt: skip
        return _digest(*sorted(colours))

    def graph(self) -> nx.DiGraph:
        """The genome as a graph of networkx, each vertex with its ``operation`` and ``width``."""
        made = nx.DiGraph()
        made.add_node(0, operation="input", width=0)
        for vertex, (name, width) in enumerate(zip(self.operations, self.widths, strict=True), start=1):
            made.add_node(vertex, operation=name, width=width)
        made.add_node(self.output, operation="output", width=0)
        made.add_edges_from(self.edges)
        return made

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON holds it."""
        return {
            "operations": list(self.operations),
            "widths": list(self.widths),
            "edges": [list(edge) for edge in self.edges],
        }

    @staticmethod
    def from_dict(found: Any) -> Genome:
        """Makes it of what `as_dict` returned, whoever wrote it.

        Args:
            found: What JSON holds.

        Raises:
            ValueError: In one sentence, if it is something else.
        """
        if not isinstance(found, Mapping) or set(found) != {"operations", "widths", "edges"}:
            raise ValueError("a genome is no object of operations, widths and edges: write one as Genome.as_dict does")
        parts = {name: found[name] for name in ("operations", "widths", "edges")}
        if not all(isinstance(part, (list, tuple)) and len(part) <= MOST_EDGES for part in parts.values()):
            raise ValueError(f"operations, widths and edges of a genome are lists of at most {MOST_EDGES} each")
        if not all(
            isinstance(edge, (list, tuple)) and len(edge) == 2 and all(type(end) is int for end in edge)
            for edge in parts["edges"]
        ):
            raise ValueError("the edges of a genome are pairs of whole numbers: write [from, to] for each")
        return Genome(
            tuple(parts["operations"]), tuple(parts["widths"]), tuple((edge[0], edge[1]) for edge in parts["edges"])
        )


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()
