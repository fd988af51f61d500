"""What masks cost: a training step under `DynamicMasks` over a dense one by turns, and an update of masks in steps.

LeNet-300-100 (batch 128) and ResNet-20 at 14 by 14 (batch 128), deterministic training by SGD (points under weight
decay), RigL at a density of 0.05, plain and fused. Random data: nothing here depends on them. Ratios are taken within
blocks in which each step runs in turn, so that what else the machine does hits all alike.

    python -m benchmarks.masked_step --threads 1
    python -m benchmarks.masked_step --networks resnet-20 --executions plain --blocks 7

``step`` is a step without an update over the dense step; ``update`` what an update adds to a step, in dense steps: its
dense gradient (of a plain step, also in the fused execution), scores, the exchange, and what is cleared. It takes about
a minute on one core; the fused execution compiles each network twice, a minute more for ResNet-20.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.masks.dynamic_masks import DynamicMasks
from bayesprune.inference.rules.rule import Rule
from bayesprune.inference.runtime.one_process import OneProcess
from bayesprune.inference.training.fit_options import FitOptions
from bayesprune.inference.training.restart_run import Plan, RestartRun
from bayesprune.inference.training.settled_training import settled_training
from benchmarks.alternation import alternate, summarise

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet-300-100": (bp.lenet_300_100, (784,)),
    "resnet-20": (lambda: bp.resnet_20(in_channels=1), (1, 14, 14)),
}
DATA, BATCH, STEPS = 60_000, 128, 1_000_000


def run_of(network: str, execution: str, rules: list[Rule]) -> RestartRun:
    """A restart that takes steps of a million."""
    torch.manual_seed(0)
    build, shape = NETWORKS[network]
    model = bp.BayesianNetwork(build(), {"*.weight": bp.Gaussian.from_weight_decay(1e-4, data_size=DATA)}, None, DATA)
    for rule in rules:
        rule.prepare(model, torch.zeros(1, *shape))
    model.train()
    compiled = True if execution == "fused" else None
    how = FitOptions(
        steps=STEPS, kl_weight=1.0, execution=execution, compiled=compiled, optimizer="sgd", learning_rate=0.1,
        schedule="cosine",
    )  # fmt: skip
    how = settled_training(how, model, "map", rules)
    plan = Plan(how, "map", rules, OneProcess(torch.device("cpu"), torch.float32, None), STEPS, 1000, None, [], None)
    return RestartRun(plan, 0, model, Guide(model, "map"), 0.0)


def measured(network: str, execution: str, blocks: int, seconds: float) -> dict[str, Any]:
    """Costs of a case, in milliseconds and in dense steps.

    Args:
        network: One of `NETWORKS`.
        execution: ``"plain"`` or ``"fused"``.
        blocks: Timed blocks.
        seconds: About how long each step runs in a block.
    """
    _, shape = NETWORKS[network]
    x, y = torch.rand(BATCH, *shape), torch.randint(10, (BATCH,))
    rare = DynamicMasks(density=0.05, every=0.125)
    always = DynamicMasks(density=0.05, every=1)
    runs = {
        "dense": run_of(network, execution, []),
        "masked": run_of(network, execution, [rare]),
        "with an update": run_of(network, execution, [always]),
    }
    times = alternate({name: lambda run=run: run.take_step(x, y) for name, run in runs.items()}, blocks, seconds)
    costs = summarise(times, "dense")
    return {
        "ms": {name: cost.ms for name, cost in costs.items()},
        "step": costs["masked"].ratio,
        "step_quartiles": costs["masked"].ratio_quartiles,
        "update": costs["with an update"].ratio - costs["masked"].ratio,
    }


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--executions", nargs="+", default=["plain", "fused"], choices=["plain", "fused"])
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--block-seconds", type=float, default=0.2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"PyTorch {torch.__version__}, {platform.processor() or platform.machine()}, {args.threads} threads")
    print(f"{'':28}{'dense ms':>10}{'masked ms':>11}{'masked/dense':>14}{'quartiles':>16}{'update, steps':>15}")
    for network in args.networks:
        for execution in args.executions:
            found = measured(network, execution, args.blocks, args.block_seconds)
            low, high = found["step_quartiles"]
            print(
                f"{network + ', ' + execution:28}{found['ms']['dense']:10.2f}{found['ms']['masked']:11.2f}"
                f"{found['step']:14.3f}{f'{low:.3f} to {high:.3f}':>16}{found['update']:15.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
