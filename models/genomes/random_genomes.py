"""Random genomes: a random graph, made acyclic by its numbers, with an operation and a width at each vertex."""

from __future__ import annotations

import random
from collections.abc import Callable

import networkx as nx

from bayesprune.models.genomes.genome import Genome
from bayesprune.models.genomes.operations import KINDS, OPERATIONS, kind_of, kind_of_inputs
from bayesprune.models.genomes.search_space import SearchSpace

__all__ = ["RANDOM_GRAPHS", "operation_for", "random_genome"]

_TRIES = 1000


def _erdos_renyi(vertices: int, rng: random.Random) -> nx.Graph:
    return nx.gnp_random_graph(vertices, rng.uniform(0.2, 0.7), seed=rng.randrange(2**32))


def _watts_strogatz(vertices: int, rng: random.Random) -> nx.Graph:
    neighbours = rng.choice([2, 4]) if vertices > 4 else 2
    if vertices <= neighbours:
        return nx.path_graph(vertices)
    return nx.watts_strogatz_graph(vertices, neighbours, rng.random(), seed=rng.randrange(2**32))


RANDOM_GRAPHS: dict[str, Callable[[int, random.Random], nx.Graph]] = {
    "erdos-renyi": _erdos_renyi,
    "watts-strogatz": _watts_strogatz,
}
"""Random graphs of so many vertices, by name."""


def random_genome(space: SearchSpace, rng: random.Random, graphs: str | None = None) -> Genome:
    """Draws a genome of a space, pruned: vertices and graph, then operations that can read what they are given.

    Vertices without an edge to them read the input, those without one from them lead to the output.

    Args:
        space: The space.
        rng: Random numbers.
        graphs: A name in `RANDOM_GRAPHS`; default None: one of them by chance.

    Raises:
        ValueError: If nothing of the space is found, or the name is unknown.
    """
    if graphs is not None and graphs not in RANDOM_GRAPHS:
        raise ValueError(f"random graphs {graphs!r} are unknown: expected one of {', '.join(RANDOM_GRAPHS)}")
    for _ in range(_TRIES):
        vertices = rng.randint(1, min(space.most_vertices, space.most_edges - 1))  # a chain has one edge more
        graph = RANDOM_GRAPHS[graphs or rng.choice(list(RANDOM_GRAPHS))](vertices, rng)
        edges = {(begin + 1, end + 1) for begin, end in (sorted(edge) for edge in graph.edges())}
        sources = set(range(1, vertices + 1)) - {end for _, end in edges}
        sinks = set(range(1, vertices + 1)) - {begin for begin, _ in edges}
        edges |= {(0, source) for source in sources} | {(sink, vertices + 1) for sink in sinks}
        if len(edges) > space.most_edges:
            continue
        kinds: list[str] = [kind_of_inputs(space.input_shape)]
        names: list[str] = []
        for vertex in range(1, vertices + 1):
            given = [kinds[begin] for begin, end in edges if end == vertex]
            name = operation_for(given, space, rng)
            if name is None:
                break
            names.append(name)
            kinds.append(kind_of(name, given) or KINDS[0])
        if len(names) == vertices:
            widths = tuple(rng.choice(space.widths) if OPERATIONS[name].has_width else 0 for name in names)
            genome = Genome(tuple(names), widths, tuple(edges)).pruned()
            if space.allows(genome):
                return genome
    raise ValueError(
        f"no genome of the search space was found in {_TRIES} draws: allow more edges, more parameters or less width"
    )


def operation_for(given: list[str], space: SearchSpace, rng: random.Random) -> str | None:
    """An operation of the space that can read values of these kinds, by chance; None where there is none."""
    possible = [name for name in space.names if kind_of(name, given) is not None]
    return rng.choice(possible) if possible else None
