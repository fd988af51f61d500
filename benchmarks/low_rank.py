"""Low rank: recurrent networks on digits read row by row, learned ranks beside ranks set by hand.

GRU and FastGRNN of 64 hidden units, 50 epochs by SGD 0.5 with a cosine schedule, batch 128, three seeds; priors on
the input and the recurrent matrix of the cell. *Learned*: `LowRank` at several pressures. *By hand*: the same prior
with the rank of the recurrent matrix given and a pressure that does nothing, which is plain training of so many
components, started at the best approximation of that rank; the input matrix keeps all its eight. *Full*: matrices
under a Gaussian. Each network is pruned and compacted: the table has its ranks, accuracy on the test set, MACs for one
image, the largest difference of outputs that folding made (in float32, relative to the output's standard deviation, on
the test set), and how many times as long the network with the product takes (medians of ratios within rounds, of these
over seeds). A second table times untrained GRUs of more units and an eighth of the rank, folded and not.

Run ``python -m benchmarks.low_rank``; it prints runs x minutes before it starts, resumes, and appends one JSON line a
run.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bayesprune as bp
from bayesprune.inference.inclusion.ranks import ranks
from bayesprune.models.costs.latency import latency, ratio
from bayesprune.models.ready_networks import make_ready

MINUTES = 0.2
"""Of a run, on one core that others use too."""
LEARNED = (0.05, 0.2, 0.5, 1.0)
BY_HAND = (2, 4, 8, 16)
BATCHES = (1, 128)
WIDER = (64, 256, 512)


def runs(seeds: int) -> list[tuple[str, str, float, int]]:
    """Network, how its ranks come about, pressure or rank, seed."""
    ways = [("full", 0.0), *(("learned", p) for p in LEARNED), *(("by hand", float(r)) for r in BY_HAND)]
    return [(net, *way, seed) for seed in range(seeds) for way in ways for net in ("gru", "fast-grnn")]


def priors(how: str, value: float) -> dict[str, bp.Hierarchy]:
    """The priors on the matrices of a cell."""
    if how == "full":
        return {"cell.*.weight": bp.Gaussian()}
    if how == "learned":
        return {"cell.*.weight": bp.LowRank(value)}
    return {"cell.input.weight": bp.LowRank(1e-6), "cell.recurrent.weight": bp.LowRank(1e-6, rank=int(value))}


def measured(network: str, how: str, value: float, seed: int, splits: Any, epochs: int) -> dict[str, Any]:
    """What one run came to."""
    began, (x, y), (test_x, test_y) = time.perf_counter(), splits.train, splits.test
    torch.manual_seed(seed)
    model = bp.BayesianNetwork(make_ready(network, x.shape[1:], 10), priors(how, value), data_size=len(x))
    fit = bp.fit(
        model, (x, y), epochs=epochs, seed=seed, guide="map", optimizer="sgd", learning_rate=0.5, schedule="cosine"
    )
    pruned = bp.prune(fit, sparsity=0.0)
    small = pruned.compact(test_x[:2])
    full, thin = outputs(pruned.network, test_x), outputs(small.network, test_x)
    counted = bp.costs(pruned.network, test_x[:1], small.network)
    found = {name: one.rank for name, one in ranks(fit).items()} if how != "full" else {}
    return {
        "input_rank": found.get("cell.input.weight"),
        "recurrent_rank": found.get("cell.recurrent.weight"),
        "accuracy": accuracy(full, test_y),
        "folded_accuracy": accuracy(thin, test_y),
        "validation": accuracy(outputs(pruned.network, splits.validation[0]), splits.validation[1]),
        "apart": float((full - thin).abs().max() / full.std(dim=0).mean()),
        "folded": {name: layer.rank for name, layer in small.report.folded.items()},
        "parameters": [counted.parameters, counted.compact_parameters],
        "macs": [counted.dense_macs, counted.compact_macs],
        "latency": times(pruned.network, small.network, test_x) if small.report.folded else None,
        "seconds": time.perf_counter() - began,
    }


@torch.no_grad()
def outputs(network: torch.nn.Module, x: Tensor) -> Tensor:
    """Outputs of a plain network."""
    return network(x)


def accuracy(found: Tensor, y: Tensor) -> float:
    """Share of right classes."""
    return float((found.argmax(1) == y).double().mean())


def times(full: torch.nn.Module, thin: torch.nn.Module, x: Tensor) -> dict[str, float]:
    """How many times as long the network with the product takes, by batch size."""
    found = {}
    for size in BATCHES:
        each = latency({"full": full, "thin": thin}, x[:size], seconds=0.5)
        found[str(size)] = ratio(each["full"], each["thin"]).median
    return found


def wider(hidden: int, batch: int) -> str:
    """A line of the second table: a GRU over 8 steps whose matrices have an eighth of their rank, folded and not."""
    torch.manual_seed(0)
    full = make_ready("gru", (8, hidden), 10, hidden / 64).eval()
    with torch.no_grad():
        for layer in (full.cell.input, full.cell.recurrent):
            u, sizes, v = torch.linalg.svd(layer.weight.double(), full_matrices=False)
            layer.weight.copy_((u[:, : hidden // 8] * sizes[: hidden // 8]) @ v[: hidden // 8])
    x = torch.randn(batch, 8, hidden)
    thin = bp.compact(full, x[:1]).network
    each = latency({"full": full, "thin": thin}, x)
    found = ratio(each["full"], each["thin"])
    return f"| {hidden} | {hidden // 8} | {batch} | {found.median:.2f} | {found.lower:.2f} to {found.upper:.2f} |"


def row(network: str, how: str, value: float, lines: list[dict[str, Any]]) -> str:
    """A line of the table: means over seeds."""

    def mean(of: Any) -> float:
        return statistics.mean(of(line) for line in lines)

    def rank(key: str) -> str:
        return "full" if lines[0][key] is None else f"{mean(lambda line: line[key]):.1f}"

    sd = statistics.stdev(line["accuracy"] for line in lines) if len(lines) > 1 else math.nan
    timed = [line["latency"] for line in lines if line["latency"]]
    fast = " / ".join(f"{statistics.median(t[str(size)] for t in timed):.2f}" for size in BATCHES) if timed else "-"
    apart = max(line["apart"] for line in lines)
    setting = {"full": "full", "learned": f"learned, {value:g}", "by hand": f"by hand, {value:g}"}[how]
    score, macs = 100 * mean(lambda line: line["accuracy"]), mean(lambda line: line["macs"][1])
    return (
        f"| {network} | {setting} | {rank('input_rank')}, {rank('recurrent_rank')} | {score:.2f} +- {100 * sd:.2f} | "
        f"{macs:,.0f} | {apart:.0e} | {fast} |"
    )


def main() -> None:
    """Runs what is not there yet, and prints the table."""
    parser = argparse.ArgumentParser(description="Learned ranks on digits.")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="runs/benchmarks/low_rank.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = Path(options.out)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {tuple(line["run"]): line for line in lines if line["epochs"] == options.epochs}
    wanted = runs(options.seeds)
    missing = [run for run in wanted if run not in done]
    print(f"{len(missing)} runs x {MINUTES} minutes = {MINUTES * len(missing):.0f} minutes are to come", flush=True)
    splits = bp.load_data("digits")
    for run in missing:
        done[run] = {"run": run, "epochs": options.epochs, **measured(*run, splits, options.epochs)}
        with file.open("a") as out:
            out.write(json.dumps(done[run]) + "\n")
        print(json.dumps(done[run]), flush=True)
    print("| network | rank | input, recurrent | test accuracy | MACs | apart | times as fast, batch 1 / 128 |")
    print("|---|---|---|---|---|---|---|")
    for network in ("gru", "fast-grnn"):
        for how, value in dict.fromkeys(run[1:3] for run in wanted):
            print(row(network, how, value, [done[run] for run in wanted if run[:3] == (network, how, value)]))
    print("| hidden units | rank | batch | times as fast | quartiles |\n|---|---|---|---|---|")
    for hidden in WIDER:
        for batch in BATCHES:
            print(wider(hidden, batch))
    seconds = [done[run]["seconds"] for run in wanted]
    print(f"{len(seconds)} runs x {statistics.mean(seconds) / 60:.2f} minutes = {sum(seconds) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
