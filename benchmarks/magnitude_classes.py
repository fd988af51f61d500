"""Magnitude-class pruning on Fashion-MNIST by a published protocol, with the dense control that it lacks.

See, Luong & Manning 2016; the protocol is that of Stier, Darji & Granitzer (arXiv:2107.12917, its code): 784-100-10
with ReLU and 79,400 weights, 50,000 images to train, 10,000 to validate, batch 64, SGD 0.01 without momentum. Before
pruning it is trained until validation accuracy stops to gain, then at 0.001 and 0.0001 with a momentum of 0.5, at most
30 epochs in all. Optimal brain damage takes the curvature of the validation loss. Per seed:

* ``one-shot``: 80 and 90 % at once, and retraining at 0.01 until an epoch gains less than 0.001 points of validation
  accuracy (the first such epoch ends it), at most 10 epochs;
* ``iterative``: 25 % of what is left and two epochs, 14 times;
* ``control``: the dense network trained on as long, from the same weights, at the same learning rate.

Nothing is chosen on test data. Differences are paired by seed, with 95 % intervals by Student's t.

Run ``python -m benchmarks.magnitude_classes --seeds 0 1 2 3 4 --out FILE.json``; it prints runs x minutes, and resumes.
With ``--shard 0/2`` and ``--shard 1/2`` two processes share the seeds; ``--table`` prints what all of them have.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import scipy.stats
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.inference.pruning.report import PruneResult, report_of
from benchmarks.ledger import Ledger

METHODS: dict[str, dict[str, Any]] = {
    "blinded": {"per": "network"},
    "distribution": {"per": "distribution"},
    "uniform": {"per": "layer"},
    "optimal brain damage": {"criterion": "optimal-brain-damage"},
    "random": {"criterion": "random"},
}
SPARSITIES = (0.8, 0.9)
STEPS, EPOCHS, MOST = 14, 2, 10
NOTED = {5: "76 %", 6: "82 %", 8: "90 %", 14: "98 %"}
BEFORE = 30
"""Epochs of training before pruning, at most."""


class Experiment:
    """One seed: its data, and what is trained of it.

    Args:
        seed: Of the weights, of the order of the data, and of what is pruned at random.
        images: Training images; fewer for a trial.
        base: File of the trained dense network.
    """

    def __init__(self, seed: int, images: int, base: Path) -> None:
        splits = bp.load_data("fashion-mnist", validation_fraction=1 / 6, seed=0)
        self.train = splits.train[0][:images], splits.train[1][:images]
        self.validation, self.test, self.seed, self.base = splits.validation, splits.test, seed, base

    def network(self) -> nn.Module:
        """The network with the starting weights of the seed."""
        torch.manual_seed(self.seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))

    def trained(self, result: PruneResult, epochs: int, rate: float = 0.01, momentum: float = 0.0, **how: Any) -> Any:
        """The result trained further by the protocol's SGD."""
        return bp.finetune(
            result, self.train, epochs, batch_size=64, schedule="constant", device="cpu",
            optimizer=lambda groups: torch.optim.SGD(groups, lr=rate, momentum=momentum),
            **{"seed": self.seed, "validation": self.validation} | how,
        )  # fmt: skip

    def pretrained(self) -> dict[str, Any]:
        """Trains the dense network and keeps it: an epoch of `fit`, as far as validation gains, and at lower rates."""
        network = self.network()
        prior = bp.Gaussian(1e3)  # flat: maximum likelihood, as published
        names = [name for name, parameter in network.named_parameters() if parameter.ndim > 1]
        model = bp.BayesianNetwork(network, dict.fromkeys(names, prior), data_size=len(self.train[0]))
        fit = bp.fit(
            model, self.train, guide="map", epochs=1, batch_size=64, schedule="constant", seed=self.seed, device="cpu",
            optimizer=lambda groups: torch.optim.SGD(groups, lr=0.01), kl_warmup=0.0,
        )  # fmt: skip
        result, done = bp.prune(fit, sparsity=0.0), 1
        for rate, momentum in ((0.01, 0.0), (0.001, 0.5), (0.0001, 0.5)):
            if done < BEFORE:
                result = self.trained(
                    result, BEFORE - done, rate, momentum, patience=1, min_gain=1e-7, seed=self.seed + done
                )
                done += epochs_of(result)
        self.base.parent.mkdir(parents=True, exist_ok=True)
        torch.save(result.network.state_dict(), self.base)
        return {"epochs": done, "test": self.accuracy(result), "validation": accuracy(result, *self.validation)}

    def dense(self) -> PruneResult:
        """The dense network that was kept, with nothing pruned."""
        network = self.network()
        network.load_state_dict(torch.load(self.base, weights_only=True))
        masks = {n: torch.ones_like(p, dtype=torch.bool) for n, p in network.named_parameters() if p.ndim > 1}
        return PruneResult(
            network.eval(), masks, report_of("dense", "none", None, network, masks), bp.Categorical(), (1, 28, 28)
        )

    def accuracy(self, result: PruneResult) -> float:
        """On the test images."""
        return accuracy(result, *self.test)

    def one_shot(self, method: str, sparsity: float) -> dict[str, Any]:
        """Prunes at once, and retrains until it gains no more."""
        result = bp.prune(self.dense(), sparsity=sparsity, data=self.validation, seed=self.seed, **METHODS[method])
        before = self.accuracy(result)
        after = self.trained(result, MOST, patience=1, min_gain=1e-5)
        rows = after.report.per_tensor
        left = {f"left in {name}": row["nonzero"] for name, row in rows.items()}
        return {"before": before, "test": self.accuracy(after), "epochs": epochs_of(after), **left}

    def iterative(self, method: str) -> dict[str, Any]:
        """Prunes a quarter of what is left and retrains for two epochs, again and again."""
        result, found = self.dense(), {}
        for step in range(1, STEPS + 1):
            result = bp.prune(result, share=0.25, data=self.validation, seed=self.seed, **METHODS[method])
            result = self.trained(result, EPOCHS, validation=None, seed=self.seed + 100 * step)
            found[str(step)] = {"weights": result.report.nonzero, "test": self.accuracy(result)}
        return {"steps": found, "test": found[str(STEPS)]["test"]}

    def control(self) -> dict[str, Any]:
        """Trains the dense network on: test accuracy after each epoch, for runs of every length."""
        result, found = self.dense(), {}
        for epoch in range(1, STEPS * EPOCHS + 1):
            result = self.trained(result, 1, validation=None, seed=self.seed + 100 * epoch)
            found[str(epoch)] = self.accuracy(result)
        return {"epochs": found, "test": found[str(MOST)]}


