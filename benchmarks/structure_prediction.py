"""Does the structure of a recurrent network predict its accuracy, or only how wide its input is?

Recurrent networks of random graphs learn to tell strings of the Reber grammar from others, and regressors predict
their test accuracy from 23 features of the graph. Graphs, in turn: 40 % Barabasi-Albert with the old start and n // 10
edges a vertex, 40 % Watts-Strogatz with n // 5 neighbours and every edge rewired, as published, and 20 % small worlds
(Watts-Strogatz, a fifth of the edges rewired); n is uniform on 10 to 50. Designs:

* ``sources``: the embedding is as wide as the graph has sources, read out from the last layer, as published;
* ``fixed``: an embedding of width 16 whatever the graph, everything else the same;
* ``fixed-sinks``: the same, read out from all vertices without an edge from them.

5,000 strings of at most 24 letters (3,000 to train, 1,000 for validation, 1,000 to test), Adam 0.01, batch 128,
gradients clipped to a norm of 5, 8 epochs, the last one; plain PyTorch, as a few hundred networks are trained. Length
and learning rate were chosen on validation data, for accuracies that differ between graphs. Every fourth graph is
trained with a second seed in each design: what seeds leave to chance bounds what any feature can explain.

Run ``python -m benchmarks.structure_prediction train --minutes 40 --out FILE`` (it resumes; two processes take
``--shard 0/2`` and ``--shard 1/2`` with a file each, and half the minutes each), then
``python -m benchmarks.structure_prediction table --out FILE [FILE]``.
"""

from __future__ import annotations

import argparse
import random
import warnings
from typing import Any

import networkx as nx
import numpy as np
import pyro
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.analysis.structure.graph_features import FEATURES, FeatureTable, feature_table
from bayesprune.data.reber import reber_strings, tokens_of
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
TRAINED, HELD_OUT, LONGEST = 3000, 1000, 24
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
        spent = sum(run["minutes"] for run in ledger.runs.values() if run["kind"] == options.kind)
        name = f"{options.kind} graph {number} {design} seed {seed}"
        if name not in ledger.runs and seed == 0 and design == options.designs[0] and spent >= options.minutes:
            break
        ledger.run(name, lambda one=(number, design, seed): trained(*one, options.kind, data))
    print(ledger.cost())


def reber_data() -> tuple[Tensor, Tensor]:
    """Tokens and labels of all strings, in one order: to train, for validation, to test."""
    drawn = reber_strings(TRAINED + 2 * HELD_OUT, max_length=LONGEST, seed=0)
    return torch.from_numpy(tokens_of(drawn.strings)), torch.tensor(drawn.labels)


def table(options: argparse.Namespace) -> None:
    """Prints what the accuracies of each design can be predicted from."""
    found = [run for path in options.out for run in Ledger(path).runs.values() if run["kind"] == options.kind]
    graphs = {run["graph"]: run for run in found}
    features = dict(zip(graphs, feature_table([_graph_of(run) for run in graphs.values()]).values, strict=True))
    minutes = [run["minutes"] for run in found]
    print(f"{len(found)} runs x {np.mean(minutes):.3f} processor minutes = {sum(minutes):.1f}; {len(graphs)} graphs\n")
    lines = ["| design | family | graphs | accuracy, mean +- sd | least | most |", "|---|---|---|---|---|---|"]
    tables, notes = [], []
    for design in [one for one in DESIGNS if any(run["design"] == one for run in found)]:
        of = [number for number in graphs if any(_is(run, number, design) for run in found)]
        scores = np.full((len(of), 2), np.nan)
        for run in found:
            if run["design"] == design:
                scores[of.index(run["graph"]), run["seed"]] = run[options.score]
        families = [graphs[number]["family"] for number in of]
        for family in sorted(set(families)):
            these = scores[[one == family for one in families], 0]
            lines.append(
                f"| {design} | {family} | {len(these)} | {these.mean():.3f} +- {these.std(ddof=1):.3f} | "
                f"{these.min():.3f} | {these.max():.3f} |"
            )
        found_for, said = _predicted(
            options, FeatureTable(FEATURES, np.array([features[n] for n in of])), scores, families
        )
        tables += [f"\n{design}, {len(of)} graphs\n", *found_for]
        notes += [f"{design}: {note}" for note in said]
    print("\n".join([*lines, *tables, "", *notes]))


