"""Local reparameterisation through gates: what a step costs beside one of drawn weights, and how quiet its gradient is.

LeNet-300-100 under spike and slab, batch 128, one thread.

    python -m benchmarks.local_reparameterisation                     # both tables, about 3 processor minutes
    python -m benchmarks.local_reparameterisation --tables cost --blocks 31
    python -m benchmarks.local_reparameterisation --tables variance --epochs 2 --draws 400

``cost``: processor time of a whole step (`Stepper.step`: loss, gradient, Adam) with drawn outputs over that with drawn
weights, in blocks in which both run in turn; random data, on which nothing depends. ``variance``: the sum over entries
of the variance of the gradient over draws, with weights drawn over with outputs drawn, by parameter of the guide, at
one point and one batch: the start, and after some epochs on Fashion-MNIST (drawn outputs, KL weight 0.1). The batch is
the first of the test order; labels are not looked at for anything else.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.training.optimizers import make_optimizer

DATA, BATCH = 60_000, 128
PARAMETERS = ("location", "log_scale", "logit")


def objective_of(drawn_outputs: bool, guide: Guide | None = None) -> Objective:
    """The objective of the network, with outputs or with weights drawn.

    Args:
        drawn_outputs: Whether layers draw their outputs.
        guide: A guide to take over; default None: one that begins.
    """
    if guide is None:
        torch.manual_seed(0)
        model = bp.BayesianNetwork(bp.lenet_300_100(), {"*.weight": bp.SpikeAndSlab(0.02)}, data_size=DATA)
        guide = Guide(model)
    how = Gradient(local_reparameterisation=None if drawn_outputs else False)
    return Objective(guide.model, guide, how).train()


def stepping(drawn_outputs: bool, execution: str) -> Callable[[], object]:
    """A function that takes one step on random data."""
    x, y = torch.rand(BATCH, 784), torch.randint(10, (BATCH,))
    objective = objective_of(drawn_outputs)
    compiled = True if execution == "fused" else None
    stepper = bp.Stepper(objective, make_optimizer("adam", objective, 1e-3), 1_000_000, execution, compiled)
    return lambda: stepper.step(x, y, 0.1)


def processor_seconds(steps: Mapping[str, Callable[[], object]], blocks: int, count: int) -> dict[str, list[float]]:
    """Processor seconds of a step in each block, in which each runs some times in turn.

    Args:
        steps: Functions that take a step, by name.
        blocks: Blocks.
        count: Steps in a block.
    """
    for step in steps.values():
        for _ in range(5):
            step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for block in range(blocks):
        for name in list(steps)[:: 1 if block % 2 else -1]:
            begin = time.process_time()
            for _ in range(count):
                steps[name]()
            found[name].append((time.process_time() - begin) / count)
    return found


def print_costs(executions: list[str], blocks: int, count: int) -> None:
    """Prints the table of costs."""
    print("| step | weights drawn, ms | outputs drawn, ms | outputs / weights | quartiles |\n|---|---|---|---|---|")
    for execution in executions:
        steps = {name: stepping(name == "outputs", execution) for name in ("weights", "outputs")}
        found = processor_seconds(steps, blocks, count)
        ratios = [a / b for a, b in zip(found["outputs"], found["weights"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        weights, outputs = (1e3 * statistics.median(found[name]) for name in ("weights", "outputs"))
        print(f"| {execution} | {weights:.2f} | {outputs:.2f} | {middle:.2f} | {low:.2f} to {high:.2f} |", flush=True)


def variances(objective: Objective, x: Tensor, y: Tensor, draws: int) -> dict[str, float]:
    """Sums of the variance of the gradient over draws, by name of the guide's parameter."""
    parameters = dict(objective.guide.named_parameters())
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    squares = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    for _ in range(draws):
        loss = objective.terms(x, y).loss / DATA
        for (name, _), g in zip(parameters.items(), torch.autograd.grad(loss, list(parameters.values())), strict=True):
            sums[name] += g
            squares[name] += g.double().square()
    found = {name: (squares[name] - sums[name].square() / draws).sum() / (draws - 1) for name in parameters}
    return {name.rpartition(".")[2]: float(value) for name, value in found.items()}


def print_variances(epochs: int, draws: int) -> None:
    """Prints the table of variances."""
    data = bp.load_data("fashion-mnist")
    x, y = (torch.as_tensor(one) for one in data.train)
    x, guide = x.reshape(len(x), -1), objective_of(True).guide
    points = {"at the start": guide}
    model = bp.BayesianNetwork(bp.lenet_300_100(), {"*.weight": bp.SpikeAndSlab(0.02)}, data_size=len(x))
    fit = bp.fit(model, (x, y), epochs=epochs, learning_rate=2e-3, kl_weight=0.1, seed=0, device="cpu")
    points[f"after {epochs} epochs"] = fit.restarts[0].guide
    print("| variance of the gradient, weights drawn / outputs drawn | " + " | ".join(PARAMETERS) + " |")
    print("|---" * (1 + len(PARAMETERS)) + "|")
    for where, at in points.items():
        found = [variances(objective_of(drawn, at), x[:BATCH], y[:BATCH], draws) for drawn in (False, True)]
        ratios = [f"{found[0][name] / found[1][name]:.1f}" for name in PARAMETERS]
        print(f"| {where} | " + " | ".join(ratios) + " |", flush=True)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=["cost", "variance"], choices=["cost", "variance"])
    parser.add_argument("--executions", nargs="+", default=["plain", "fused"], choices=["plain", "fused"])
    parser.add_argument("--blocks", type=int, default=21)
    parser.add_argument("--steps", type=int, default=5, help="in a block")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--draws", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}, {platform.processor() or platform.machine()}, one thread")
    if "cost" in args.tables:
        print_costs(args.executions, args.blocks, args.steps)
    if "variance" in args.tables:
        print_variances(args.epochs, args.draws)


if __name__ == "__main__":
    main()