@torch.no_grad()
def accuracy(result: PruneResult, x: Tensor, y: Tensor) -> float:
    """Share of images classified right."""
    return float((result.network(x).argmax(1) == y).double().mean())


def epochs_of(result: PruneResult) -> int:
    """How many epochs its last training took."""
    assert result.report.finetuned is not None
    return int(result.report.finetuned.split("; then ")[-1].split(" epoch")[0])


def runs(seed: int) -> dict[str, Callable[[Experiment], dict[str, Any]]]:
    """The runs of a seed in order, by name."""
    found: dict[str, Callable[[Experiment], dict[str, Any]]] = {f"{seed}/dense": Experiment.pretrained}
    found[f"{seed}/control"] = Experiment.control
    for method in METHODS:
        for sparsity in SPARSITIES:
            found[f"{seed}/one-shot {method} {sparsity:g}"] = lambda one, m=method, s=sparsity: one.one_shot(m, s)
        found[f"{seed}/iterative {method}"] = lambda one, m=method: one.iterative(m)
    return found


def interval(values: Sequence[float]) -> str:
    """Mean of paired differences in points, with its 95 % interval."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{100 * mean:+.2f}"
    half = float(scipy.stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{100 * mean:+.2f} [{100 * (mean - half):+.2f}, {100 * (mean + half):+.2f}]"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation in percent."""
    sd = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{100 * statistics.mean(values):.2f} +- {100 * sd:.2f}"


