"""Random graphs: their probabilities beside enumeration, and beside frequencies of networkx."""

from __future__ import annotations

import math
import random

import networkx as nx
import pyro
import pytest
import torch
from scipy import stats

from bayesprune.models.structure.connected_graphs import connected_probability
from bayesprune.models.structure.graph_prior import AnyGraph, adjacency_of
from bayesprune.models.structure.layered_graph import layered
from bayesprune.models.structure.random_graphs import (
    BarabasiAlbert,
    ErdosRenyi,
    GivenEdges,
    NewmanWattsStrogatz,
    WattsStrogatz,
)
from tests.oracles.layered_networks import all_graphs, growth_log_probability, old_growth

WITH_DENSITY = [
    ErdosRenyi(5, 0.3),
    ErdosRenyi(5, 0.3, connected=True),
    ErdosRenyi(4, 1.0),
    GivenEdges(5, 4),
    BarabasiAlbert(5, 1),
    BarabasiAlbert(5, 2),
    BarabasiAlbert(5, 2, "hub-first"),
    BarabasiAlbert(5, 3),
]


@pytest.mark.parametrize("prior", WITH_DENSITY, ids=str)
def test_probabilities_of_all_graphs_sum_to_one_and_give_those_of_edges(prior):
    graphs = torch.stack(list(all_graphs(prior.vertices)))
    probabilities = prior.log_prob(graphs).exp()
    assert probabilities.dtype == torch.float64 and float(probabilities.sum()) == pytest.approx(1.0, abs=1e-12)
    marginal = (probabilities[:, None, None] * graphs).sum(0)
    pyro.set_rng_seed(1)
    exact = not isinstance(prior, BarabasiAlbert)
    found = prior.edge_probabilities(4000)
    torch.testing.assert_close(found, marginal, rtol=0.0, atol=1e-12 if exact else 0.035)
    assert not torch.allclose(found.T, marginal, atol=0.05)  # at [i, j] with i < j


@pytest.mark.parametrize("prior", [WITH_DENSITY[1], WITH_DENSITY[3], WITH_DENSITY[4], WITH_DENSITY[5]], ids=str)
def test_networkx_draws_graphs_as_often_as_log_prob_says(prior):
    """Chi square over all graphs that are expected 5 times in 20,000 draws; the other hub, or odds, are refused."""
    pyro.set_rng_seed(2)
    draws, graphs = 20_000, torch.stack(list(all_graphs(5)))
    bits = 2.0 ** torch.arange(10)
    pairs = torch.triu_indices(5, 5, 1)
    key = lambda adjacency: (adjacency[..., pairs[0], pairs[1]] * bits).sum(-1).long()  # noqa: E731
    counts = torch.bincount(key(prior.sample((draws,))), minlength=1024)[key(graphs)].double()

    def p_value(expected):
        often = expected >= 5
        assert float(counts[~often].sum()) < 0.2 * draws
        cells = torch.cat([counts[often], counts[~often].sum()[None]])
        means = torch.cat([expected[often], expected[~often].sum()[None]])
        there = means > 0
        return stats.chi2.sf(float(((cells - means)[there] ** 2 / means[there]).sum()), int(there.sum()) - 1)

    expected = draws * prior.log_prob(graphs).exp()
    assert p_value(expected) > 1e-3
    tilted = expected * torch.linspace(0.5, 1.5, len(expected), dtype=torch.float64)[key(graphs)]
    assert p_value(tilted * draws / tilted.sum()) < 1e-3


def test_growth_has_the_probability_of_all_orders_and_is_that_of_the_old_generator():
    pyro.set_rng_seed(3)
    for edges_each in (1, 2, 3, 5):
        prior = BarabasiAlbert(12, edges_each)
        for adjacency in prior.sample((5,)):
            said = growth_log_probability(adjacency, edges_each)
            assert float(prior.log_prob(adjacency)) == pytest.approx(said, rel=1e-12)
            assert BarabasiAlbert(12, edges_each, "hub-first").log_prob(adjacency) == -math.inf or edges_each == 1
        for seed in range(20):
            old = old_growth(40, edges_each, random.Random(seed))
            assert nx.utils.graphs_equal(nx.Graph(old), BarabasiAlbert(40, edges_each).draw(seed))
    batch = BarabasiAlbert(9, 2).sample((2, 3))
    assert batch.shape == (2, 3, 9, 9) and BarabasiAlbert(9, 2).log_prob(batch).shape == (2, 3)
    other = torch.zeros(4, 4)
    other[0, 2] = other[1, 2] = other[2, 3] = 1.0  # the last has one edge where it needs two
    assert BarabasiAlbert(4, 2).log_prob(other) == -math.inf


