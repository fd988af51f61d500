"""Genomes: what of them lies on a path, a hash that knows no numbering, and what is refused."""

from __future__ import annotations

import json
import random
import re

import pytest

from bayesprune.models.genomes.genome import Genome
from bayesprune.models.genomes.random_genomes import RANDOM_GRAPHS, random_genome
from bayesprune.models.genomes.search_space import SearchSpace
from tests.oracles.genomes import every_genome, form, reaches

CHAIN = Genome(("conv3x3", "max-pool", "linear"), (8, 0, 16), ((0, 1), (1, 2), (2, 3), (3, 4)))


def groups(genomes, key):
    found = {}
    for genome in genomes:
        found.setdefault(key(genome), set()).add(form(genome))
    return found


def distinct(vertices, operations):
    """The pruned genomes of at most so many vertices, each numbering once."""
    pruned = {genome.pruned() for genome in every_genome(vertices, operations) if genome.has_path}
    assert {len(one.operations) for one in pruned} == set(range(vertices + 1))
    return pruned


@pytest.mark.parametrize(
    ("vertices", "operations"),
    [
        (2, (("linear", 8), ("linear", 16), ("identity", 0))),
        (3, (("linear", 8), ("identity", 0))),
        pytest.param(4, (("linear", 8),), marks=pytest.mark.slow),
    ],
)
def test_genomes_have_the_same_hash_if_and_only_if_they_are_isomorphic(vertices, operations):
    genomes = distinct(vertices, operations)
    by_hash = groups(genomes, lambda one: one.hash)
    assert max(map(len, by_hash.values())) == 1  # no collision
    assert len(by_hash) == len({form(one) for one in genomes}) < len(genomes)  # and no isomorphic ones apart
    # Control: a hash that does not look at edges has collisions.
    assert max(map(len, groups(genomes, lambda one: sorted(one.operations).__repr__()).values())) > 1


@pytest.mark.parametrize("backwards", [False, True])
def test_what_leads_to_a_vertex_counts_as_what_it_leads_to(backwards):
    """Two of each kind, 1 to 4, read by the same one of two vertices or by different ones: no look one way sees it."""
    joined = [((1, 5), (2, 5), (3, 6), (4, 6)), ((1, 5), (3, 5), (2, 6), (4, 6))]
    found = []
    for middle in joined:
        edges = [*((0, first) for first in (1, 2, 3, 4)), *middle, (5, 7), (6, 7)]
        kinds = ("linear", "linear", "identity", "identity", "linear", "linear")
        if backwards:  # the same graphs with every edge turned round
            edges, kinds = [(7 - end, 7 - begin) for begin, end in edges], kinds[::-1]
        found.append(Genome(kinds, (8,) * 6, tuple(edges)))
    assert form(found[0]) != form(found[1]) and found[0].hash != found[1].hash


def test_vertices_off_every_path_do_not_count():
    rng = random.Random(0)
    for _ in range(300):
        vertices = rng.randint(1, 7)
        pairs = [(begin, end) for end in range(1, vertices + 2) for begin in range(end)]
        genome = Genome(("linear",) * vertices, (8,) * vertices, tuple(rng.sample(pairs, rng.randint(1, len(pairs)))))
        assert list(genome.active) == reaches(genome)
        assert genome.hash == genome.pruned().hash and genome.pruned().active == tuple(range(1, len(genome.active) + 1))
    dead = Genome((*CHAIN.operations, "linear"), (*CHAIN.widths, 8), ((0, 1), (0, 4), (1, 2), (2, 3), (3, 5)))
    assert dead.hash == CHAIN.hash and dead.pruned() == CHAIN
    alive = Genome(dead.operations, dead.widths, (*dead.edges, (4, 5)))
    assert alive.hash != CHAIN.hash  # control


