"""Mutations and crossover: whatever they make is of the space, and its network runs."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bayesprune.models.genomes.crossover import by_cut, by_rows, crossed
from bayesprune.models.genomes.genome import Genome
from bayesprune.models.genomes.genome_network import network_of
from bayesprune.models.genomes.mutations import MUTATIONS, add_vertex, contract_edge, duplicate_vertex, mutated
from bayesprune.models.genomes.random_genomes import random_genome
from bayesprune.models.genomes.search_space import SearchSpace

IMAGES = ("conv3x3", "conv1x1", "conv3x3-bn", "max-pool", "average-pool", "global-pool", "gru", "linear", "identity")
SPACES = {
    "features": SearchSpace((9,), 3),
    "sequences": SearchSpace((5, 4), 3, widths=(4, 8)),
    "images": SearchSpace((1, 8, 8), 3, IMAGES, widths=(4, 8)),
    "odd images": SearchSpace((3, 15, 9), 3, IMAGES, widths=(4,), most_vertices=5, most_edges=9),
}


def check(genome, space, classes=3):
    assert all(begin < end for begin, end in genome.edges)
    assert 1 <= genome.vertices <= space.most_vertices and len(genome.edges) <= space.most_edges
    assert genome.active == tuple(range(1, genome.output))  # pruned
    network = network_of(genome, space.input_shape, classes)
    outputs = network(torch.randn(2, *space.input_shape))
    assert outputs.shape == (2, classes) and outputs.isfinite().all()
    assert sum(one.numel() for one in network.parameters()) <= space.most_parameters


@pytest.mark.parametrize("which", SPACES)
@given(seed=st.integers(0, 2**40), steps=st.integers(1, 12))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_chains_of_mutations_and_crossovers_stay_in_the_space(which, seed, steps):
    space, rng = SPACES[which], random.Random(seed)
    genome, other = random_genome(space, rng), random_genome(space, rng)
    check(genome, space)
    for _ in range(steps):
        before = genome
        made = mutated(genome, space, rng) if rng.random() < 0.6 else crossed(genome, other, space, rng)
        if made is None:
            continue
        genome = made[0]
        assert genome.hash != before.hash
        check(genome, space)


@pytest.mark.slow
@pytest.mark.parametrize("which", SPACES)
def test_thousands_of_genomes_stay_in_the_space_and_every_operator_is_used(which):
    space, rng, used = SPACES[which], random.Random(1), set()
    genome, other = random_genome(space, rng), random_genome(space, rng)
    for _ in range(1500):
        made = mutated(genome, space, rng) if rng.random() < 0.7 else crossed(genome, other, space, rng)
        assert made is not None
        genome, other = (made[0], genome) if rng.random() < 0.8 else (random_genome(space, rng), made[0])
        used.add(made[1])
        check(made[0], space)
    expected = {*MUTATIONS, "crossover by cut", "crossover by rows"}
    assert used == (expected - {"change width"} if len(space.widths) == 1 else expected)


CHAIN = Genome(("conv3x3", "max-pool", "linear"), (8, 0, 16), ((0, 1), (1, 2), (2, 3), (3, 4)))


def test_a_twin_has_the_edges_of_its_vertex():
    space = SPACES["images"]
    made = {duplicate_vertex(CHAIN, space, random.Random(seed)).hash for seed in range(40)}
    ends = (((0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (4, 5)), ((0, 1), (1, 2), (1, 3), (2, 4), (3, 4), (4, 5)))
    ends = (*ends, ((0, 1), (1, 2), (2, 3), (2, 4), (3, 5), (4, 5)))
    twins = [
        Genome(("conv3x3", "conv3x3", "max-pool", "linear"), (8, 8, 0, 16), ends[0]),
        Genome(("conv3x3", "max-pool", "max-pool", "linear"), (8, 0, 0, 16), ends[1]),
        Genome(("conv3x3", "max-pool", "linear", "linear"), (8, 0, 16, 16), ends[2]),
    ]
    assert made == {twin.hash for twin in twins}


def test_contracting_an_edge_of_a_chain_leaves_a_chain():
    made = {contract_edge(CHAIN, SPACES["images"], random.Random(seed)).hash for seed in range(40)}
    left = (("max-pool", "linear"), ("conv3x3", "linear"), ("conv3x3", "max-pool"))
    widths = {"conv3x3": 8, "max-pool": 0, "linear": 16}
    chains = {Genome(two, tuple(map(widths.get, two)), ((0, 1), (1, 2), (2, 3))).hash for two in left}
    assert made == chains


def test_contracting_where_another_path_joins_the_two_stays_acyclic():
    square = Genome(("linear",) * 3, (4, 8, 16), ((0, 1), (1, 2), (1, 3), (2, 3), (3, 4)))
    for seed in range(50):
        made = contract_edge(square, SPACES["features"], random.Random(seed))
        assert made.vertices == 2 and made.has_path and made.edges


def test_a_new_vertex_leaves_all_edges_that_were_there():
    for seed in range(50):
        made = add_vertex(CHAIN, SPACES["images"], random.Random(seed))
        new = [v for v in range(1, made.output) if made.without([v]).edges == CHAIN.edges]
        assert made.vertices == 4 and any(made.without([v]) == CHAIN for v in new)


def test_crossover_by_cut_takes_the_front_of_one_and_the_back_of_the_other():
    first = Genome(("linear",) * 3, (4, 4, 4), ((0, 1), (1, 2), (2, 3), (3, 4)))
    second = Genome(("identity",) * 3, (0, 0, 0), ((0, 1), (1, 2), (2, 3), (3, 4)))
    sizes = set()
    for seed in range(200):
        child = by_cut(first, second, random.Random(seed))
        names = list(child.operations)
        assert names == sorted(names, reverse=True)  # linear ones first
        assert child.has_path and set(range(1, child.output)) == set(child.active)
        sizes.add((names.count("linear"), names.count("identity")))
    assert sizes == {(front, back) for front in range(4) for back in range(4)}


def test_crossover_by_rows_takes_each_vertex_with_its_edges_from_one_of_the_two():
    first = Genome(("linear",) * 3, (4, 4, 4), ((0, 1), (1, 2), (2, 3), (3, 4)))
    second = Genome(("identity",) * 3, (0, 0, 0), ((0, 1), (0, 2), (0, 3), (1, 4)))
    seen = set()
    for seed in range(100):
        child = by_rows(first, second, random.Random(seed))
        for vertex, name in enumerate(child.operations, start=1):
            parent = first if name == "linear" else second
            assert child.inputs[vertex] == parent.inputs[vertex]
        assert child.inputs[4] == first.inputs[4]
        seen.add(child.operations)
    assert len(seen) == 8


def test_where_nothing_can_be_changed_nothing_is_made():
    space = SearchSpace((4,), 2, ("linear",), widths=(8,), most_vertices=1, most_edges=2)
    only = random_genome(space, random.Random(0))
    assert mutated(only, space, random.Random(0)) is None
    assert crossed(only, only, space, random.Random(0)) is None