def _predicted(
    options: argparse.Namespace, features: FeatureTable, scores: Any, families: list[str]
) -> tuple[list[str], list[str]]:
    """The table of a design in Markdown, and what else there is to say of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the sentence is printed below the tables
        result = bp.predict_performance(
            features, scores, families, options.regressors, repeats=options.repeats, splits=options.splits
        )
        apart = bp.predict_performance(
            features, scores, families, options.regressors, repeats=options.repeats, by_group=True
        )
    lines = [
        "| regressor | features | R2 +- sd over repeats | 95 % over graphs | Spearman | Kendall | R2 within families |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result.rows:
        within = ", ".join(f"{name} {value:.2f}" for name, value in row.within.items())
        lines.append(
            f"| {row.regressor} | {row.features} | {row.r2:.2f} +- {row.r2_sd:.2f} | {row.interval[0]:.2f} to "
            f"{row.interval[1]:.2f} | {row.spearman:.2f} | {row.kendall:.2f} | {within} |"
        )
    for row in apart.rows:
        lines.append(
            f"| {row.regressor} | {row.features}, families left out in turn | {row.r2:.2f} | {row.interval[0]:.2f} to "
            f"{row.interval[1]:.2f} | {row.spearman:.2f} | {row.kendall:.2f} | |"
        )
    notes = list(result.notes)
    if result.ceiling is not None:
        notes.append(f"ceiling {result.ceiling.to_dict()}")
    for name, (gain, sd) in result.gains.items():
        notes.append(f"{name} gains {gain:+.3f} (sd {sd:.3f}) over {result.best_baseline[name]}")
    for name, tried in result.splits.items():
        low, middle, high = np.nanpercentile(tried, [5, 50, 95])
        notes.append(
            f"{name}, single split: {result.published_split[name]:.2f} with random_state 7; of {len(tried)} splits "
            f"median {middle:.2f}, 5 to 95 % {low:.2f} to {high:.2f}"
        )
    if options.inclusion:
        means = np.nanmean(scores, 1)
        fitted = bp.HorseshoeRegression(method=options.inclusion).fit(features.values, means)
        order = np.argsort(-fitted.inclusion_)[:6]
        notes.append("inclusion " + ", ".join(f"{features.names[one]} {fitted.inclusion_[one]:.2f}" for one in order))
    return lines, notes


def _graph_of(run: dict[str, Any]) -> LayeredGraph:
    return layered(nx.DiGraph([tuple(edge) for edge in run["edges"]]))


def _is(run: dict[str, Any], number: int, design: str) -> bool:
    return run["graph"] == number and run["design"] == design


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["train", "table"])
    parser.add_argument("--out", nargs="+", default=["build/structure_prediction.json"])
    parser.add_argument(
        "--minutes", type=float, default=40.0, help="processor minutes of this process, all runs together"
    )
    parser.add_argument("--graphs", type=int, default=1000, help="at most so many graphs")
    parser.add_argument("--designs", nargs="+", choices=list(DESIGNS), default=["sources", "fixed"])
    parser.add_argument("--kind", default="gru")
    parser.add_argument("--shard", type=_shard, default=(0, 1), help="i/n: graphs i, i + n, ...")
    parser.add_argument("--score", choices=["test", "validation"], default="test")
    parser.add_argument("--regressors", nargs="+", default=["bayesian-ridge", "random-forest", "adaboost"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--splits", type=int, default=50)
    parser.add_argument("--inclusion", choices=["svi", "nuts"], default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    (train if options.mode == "train" else table)(options)


def _shard(text: str) -> tuple[int, int]:
    number, of = map(int, text.split("/"))
    return number, of


if __name__ == "__main__":
    main()