def test_the_old_start_has_as_many_sources_as_published_and_the_new_one_has_one():
    pyro.set_rng_seed(4)
    for _ in range(100):
        n = int(torch.randint(10, 51, ()))
        drawn = BarabasiAlbert(n, n // 10).sample()
        assert bool((drawn.tril() == 0).all()) and len(layered(drawn).sources) == n // 10
        assert len(layered(BarabasiAlbert(n, n // 10, "hub-first").sample()).sources) == 1


def test_connected_graphs_are_as_probable_as_counted():
    """There are 1, 1, 4, 38, 728 and 26,704 connected graphs (A001187), of 2^(n (n - 1) / 2)."""
    for n, count in ((2, 1), (3, 4), (4, 38), (5, 728), (6, 26_704)):
        said = math.log(count) - math.log(2.0) * n * (n - 1) / 2
        assert connected_probability(n, 0.5)[0] == pytest.approx(said, rel=1e-13)
    low, high = (connected_probability(40, p)[0] for p in (0.03 - 1e-6, 0.03 + 1e-6))
    assert connected_probability(40, 0.03)[1] == pytest.approx((high - low) / 2e-6, rel=1e-6)
    for n, p in ((60, 1e-3), (25, 1e-4)):  # almost never: then it is a tree, of which there are n^(n - 2)
        said = (n - 2) * math.log(n) + (n - 1) * math.log(p)
        assert connected_probability(n, p)[0] == pytest.approx(said, rel=0.02)


def test_gradients_reach_the_probability_of_an_edge():
    p = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    graph = ErdosRenyi(6, 0.5).sample()
    ErdosRenyi(6, p).log_prob(graph).backward()
    edges = float(graph.sum())
    assert float(p.grad) == pytest.approx(edges / 0.3 - (15 - edges) / 0.7, rel=1e-12)


def test_small_worlds_keep_their_edges_and_are_known_by_distance_on_the_ring():
    pyro.set_rng_seed(5)
    ring = WattsStrogatz(12, 4, 0.0)
    exact = ring.edge_probabilities()
    assert torch.equal(exact.float(), ring.sample()) and float(exact.sum()) == 24
    prior = WattsStrogatz(12, 4, 0.3)
    found = prior.edge_probabilities(4000)
    assert float(found.sum()) == pytest.approx(24.0, abs=1e-9)  # edges are led elsewhere, not lost
    assert found[0, 1] == found[5, 6] == found[0, 11] and found[0, 1] > 4 * found[0, 6] > 0
    single = torch.zeros(12, 12, dtype=torch.float64)
    for seed in range(4000):
        single += adjacency_of(nx.watts_strogatz_graph(12, 4, 0.3, seed), 12)
    torch.testing.assert_close(found, single / 4000, rtol=0.0, atol=0.06)
    added = NewmanWattsStrogatz(12, 4, 0.3)
    assert bool((added.sample() >= ring.sample()).all()) and float(added.edge_probabilities(50)[0, 1]) == 1.0
    assert WattsStrogatz(30, 5, 0.1).sample().sum() == 60  # an odd number counts as one fewer


def test_graphs_come_again_with_pyros_seed_and_expand_in_plates():
    prior = WattsStrogatz(20, 4, 0.5)
    drawn = []
    for seed in (7, 7, 8):
        pyro.set_rng_seed(seed)
        with pyro.plate("graphs", 3):
            drawn.append(pyro.sample("graph", prior))
    assert drawn[0].shape == (3, 20, 20) and drawn[0].dtype == torch.get_default_dtype()
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0][0], drawn[0][1])
    trees = AnyGraph(lambda seed: nx.random_labeled_tree(9, seed=seed))
    assert trees.vertices == 9 and float(trees.sample().sum()) == 8 and prior.sample((0,)).shape == (0, 20, 20)
    trace = pyro.poutine.trace(lambda: pyro.sample("graph", GivenEdges(6, 7))).get_trace()
    assert float(trace.log_prob_sum()) == pytest.approx(-math.log(math.comb(15, 7)))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: ErdosRenyi(10, 2), r"^ErdosRenyi\(probability=...\) takes a probability, from 0 to 1, not 2"),
        (lambda: ErdosRenyi(10, "x"), "must be a finite number"),
        (lambda: ErdosRenyi(0, 0.5), r"^ErdosRenyi\(vertices=...\) must be at least 2, not 0"),
        (lambda: GivenEdges(4, 7), r"^GivenEdges\(edges=7\) is more than the 6 pairs of 4 vertices"),
        (lambda: BarabasiAlbert(4, 4), r"^BarabasiAlbert\(edges_each=4\) needs more than 4 vertices"),
        (lambda: BarabasiAlbert(4, 1, "hub"), r"^BarabasiAlbert\(start=...\) takes one of hub-last, hub-first"),
        (lambda: WattsStrogatz(6, 6, 0.1), r"^WattsStrogatz\(neighbours=6\) needs more than 6 vertices"),
        (lambda: WattsStrogatz(6, 2, -0.1), r"^WattsStrogatz\(rewiring=...\) takes a probability"),
        (lambda: WattsStrogatz(6, 2, 0.1, tries=0), r"^WattsStrogatz\(tries=...\) must be at least 1"),
        (lambda: ErdosRenyi(50, 0.01, True, 5).sample(), "drew 5 graphs, each of several parts: make it denser"),
        (lambda: AnyGraph("graph"), "^AnyGraph takes what makes a graph of networkx of a seed"),
        (lambda: AnyGraph(lambda seed: nx.path_graph(4), vertices=3).sample(), "^AnyGraph.* drew something else"),
        (lambda: WattsStrogatz(6, 2, 0.1).log_prob(torch.zeros(6, 6)), "has no log_prob: which edge of the ring"),
        (lambda: AnyGraph(nx.path_graph, 3).log_prob(torch.zeros(3, 3)), "has no log_prob: its generator"),
        (lambda: GivenEdges(5, 5, True).log_prob(torch.zeros(5, 5)), "has no log_prob: connected graphs of so many"),
        (lambda: BarabasiAlbert(40, 13).log_prob(torch.zeros(40, 40)), "has no log_prob: it sums over the orders"),
        (lambda: ErdosRenyi(3, 0.5).log_prob(torch.ones(3, 3)), r"has edges at \[i, j\] with i < j only"),
        (lambda: ErdosRenyi(3, 0.5).log_prob(torch.zeros(4, 4)), "has values of zeros and ones"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(made, said):
    with pytest.raises(ValueError, match=said) as told:
        made()
    assert "\n" not in str(told.value)
