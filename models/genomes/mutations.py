"""Mutations: small changes of a genome, after pygarn's operations on graphs and those of NAS-Bench-101's evolution."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from bayesprune.models.genomes.genome import Genome
from bayesprune.models.genomes.operations import OPERATIONS
from bayesprune.models.genomes.search_space import SearchSpace

__all__ = ["MUTATIONS", "mutated"]

Mutation = Callable[[Genome, SearchSpace, random.Random], Genome]
_Value = TypeVar("_Value")
_TRIES = 200


def add_vertex(genome: Genome, space: SearchSpace, rng: random.Random) -> Genome:
    """A vertex more, between one to two vertices before it and one to two after it."""
    place = rng.randint(1, genome.output)  # its number
    name = rng.choice(space.names)
    edges = [(_moved(begin, place), _moved(end, place)) for begin, end in genome.edges]
    before, after = range(place), range(place + 1, genome.output + 2)
    edges += [(begin, place) for begin in rng.sample(before, min(len(before), rng.randint(1, 2)))]
    edges += [(place, end) for end in rng.sample(after, min(len(after), rng.randint(1, 2)))]
    return Genome(
        _inserted(genome.operations, place, name), _inserted(genome.widths, place, rng.choice(space.widths)),
        tuple(edges),
    )  # fmt: skip


def remove_vertex(genome: Genome, space: SearchSpace, rng: random.Random) -> Genome:
    """A vertex less, with its edges."""
    return genome.without([rng.randint(1, genome.vertices)])


def contract_edge(genome: Genome, space: SearchSpace, rng: random.Random) -> Genome:
    """The two vertices of an edge become one, which has the edges of both and the operation of one of them."""
    inner = [edge for edge in genome.edges if edge[0] > 0 and edge[1] < genome.output]
    if not inner:
        return genome
    kept, gone = rng.sample(rng.choice(inner), 2)
    moved = [(kept if begin == gone else begin, kept if end == gone else end) for begin, end in genome.edges]
    # Where another path joins the two, the one vertex would stand before and after it: those edges are turned.
    edges = {(min(edge), max(edge)) for edge in moved if edge[0] != edge[1]}
    return Genome(genome.operations, genome.widths, tuple(edges)).without([gone])


def duplicate_vertex(genome: Genome, space: SearchSpace, rng: random.Random) -> Genome:
    """A vertex twice: another one beside it, with the same edges, operation and width."""
    twin = rng.randint(1, genome.vertices)
    place = twin + 1
    edges = [(_moved(begin, place), _moved(end, place)) for begin, end in genome.edges]
    edges += [(begin, place) for begin, end in edges if end == twin]
    edges += [(place, end) for begin, end in edges if begin == twin]
    return Genome(
        _inserted(genome.operations, place, genome.operations[twin - 1]),
        _inserted(genome.widths, place, genome.widths[twin - 1]),
        tuple(edges),
    )


def rewire_edge(genome: Genome, space: SearchSpace, rng: random.Random) -> Genome:
    """One end of an edge leads elsewhere, or an edge is added or removed."""
    edges = set(genome.edges)
    every = [(begin, end) for end in range(1, genome.output + 1) for begin in range(end)]
    what = rng.choice(("move", "add", "remove"))
    if what != "add":
        begin, end = rng.choice(genome.edges)
        edges.discard((begin, end))
        if what == "move":
            ends = [edge for edge in every if edge not in genome.edges and (edge[0] == begin or edge[1] == end)]
            edges |= {rng.choice(ends)} if ends else {(begin, end)}
    else:
        absent = [edge for edge in every if edge not in edges]
        edges |= {rng.choice(absent)} if absent else set()
    return Genome(genome.operations, genome.widths, tuple(edges))


def change_operation(genome: Genome, space: SearchSpace, rng: random.Random) -> Genome:
    """Another operation at a vertex; its width, where it had none, by chance."""
    at = rng.randrange(genome.vertices)
    others = [name for name in space.names if name != genome.operations[at]]
    if not others:
        return genome
    width = genome.widths[at] or rng.choice(space.widths)
    return Genome(_set(genome.operations, at, rng.choice(others)), _set(genome.widths, at, width), genome.edges)


def change_width(genome: Genome, space: SearchSpace, rng: random.Random) -> Genome:
    """Another width at a vertex."""
    wide = [at for at, name in enumerate(genome.operations) if OPERATIONS[name].has_width]
    if not wide:
        return genome
    at = rng.choice(wide)
    others = [width for width in space.widths if width != genome.widths[at]]
    return Genome(genome.operations, _set(genome.widths, at, rng.choice(others)), genome.edges) if others else genome


MUTATIONS: dict[str, Mutation] = {
    "add vertex": add_vertex,
    "remove vertex": remove_vertex,
    "contract edge": contract_edge,
    "duplicate vertex": duplicate_vertex,
    "rewire edge": rewire_edge,
    "change operation": change_operation,
    "change width": change_width,
}
"""Mutations by name. Each returns a genome, which the space may refuse; the same one where nothing can be changed."""


def mutated(genome: Genome, space: SearchSpace, rng: random.Random) -> tuple[Genome, str] | None:
    """A genome of the space that one mutation makes of another, pruned, and the name of the mutation.

    Mutations are drawn until the space allows what comes out and its network is another one.

    Args:
        genome: The genome; of the space, pruned.
        space: The space.
        rng: Random numbers.

    Returns:
        Both; None where nothing was found in 200 draws.
    """
    for _ in range(_TRIES):
        name = rng.choice(list(MUTATIONS))
        child = MUTATIONS[name](genome, space, rng).pruned()
        if child.hash != genome.hash and space.allows(child):
            return child, name
    return None


def _moved(vertex: int, place: int) -> int:
    """The number of a vertex once one has been put at a place."""
    return vertex + (vertex >= place)


def _inserted(values: tuple[_Value, ...], place: int, value: _Value) -> tuple[_Value, ...]:
    return (*values[: place - 1], value, *values[place - 1 :])


def _set(values: tuple[_Value, ...], at: int, value: _Value) -> tuple[_Value, ...]:
    return (*values[:at], value, *values[at + 1 :])
