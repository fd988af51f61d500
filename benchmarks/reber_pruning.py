"""Recurrent networks on Reber grammars, pruned by target and trained on: accuracies before and after.

The published experiment (Stier, Darji, Granitzer 2021), smaller: 5,000 strings of up to 30 letters, half of them valid,
of which 3,500 are trained on; networks `RecurrentStack` of three layers of 50 units, fitted by ``bp.fit`` as a MAP
under Gaussians of sd 10, which is maximum likelihood but for 0.1 % of the loss, with Adam and batches of 64. Then, from
the same fit each time, the smallest weights of a target are pruned over all three layers and all gates (class-blind):
the input-to-hidden matrices, the hidden-to-hidden ones, or both; embedding, read-out and biases stay. 100 % is all but
one weight, as the published code has it. Then two epochs by ``bp.finetune``, zeros held, at the same learning rate. The
row *dense* is the fit itself with one weight pruned: what the same two epochs do without pruning.

On *plain* strings three letters in a row tell valid from invalid; *embedded* ones are invalid by the letter before the
end, which is not that after the beginning, and have to be remembered. What can be told without a memory is printed
beside. Learning rates and epochs were chosen on the validation strings; the 1,000 test strings are looked at once.

Run ``python -m benchmarks.reber_pruning``; it prints runs x minutes before it starts and resumes from ``--out``. With
``--shard i/n`` it makes the i-th of n parts of the runs; ``--table`` prints the tables of what is there.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from typing import Any

import torch
from torch import Tensor

import bayesprune as bp
from bayesprune.data.reber import Leakage, n_gram_leakage, reber_strings, tokens_of
from bayesprune.inference.predictions.plain_scores import plain_scores
from bayesprune.models.structure.recurrent_layer import KINDS
from bayesprune.models.structure.recurrent_stack import RecurrentStack
from benchmarks.ledger import Ledger

GRAMMARS = ("plain", "embedded")
TARGETS = {
    "both": ("*.input.weight", "*.recurrent.weight"),
    "input to hidden": ("*.input.weight",),
    "hidden to hidden": ("*.recurrent.weight",),
}
LEVELS = (0.6, 0.8, 0.9, 1.0)
DENSE = "dense"
STRINGS, LONGEST, TEST, VALIDATION, BATCH = 5000, 30, 1000, 500, 64
RATES = {"rnn-tanh": 1e-3, "rnn-relu": 1e-3, "gru": 3e-3, "lstm": 1e-3}
EPOCHS = {"rnn-tanh": 60, "rnn-relu": 60, "gru": 20, "lstm": 20}
MINUTES = {"rnn-tanh": 0.8, "rnn-relu": 0.8, "gru": 1.2, "lstm": 0.7}
"""Of a run, of processor time on one core."""
_Pair = tuple[Tensor, Tensor]


def data(grammar: str) -> tuple[_Pair, _Pair, _Pair, Leakage]:
    """Training, validation and test strings, and what the test strings tell without a memory."""
    drawn = reber_strings(STRINGS, embedded=grammar == "embedded", max_length=LONGEST)
    x, y = torch.from_numpy(tokens_of(drawn.strings)), torch.tensor(drawn.labels)
    first, second = STRINGS - TEST - VALIDATION, STRINGS - TEST
    parts = [(x[part], y[part]) for part in (slice(first), slice(first, second), slice(second, None))]
    return parts[0], parts[1], parts[2], n_gram_leakage(drawn[:first], drawn[second:])


def measured(grammar: str, kind: str, seed: int, epochs: int) -> dict[str, Any]:
    """One network: its accuracies, on the test strings, as fitted, pruned and trained on."""
    train, validation, test, leakage = data(grammar)
    torch.manual_seed(seed)
    network = RecurrentStack(kind)
    model = bp.BayesianNetwork(
        network, {"layers.*.weight": bp.Gaussian(sd=10.0)}, bp.Categorical(), data_size=len(train[0])
    )
    how: dict[str, Any] = {"learning_rate": RATES[kind], "batch_size": BATCH, "schedule": "constant"}
    fit = bp.fit(model, train, epochs=epochs, guide="map", seed=seed, kl_weight=1.0, clip=5.0, **how)
    found: dict[str, Any] = {
        "epochs": epochs,
        "validation": fit.score(*validation)["accuracy"],
        "base": fit.score(*test)["accuracy"],
        "leakage": {"length": leakage.length, "majority": leakage.majority}
        | {f"{n}-grams": share for n, share in leakage.n_grams.items()},
    }
    sizes = {name: weight.numel() for name, weight in network.named_parameters()}
    for target, level in [("both", 0.0), *itertools.product(TARGETS, LEVELS)]:
        ends = tuple(pattern.removeprefix("*") for pattern in TARGETS[target])
        there = sum(size for name, size in sizes.items() if name.endswith(ends))
        count = min(max(round(level * there), 1), there - 1)
        result = bp.prune(fit, count=count, only=TARGETS[target], criterion="magnitude")
        scores = [plain_scores(result.network, result.likelihood, *test)["accuracy"]]
        for epoch in range(2):
            result = bp.finetune(result, train, 1, seed=seed + 100 + epoch, **how)
            scores.append(plain_scores(result.network, result.likelihood, *test)["accuracy"])
        found[DENSE if level == 0.0 else f"{target} {level:.0%}"] = scores
    return found


def runs(seeds: int) -> list[tuple[str, str, int]]:
    """Grammar, kind and seed."""
    return [(grammar, kind, seed) for seed in range(seeds) for grammar in GRAMMARS for kind in KINDS]


def table(ledger: Ledger) -> str:
    """The tables in markdown: means over seeds, and their range where there are several."""
    lines = []
    for grammar in GRAMMARS:
        by_kind = {
            kind: [run for name, run in ledger.runs.items() if name.startswith(f"{grammar} {kind} ")] for kind in KINDS
        }
        if not any(by_kind.values()):
            continue
        leaks = next(found[0]["leakage"] for found in by_kind.values() if found)
        seeds = max(len(found) for found in by_kind.values())
        lines += [
            f"\n**{grammar}**, {seeds} seed{'s' * (seeds != 1)}; accuracies on {TEST:,} test strings: pruned / after 1 "
            "epoch / after 2. Without a memory: "
            + ", ".join(f"{name} {share:.1%}" for name, share in leaks.items())
            + ".\n",
            f"| pruned | {' | '.join(KINDS)} |",
            f"|---|{'---|' * len(KINDS)}",
            "| nothing | " + " | ".join(_shown([[run["base"]] for run in by_kind[kind]]) for kind in KINDS) + " |",
        ]
        names = [DENSE, *(f"{target} {level:.0%}" for target in TARGETS for level in LEVELS)]
        lines += [
            f"| {name} | " + " | ".join(_shown([run[name] for run in by_kind[kind]]) for kind in KINDS) + " |"
            for name in names
        ]
    return "\n".join(lines)


def _shown(found: list[list[float]]) -> str:
    if not found:
        return ""
    shown = []
    for scores in zip(*found, strict=True):
        spread = f" ({min(scores):.3f}-{max(scores):.3f})" if len(scores) > 1 else ""
        shown.append(f"{statistics.mean(scores):.3f}{spread}")
    return " / ".join(shown)


def main() -> None:
    """Makes the runs that are missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/benchmarks/reber_pruning.json")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--shard", default="1/1", help="the i-th of n parts of the runs, i/n")
    parser.add_argument("--epochs", type=int, default=None, help="of training, for a trial; default: those chosen")
    parser.add_argument("--only", default="", help="runs whose names begin so, such as 'plain gru'")
    parser.add_argument("--table", action="store_true", help="print the tables of what is there, and run nothing")
    given = parser.parse_args()
    ledger = Ledger(given.out)
    if not given.table:
        torch.set_num_threads(1)
        part, parts = map(int, given.shard.split("/"))
        mine = [run for run in runs(given.seeds)[part - 1 :: parts] if " ".join(map(str, run)).startswith(given.only)]
        minutes = sum(MINUTES[kind] for _, kind, _ in mine)
        print(f"{len(mine)} runs, {math.ceil(minutes)} processor minutes", flush=True)
        for grammar, kind, seed in mine:
            epochs = EPOCHS[kind] if given.epochs is None else given.epochs
            ledger.run(
                f"{grammar} {kind} {seed}",
                lambda grammar=grammar, kind=kind, seed=seed, epochs=epochs: measured(grammar, kind, seed, epochs),
            )
    print(ledger.cost())
    print(table(ledger))


if __name__ == "__main__":
    main()
