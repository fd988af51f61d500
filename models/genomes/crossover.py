"""Crossover: a genome of two others, by a cut through their layers or row by row of their adjacency matrices."""

from __future__ import annotations

import random

from bayesprune.models.genomes.genome import Genome
from bayesprune.models.genomes.search_space import SearchSpace

__all__ = ["by_cut", "by_rows", "crossed"]

_TRIES = 100


def by_cut(first: Genome, second: Genome, rng: random.Random) -> Genome:
    """What one genome has before a cut, and the other after it.

    Edges of the second that cross its cut come from a vertex of the first, by chance; vertices of the first whose edges
    are all cut lead to a vertex behind it.

    Args:
        first: The genome of the vertices near the input.
        second: That of those near the output.
        rng: Random numbers.
    """
    cut, from_second = rng.randint(0, first.vertices), rng.randint(1, second.output)
    move = cut + 1 - from_second  # what is added to the numbers of the second
    edges = {(begin, end) for begin, end in first.edges if end <= cut}
    late = {(begin, end) for begin, end in second.edges if end >= from_second}
    for begin, end in late:
        edges.add((begin + move if begin >= from_second else rng.randint(0, cut), end + move))
    last = second.output + move
    for vertex in range(1, cut + 1):
        if not any(begin == vertex for begin, _ in edges):
            edges.add((vertex, rng.randint(cut + 1, last)))
    return Genome(
        first.operations[:cut] + second.operations[from_second - 1 :],
        first.widths[:cut] + second.widths[from_second - 1 :],
        tuple(edges),
    )


def by_rows(first: Genome, second: Genome, rng: random.Random) -> Genome:
    """A genome of the first one's size: each vertex, with the edges to it, is that of one of the two by chance.

    Args:
        first: A genome; its output stays its output.
        second: The other one, whose vertices are those of the same number.
        rng: Random numbers.
    """
    operations, widths = list(first.operations), list(first.widths)
    edges = {(begin, end) for begin, end in first.edges if end == first.output}
    for vertex in range(1, first.output):
        source = second if vertex < second.output and rng.random() < 0.5 else first
        operations[vertex - 1], widths[vertex - 1] = source.operations[vertex - 1], source.widths[vertex - 1]
        edges |= {(begin, vertex) for begin in source.inputs[vertex]}
    return Genome(tuple(operations), tuple(widths), tuple(edges))


def crossed(first: Genome, second: Genome, space: SearchSpace, rng: random.Random) -> tuple[Genome, str] | None:
    """A genome of the space with parts of two others, pruned, and the name of the crossover.

    Args:
        first: A genome of the space, pruned.
        second: Another one.
        space: The space.
        rng: Random numbers.

    Returns:
        Both; None where nothing that is neither of the two was found in 100 draws.
    """
    for _ in range(_TRIES):
        name, cross = rng.choice((("crossover by cut", by_cut), ("crossover by rows", by_rows)))
        pair = (first, second) if rng.random() < 0.5 else (second, first)
        child = cross(*pair, rng).pruned()
        if child.hash not in (first.hash, second.hash) and space.allows(child):
            return child, name
    return None
