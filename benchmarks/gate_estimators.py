"""Bias, noise and cost of the estimators of the gradient of gate probabilities, on trained networks.

An MLP of 64-60-10 units on scikit-learn's digits is trained with theta of all 60 gates held at one value, masks drawn
for each example (Adam, 2e-3 falling to 0, batches of 64, weight decay 1e-4 per datum). The exact gradient is the mean
over draws of all gates of C(open) - C(closed) on the training data, from the logits with and without each unit. Every
estimator then makes 600 steps with these weights, on random batches of 128. Times are of the processor, one thread.
Run ``python -m benchmarks.gate_estimators``; it resumes, and prints the tables and what they cost.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import bayesprune as bp
from bayesprune.inference.objective.unit_gate_estimators import ESTIMATORS, Gates
from benchmarks.ledger import Ledger

THETAS = (0.5, 0.8, 0.95, 0.99)
HIDDEN, CLASSES, DECAY = 60, 10, 1e-4
MASKS = {"example": True, "batch": False}
EXACT_DRAWS = 300

Weights = tuple[Tensor, Tensor, Tensor, Tensor]


def outputs(weights: Weights, x: Tensor, gate: Tensor) -> Tensor:
    """Logits, with the hidden units multiplied by the gates."""
    first, first_bias, second, second_bias = weights
    return F.linear(F.relu(F.linear(x, first, first_bias)) * gate, second, second_bias)


def losses(weights: Weights, x: Tensor, y: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
    """Negative log-likelihood of each example, in nats."""
    return F.cross_entropy(outputs(weights, x, gates["gate"]), y, reduction="none")


def trained(x: Tensor, y: Tensor, theta: float, epochs: int) -> Weights:
    """Weights trained under gates of this probability."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.Linear(HIDDEN, CLASSES)
    weights = (layers[0].weight, layers[0].bias, layers[1].weight, layers[1].bias)
    optimizer = torch.optim.Adam(weights, 2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            gate = torch.bernoulli(torch.full((len(rows), HIDDEN), theta))
            decay = 0.5 * DECAY * sum((w.square().sum() for w in weights), torch.zeros(()))
            (F.cross_entropy(outputs(weights, x[rows], gate), y[rows]) + decay).backward()
            optimizer.step()
        schedule.step()
    return weights


@torch.no_grad()
def exact(weights: Weights, x: Tensor, y: Tensor, theta: float) -> Tensor:
    """The gradient of theta by averaging over draws, (units,)."""
    first, first_bias, second, _ = weights
    parts = F.relu(F.linear(x, first, first_bias))[..., None] * second.T  # (examples, units, classes)
    total = torch.zeros(HIDDEN)
    for _ in range(EXACT_DRAWS):
        gate = torch.bernoulli(torch.full((len(x), HIDDEN), theta))
        without = outputs(weights, x, gate)[:, None] - gate[..., None] * parts
        target = y[:, None].expand(-1, HIDDEN)
        closed, opened = (
            F.cross_entropy(logits.transpose(1, 2), target, reduction="none").mean(0)
            for logits in (without, without + parts)
        )
        total += opened - closed
    return total / EXACT_DRAWS


def steps_of(
    name: str, weights: Weights, data: Any, theta: float, per_example: bool, steps: int
) -> tuple[Tensor, float]:
    """Gradients of single steps, (steps, units), and milliseconds of one."""
    torch.manual_seed(1)
    x, y = data
    parameter = torch.full((HIDDEN,), theta, requires_grad=True)
    gates = Gates({"gate": parameter}, {"gate": torch.ones(HIDDEN, dtype=torch.bool)}, 128, per_example)
    estimator, found, began = ESTIMATORS[name](), [], 0.0
    for step in range(-20, steps):  # the first 20 warm up
        if step == 0:
            began = time.process_time()
        rows = torch.randint(len(x), (gates.batch,))
        estimate = estimator(functools.partial(losses, weights, x[rows], y[rows]), gates)
        gradient, *_ = torch.autograd.grad(estimate.surrogate, (parameter, *weights))
        if step >= 0:
            found.append(gradient)
    return torch.stack(found), 1e3 * (time.process_time() - began) / steps


def measured(data: Any, theta: float, epochs: int, steps: int) -> dict[str, Any]:
    """Bias, noise and cost of every estimator at one theta."""
    weights = trained(*data, theta, epochs)
    truth = exact(weights, *data, theta)
    table: dict[str, Any] = {"exact": float(truth.mean())}
    for kind, per_example in MASKS.items():
        for name in ESTIMATORS:
            found, milliseconds = steps_of(name, weights, data, theta, per_example, steps)
            mean = found.mean(0)
            of_all = found.mean(1) / truth.mean()
            table[f"{name}, {kind}"] = {
                "ratio": float(mean.mean() / truth.mean()),
                "error": float(of_all.std() / steps**0.5),
                "correlation": float(torch.corrcoef(torch.stack([mean, truth]))[0, 1]),
                "sd": float(found.std(0).mean()),
                "milliseconds": milliseconds,
            }
    return table


def main() -> None:
    """Measures at each theta and prints one table for each kind of masks."""
    parser = argparse.ArgumentParser(description="Estimators of the gradient of gate probabilities.")
    parser.add_argument("--epochs", type=int, default=100, help="of training (default 100)")
    parser.add_argument("--steps", type=int, default=600, help="of each estimator (default 600)")
    parser.add_argument("--out", default="runs/benchmarks/gate_estimators.json", help="ledger of finished runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, y = bp.load_data("digits").train
    data, ledger = (x.flatten(1), y), Ledger(options.out)
    runs = {
        theta: ledger.run(f"theta {theta}", functools.partial(measured, data, theta, options.epochs, options.steps))
        for theta in THETAS
    }
    print("exact, mean over units: " + ", ".join(f"{theta}: {run['exact']:.5f}" for theta, run in runs.items()))
    for kind in MASKS:
        print(f"\na mask for each {kind}: ratio +- its standard error / correlation / sd of a step at each theta")
        print(f"| estimator | {' | '.join(map(str, THETAS))} | ms |")
        for name in ESTIMATORS:
            rows = [run[f"{name}, {kind}"] for run in runs.values()]
            cells = (f"{r['ratio']:.2f} +- {r['error']:.2f} / {r['correlation']:.2f} / {r['sd']:.4f}" for r in rows)
            print(f"| {name} | {' | '.join(cells)} | {min(r['milliseconds'] for r in rows):.1f} |")
    print(f"\ncost: {ledger.cost()}")


if __name__ == "__main__":
    main()