def test_a_genome_comes_back_from_json():
    found = Genome.from_dict(json.loads(json.dumps(CHAIN.as_dict())))
    assert found == CHAIN and found.hash == CHAIN.hash
    graph = CHAIN.graph()
    assert graph.nodes[1] == {"operation": "conv3x3", "width": 8} and set(graph.edges) == set(CHAIN.edges)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "no object of operations"),
        ({"operations": [], "widths": []}, "no object of operations"),
        ({**CHAIN.as_dict(), "edges": [[0, 1.0]]}, "pairs of whole numbers"),
        ({**CHAIN.as_dict(), "edges": [[0, True]]}, "pairs of whole numbers"),
        ({**CHAIN.as_dict(), "edges": [[1, 1]]}, "from lower to higher"),
        ({**CHAIN.as_dict(), "edges": [[3, 9]]}, "from lower to higher"),
        ({**CHAIN.as_dict(), "edges": [[0, 1]] * 9999}, "lists of at most"),
        ({**CHAIN.as_dict(), "operations": ["conv3x3", "os.system", "linear"]}, "'os.system' is unknown"),
        ({**CHAIN.as_dict(), "operations": [["linear"], "linear", "linear"]}, "is unknown"),
        ({**CHAIN.as_dict(), "widths": [8, 0]}, "has 2 widths"),
        ({**CHAIN.as_dict(), "widths": [10**9, 0, 8]}, "a whole number from 1 to"),
        ({"operations": ["identity"] * 300, "widths": [0] * 300, "edges": [[0, 1]]}, "at most 200 vertices"),
    ],
)
def test_what_is_no_genome_is_refused_in_a_sentence(found, message):
    with pytest.raises(ValueError, match=message) as raised:
        Genome.from_dict(found)
    assert len(str(raised.value)) < 400 and "\n" not in str(raised.value)


@pytest.mark.parametrize("graphs", RANDOM_GRAPHS)
def test_random_genomes_are_of_the_space_and_many(graphs):
    space, rng = SearchSpace((1, 8, 8), 10), random.Random(0)
    genomes = [random_genome(space, rng, graphs) for _ in range(100)]
    assert all(space.allows(genome) for genome in genomes)
    assert len({genome.hash for genome in genomes}) > 80
    assert genomes[:5] == [random_genome(space, again, graphs) for again in [random.Random(0)] for _ in range(5)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"operations": ()}, "allows nothing"),
        ({"operations": ("conv3x3",), "input_shape": (20,)}, "allows nothing: inputs of shape"),
        ({"operations": ("linear", "conv3x3"), "input_shape": (20,)}, "conv3x3 reads a map"),
        ({"operations": ("linear", "attention")}, "'attention' is unknown"),
        ({"widths": ()}, "it has no widths"),
        ({"widths": (0,)}, "a width is 0"),
        ({"most_vertices": 0}, "most_vertices must be at least 1"),
        ({"most_edges": 1}, "most_edges must be at least 2"),
        ({"most_parameters": 100}, "allows nothing: the smallest network has more than 100 parameters"),
        ({"input_shape": (1, 2, 3, 4)}, "it takes features"),
        ({"classes": 0}, "classes is 0"),
    ],
)
def test_a_space_that_allows_nothing_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace(**{"input_shape": (1, 8, 8), "classes": 10, **given})


@pytest.mark.parametrize(
    ("genome", "reason"),
    [
        (Genome(("linear",), (8,), ((0, 1),)), "no path leads"),
        (Genome((), (), ((0, 1),)), "nothing stands between"),
        (Genome(("linear", "conv3x3"), (8, 8), ((0, 1), (1, 2), (2, 3))), "vertex 2 .conv3x3. cannot read"),
        (Genome(("linear",), (9,), ((0, 1), (1, 2))), "its width 9 is none of 8, 16"),
        (Genome(("gru",), (8,), ((0, 1), (1, 2))), "its operation gru is none of"),
        (Genome(("linear",) * 4, (8,) * 4, ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5))), "it has 4 vertices"),
        (Genome(("linear",) * 2, (8,) * 2, ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))), "it has 6 edges"),
        (Genome(("linear",) * 3, (16,) * 3, ((0, 1), (1, 2), (2, 3), (3, 4))), "parameters, and at most 1,500"),
    ],
)
def test_a_space_says_why_it_refuses_a_genome(genome, reason):
    space = SearchSpace((1, 8, 8), 10, widths=(8, 16), most_vertices=3, most_edges=5, most_parameters=1500)
    assert re.search(reason, space.refusal(genome))
    assert space.allows(Genome(("linear",), (8,), ((0, 1), (1, 2))))