def tables(found: dict[str, Any]) -> str:
    """The tables in markdown, of the seeds that are complete."""
    seeds = [n.split("/")[0] for n in found if n.endswith("/dense")]
    seeds = [seed for seed in seeds if all(name in found for name in runs(int(seed)))]
    if not seeds:
        return "no seed is complete yet"
    dense = [found[f"{seed}/dense"]["test"] for seed in seeds]
    control = [found[f"{seed}/control"]["epochs"] for seed in seeds]
    lines = [
        f"{len(seeds)} seeds; dense {spread(dense)} after "
        f"{', '.join(str(found[f'{seed}/dense']['epochs']) for seed in seeds)} epochs; "
        f"trained on {MOST} epochs {spread([c[str(MOST)] for c in control])}, {STEPS * EPOCHS} epochs "
        f"{spread([c[str(STEPS * EPOCHS)] for c in control])}",
        "",
        "| one-shot | before retraining | after | epochs | - blinded | - dense | - control of as many epochs |",
        "|---|---|---|---|---|---|---|",
    ]
    for sparsity in SPARSITIES:
        best = [found[f"{seed}/one-shot blinded {sparsity:g}"] for seed in seeds]
        for method in METHODS:
            rows = [found[f"{seed}/one-shot {method} {sparsity:g}"] for seed in seeds]
            after = [row["test"] for row in rows]
            as_long = [c[str(row["epochs"])] for c, row in zip(control, rows, strict=True)]
            lines.append(
                f"| {100 * sparsity:g} % {method} | {spread([row['before'] for row in rows])} | {spread(after)} | "
                f"{statistics.mean(row['epochs'] for row in rows):.1f} | "
                f"{interval([a - b['test'] for a, b in zip(after, best, strict=True)])} | "
                f"{interval([a - d for a, d in zip(after, dense, strict=True)])} | "
                f"{interval([a - c for a, c in zip(after, as_long, strict=True)])} |"
            )
    lines += ["", f"| iterative, test accuracy at | {' | '.join(NOTED.values())} |", "|---" * (len(NOTED) + 1) + "|"]
    steps = {m: [found[f"{seed}/iterative {m}"]["steps"] for seed in seeds] for m in METHODS}
    for method in METHODS:
        cells = [spread([row[str(step)]["test"] for row in steps[method]]) for step in NOTED]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    cells = [spread([c[str(EPOCHS * step)] for c in control]) for step in NOTED]
    lines.append(f"| dense control of as many epochs | {' | '.join(cells)} |")
    comparisons = {
        "blinded - dense": lambda i, s: steps["blinded"][i][s]["test"] - dense[i],
        "blinded - control": lambda i, s: steps["blinded"][i][s]["test"] - control[i][str(EPOCHS * int(s))],
        "blinded - uniform": lambda i, s: steps["blinded"][i][s]["test"] - steps["uniform"][i][s]["test"],
        "blinded - distribution": lambda i, s: steps["blinded"][i][s]["test"] - steps["distribution"][i][s]["test"],
        "blinded - optimal brain damage": lambda i, s: (
            steps["blinded"][i][s]["test"] - steps["optimal brain damage"][i][s]["test"]
        ),
    }
    for name, difference in comparisons.items():
        cells = [interval([difference(i, str(step)) for i in range(len(seeds))]) for step in NOTED]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/magnitude_classes.json"))
    parser.add_argument("--shard", default="0/1", help="this process of how many, by seed: 0/2")
    parser.add_argument("--images", type=int, default=50_000, help="training images, fewer for a trial")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    given = parser.parse_args()
    part, parts = map(int, given.shard.split("/"))
    if not given.table:
        torch.set_num_threads(1)
        place = given.out if parts == 1 else given.out.with_suffix(f".{part}.json")
        ledger = Ledger(place)
        for seed in given.seeds[part::parts]:
            one = Experiment(seed, given.images, given.out.with_suffix(f".base-{seed}.pt"))
            for name, run in runs(seed).items():
                ledger.run(name, lambda run=run, one=one: run(one))
        print(ledger.cost())
    found: dict[str, Any] = {}
    for file in sorted(given.out.parent.glob(f"{given.out.stem}*.json")):
        found |= json.loads(file.read_text())
    print(tables(found))


if __name__ == "__main__":
    main()
