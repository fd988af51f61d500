"""Recurrent networks of graphs, against a loop over steps and vertices in numpy that knows edges alone."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch

import bayesprune as bp
from bayesprune.models.structure.graph_recurrent import GraphRecurrent
from bayesprune.models.structure.layered_graph import layered
from bayesprune.models.structure.masked_linear import masks_of
from bayesprune.models.structure.recurrent_layer import KINDS

EACH = pytest.mark.parametrize("kind", KINDS)
STEPS, VOCABULARY = 6, 9


def graph(seed, vertices=12):
    return layered(nx.connected_watts_strogatz_graph(vertices, 4, 0.6, tries=100, seed=seed))


def network(seed=0, **options):
    torch.manual_seed(seed)
    made = GraphRecurrent(graph(seed), 3, vocabulary=VOCABULARY, **{"embedding": 4, **options}).double()
    with torch.no_grad():
        for parameter in made.parameters():
            drawn = torch.randn_like(parameter) * 0.6  # also where masks are false
            parameter.copy_(0.5 * drawn.abs() if options.get("kind") == "rnn-relu" else drawn)  # and relu stays open
    return made


def tokens(n=4):
    generator = torch.Generator().manual_seed(5)
    lengths = torch.tensor([STEPS, 1, 4, 5])[:n]
    drawn = torch.randint(1, VOCABULARY, (n, STEPS), generator=generator)
    return drawn * (torch.arange(STEPS) < lengths[:, None])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def one_unit(kind, read, own, hidden, memory):
    """The equations of one unit: what its gates read, and what they hear of the step before."""
    if kind == "gru":
        r, z = sigmoid(read[0] + own[0]), sigmoid(read[1] + own[1])
        n = np.tanh(read[2] + r * own[2])
        return (1 - z) * n + z * hidden, memory
    if kind == "lstm":
        i, f, g, o = read + own
        memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(memory), memory
    return (np.tanh if kind == "rnn-tanh" else lambda x: max(x, 0.0))(read[0] + own[0]), memory


def run_layer(kind, layer, at, heard_by, mates_of, given):
    """A recurrent layer vertex by vertex.

    Args:
        kind: The kind.
        layer: The layer, whose weights it has.
        at: Its vertices.
        heard_by: Of each vertex the places among the inputs that it hears.
        mates_of: Of each the vertices of the layer that it hears.
        given: Inputs `(steps, in)`.
    """
    gates, size = KINDS[kind], len(at)
    w, u, b, c = (
        layer.get_parameter(name).detach().numpy()
        for name in ("input.weight", "recurrent.weight", "input.bias", "recurrent.bias")
    )
    hidden, memory, after = np.zeros(size), np.zeros(size), []
    for x in given:
        now = hidden.copy()
        for place, vertex in enumerate(at):
            rows = [gate * size + place for gate in range(gates)]
            read = np.array([b[row] + sum(w[row, j] * x[j] for j in heard_by[vertex]) for row in rows])
            own = np.array([c[row] + sum(u[row, at.index(mate)] * hidden[at.index(mate)] for mate in mates_of[vertex])
                            for row in rows])  # fmt: skip
            now[place], memory[place] = one_unit(kind, read, own, hidden[place], memory[place])
        hidden = now
        after.append(hidden)
    return np.array(after)


def expected(made, kind, row, skips, recurrent, readout):
    own, length = made.graph, int((row != 0).sum())
    edges = set(own.edges)
    near = {v: {a for a, b in edges if b == v} | {b for a, b in edges if a == v} for v in range(own.vertices)}

    def mates(at):
        if recurrent == "dense":
            return {v: list(at) for v in at}
        if recurrent == "diagonal":
            return {v: [v] for v in at}
        return {v: [m for m in at if m == v or near[v] & near[m]] for v in at}

    x = made.embedding.weight.detach().numpy()[row[:length].numpy()]
    outputs = []
    for number, at in enumerate(own.layers):
        mates_of = mates(at)
        if number == 0:
            outputs.append(run_layer(kind, made.layers[0], at, dict.fromkeys(at, range(x.shape[1])), mates_of, x))
            continue
        before = [m for m in range(number) if any((a, v) in edges for a in own.layers[m] for v in at)]
        together = [number - 1] if skips == "published" else before
        columns = [v for m in together for v in own.layers[m]]
        heard = {v: [j for j, a in enumerate(columns) if (a, v) in edges] for v in at}
        found = run_layer(kind, made.layers[number], at, heard, mates_of,
                          np.concatenate([outputs[m] for m in together], 1))  # fmt: skip
        if skips == "published":
            pairs = [pair for pair in own.connections if pair[1] - pair[0] > 1]
            for pair, layer in zip(pairs, made.skips, strict=True):
                if pair[1] == number:
                    heard = {v: [j for j, a in enumerate(own.layers[pair[0]]) if (a, v) in edges] for v in at}
                    found = found + run_layer(kind, layer, at, heard, mates_of, outputs[pair[0]])
        outputs.append(found)
    last = {v: outputs[m][-1, place] for m, at in enumerate(own.layers) for place, v in enumerate(at)}
    read = own.layers[-1] if readout == "last" else [v for v in range(own.vertices) if all(a != v for a, _ in edges)]
    head = made.head
    return head.weight.detach().numpy() @ np.array([last[v] for v in read]) + head.bias.detach().numpy()


@EACH
@pytest.mark.parametrize(
    ("skips", "recurrent", "readout", "embedding"),
    [
        ("shared", "dense", "sinks", 4),
        ("published", "dense", "last", "sources"),
        ("shared", "diagonal", "last", 4),
        ("published", "graph", "sinks", 4),
        ("shared", "graph", "sinks", "sources"),
    ],
)
def test_outputs_are_those_of_a_loop_over_steps_and_vertices(kind, skips, recurrent, readout, embedding):
    options = {"skips": skips, "recurrent": recurrent, "readout": readout}
    x = tokens()
    for seed in range(2):
        made = network(seed, kind=kind, embedding=embedding, **options)
        wanted = np.array([expected(made, kind, row, **options) for row in x])
        with torch.no_grad():
            np.testing.assert_allclose(made(x).numpy(), wanted, rtol=0, atol=1e-12)
            for mask in masks_of(made).values():  # control: units' masks in another order
                mask.copy_(mask.flip(0))
            assert np.abs(made(x).numpy() - wanted).max() > 1e-6


@pytest.mark.parametrize("skips", ["shared", "published"])
def test_an_edge_more_is_a_weight_more_in_each_gate(skips):
    for seed in range(5):
        made = GraphRecurrent(graph(seed), kind="gru", skips=skips)
        masks = [mask for name, mask in masks_of(made).items() if name.endswith("input.weight")]
        assert sum(int(mask.sum()) for mask in masks) == 3 * len(made.graph.edges)
        assert (len(made.skips) > 0) == (skips == "published")


def test_the_width_of_the_embedding_does_not_follow_the_graph_unless_it_is_asked_to():
    sources = {len(graph(seed).sources) for seed in range(8)}
    assert len(sources) > 1
    assert {GraphRecurrent(graph(seed)).embedding.embedding_dim for seed in range(8)} == {50}
    assert {GraphRecurrent(graph(seed), embedding="sources").embedding.embedding_dim for seed in range(8)} == sources


def test_a_sink_above_the_last_layer_is_read_by_default_only():
    found = layered(nx.DiGraph([(0, 1), (1, 2), (0, 3)]))  # 3 has no edge from it, and is no vertex of the last layer
    assert found.sinks == (2, 3)
    for readout, moves in (("sinks", True), ("last", False)):
        torch.manual_seed(0)
        made = GraphRecurrent(found, readout=readout, recurrent="diagonal")
        x = torch.tensor([[5, 6, 7]])
        before = made(x)
        with torch.no_grad():
            made.layers[1].input.weight[1::2] += 1.0  # that of vertex 3, in each gate
        assert bool((made(x) != before).any()) == moves


def test_options_that_are_none_are_refused():
    for options, said in (
        ({"skips": "both"}, "skips='both' is unknown: expected one of shared, published"),
        ({"recurrent": "block"}, "recurrent='block' is unknown"),
        ({"readout": "all"}, "readout='all' is unknown"),
        ({"embedding": "wide"}, "embedding='wide' is unknown: give its width, or 'sources'"),
        ({"embedding": 0}, "embedding is 0"),
        ({"kind": "rnn"}, "kind 'rnn' is unknown"),
    ):
        with pytest.raises(ValueError, match=said):
            GraphRecurrent(graph(0), **options)


def test_a_fit_of_a_graph_predicts_and_is_pruned():
    torch.manual_seed(0)
    made = GraphRecurrent(graph(1), 2, "rnn-tanh", VOCABULARY, 4)
    x = tokens().repeat(10, 1)
    model = bp.BayesianNetwork(made, {"layers.*.weight": bp.Gaussian()}, bp.Categorical(), data_size=40)
    fit = bp.fit(model, (x, (x[:, 0] > 4).long()), epochs=2, batch_size=20, guide="map", seed=0)
    assert fit.predict(x).mean.shape == (40, 2)
    result = bp.prune(fit, sparsity=0.9, criterion="magnitude")
    assert torch.isfinite(result.network(x)).all()
