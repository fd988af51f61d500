"""Does the structure of a recurrent network predict its accuracy, or only how wide its input is?

Recurrent networks of random graphs learn to tell strings of the Reber grammar from others, and regressors predict their
test accuracy from 23 features of the graph. Graphs, in turn: 40 % Barabasi-Albert with the old start and n // 10 edges a
vertex, 40 % Watts-Strogatz with n // 5 neighbours and every edge rewired, as published, and 20 % small worlds
(Watts-Strogatz, a fifth of the edges rewired); n is uniform on 10 to 50. Designs:

* ``sources``: the embedding is as wide as the graph has sources, read out from the last layer, as published;
* ``fixed``: an embedding of width 16 whatever the graph, everything else the same;
* ``fixed-sinks``: the same, read out from all vertices without an edge from them.

5,000 strings of at most 24 letters (3,000 to train, 1,000 for validation, 1,000 to test), Adam 0.01, batch 128, gradients
clipped to a norm of 5, 8 epochs, the last one; plain PyTorch, as a few hundred networks are trained. Length and learning
rate were chosen on validation data, for accuracies that differ between graphs. Every fourth graph is trained with a second
seed in each design: what seeds leave to chance bounds what any feature can explain.

Run ``python -m benchmarks.structure_prediction train --minutes 40 --out FILE`` (it resumes; two processes take
``--shard 0/2`` and ``--shard 1/2`` with a file each, and half the minutes each), then
``python -m benchmarks.structure_prediction table --out FILE [FILE]``.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pyro
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.models.structure.graph_recurrent import GraphRecurrent
from bayesprune.models.structure.layered_graph import LayeredGraph, layered
from bayesprune.models.structure.random_graphs import BarabasiAlbert, WattsStrogatz
from benchmarks.ledger import Ledger

DESIGNS: dict[str, dict[str, Any]] = {
    "sources": {"embedding": "sources", "readout": "last"},
    "fixed": {"embedding": 16, "readout": "last"},
    "fixed-sinks": {"embedding": 16, "readout": "sinks"},
}
FAMILIES = ("barabasi-albert", "watts-strogatz", "barabasi-albert", "watts-strogatz", "small-world")
SECOND_SEED = 4
"""Of so many graphs one is trained twice."""
TRAINED, HELD_OUT = 3000, 1000
EPOCHS, BATCH, LEARNING_RATE, CLIP = 8, 128, 1e-2, 5.0


def random_graph(number: int) -> tuple[str, LayeredGraph]:
    """Family and graph of a number: the same ones in every run."""
    rng = random.Random(number)
    n, family = rng.randrange(10, 51), FAMILIES[number % len(FAMILIES)]
    pyro.set_rng_seed(number)
    if family == "barabasi-albert":
        prior: Any = BarabasiAlbert(n, n // 10)
    else:
        prior = WattsStrogatz(n, max(2, n // 5), 1.0 if family == "watts-strogatz" else 0.2, tries=10_000)
    return family, layered(prior.sample())


def runs(graphs: int, designs: list[str], shard: tuple[int, int]) -> list[tuple[int, str, int]]:
    """Graph, design and seed of every run, a graph at a time."""
    return [
        (number, design, seed)
        for number in range(shard[0], graphs, shard[1])
        for design in designs
        for seed in range(2 if (number // shard[1]) % SECOND_SEED == 0 else 1)
    ]


def trained(number: int, design: str, seed: int, kind: str, data: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Accuracies of one network after its last epoch."""
    family, graph = random_graph(number)
    torch.manual_seed(1000 * seed + number)
    network = GraphRecurrent(graph, kind=kind, vocabulary=int(data[0].max()) + 1, **DESIGNS[design])
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    x, y = data[0][:TRAINED], data[1][:TRAINED]
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(network(x[batch]), y[batch]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimizer.step()
    network.eval()
    return {
        "graph": number,
        "family": family,
        "design": design,
        "seed": seed,
        "kind": kind,
        "validation": _accuracy(network, *(part[TRAINED : TRAINED + HELD_OUT] for part in data)),
        "test": _accuracy(network, *(part[TRAINED + HELD_OUT :] for part in data)),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "edges": [list(edge) for edge in graph.edges],
    }


def _accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((network(x).argmax(1) == y).double().mean())


def train(options: argparse.Namespace) -> None:
    """Trains networks until all are there or the minutes are spent."""
    ledger, data = Ledger(options.out[0]), reber_data()
    for number, design, seed in runs(options.graphs, options.designs, options.shard):
        spent = sum(run["minutes"] for run in ledger.runs.values())
        name = f"{options.kind} graph {number} {design} seed {seed}"
        if name not in ledger.runs and seed == 0 and design == options.designs[0] and spent >= options.minutes:
            break
        ledger.run(name, lambda one=(number, design, seed): trained(*one, options.kind, data))
    print(ledger.cost())
