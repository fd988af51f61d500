"""IVON (Shen et al. 2024), natural-gradient updates of independent Normals, beside Adam on their locations and log sds.

Run ``python -m benchmarks.ivon_trial --out FOLDER`` with the authors' package (``pip install ivon-opt``). Nothing
of bayesprune is fitted here: LeNet-300-100 on Fashion-MNIST, a Normal of one sd as the prior of all weights and biases,
equal epochs, hold-cosine, batches of 128. Adam draws the weights once a batch, or the outputs of every layer (local
reparameterisation). Printed are scores of validation data, and the objective: the expected loss of a training example
plus the weighted KL term, in nats an example.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import bayesprune as bp
from benchmarks.ledger import Ledger

SIZES = (784, 300, 100, 10)
PRIOR_SD, BATCH, FADE = 0.1, 128, 0.2
Normals = tuple[list[Tensor], list[Tensor]]
ARMS: dict[str, dict[str, Any]] = {
    "Adam, one draw": {"learning_rate": 1e-3},
    "Adam, drawn outputs": {"learning_rate": 1e-3, "outputs": True},
    "IVON, h0 .1, beta2 .9999": {"learning_rate": 0.1, "start": 0.1, "beta2": 0.9999},
    "IVON, h0 .001, beta2 .9999": {"learning_rate": 0.3, "start": 0.001, "beta2": 0.9999},
    "IVON, h0 .03, beta2 .999": {"learning_rate": 0.3, "start": 0.03, "beta2": 0.999},
    "IVON, h0 .01, beta2 .999": {"learning_rate": 0.3, "start": 0.01, "beta2": 0.999},
}


def lenet(seed: int) -> nn.Sequential:
    """LeNet-300-100 at PyTorch's starting weights."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(SIZES):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def held_then_cosine(done: float) -> float:
    """The factor on the learning rate."""
    return 1.0 if done < 0.5 else 0.5 * (1.0 + math.cos(math.pi * (2.0 * done - 1.0)))


def divergence(means: list[Tensor], log_sds: list[Tensor]) -> Tensor:
    """KL to the prior, in nats."""
    pairs = zip(means, log_sds, strict=True)
    scaled = 2.0 * PRIOR_SD**2
    return torch.stack(
        [(math.log(PRIOR_SD) - r + ((2.0 * r).exp() + m.square()) / scaled - 0.5).sum() for m, r in pairs]
    ).sum()


def batches(size: int, epochs: int) -> list[Tensor]:
    """The rows of every batch, in a new order each epoch."""
    return [rows for _ in range(epochs) for rows in torch.randperm(size).split(BATCH) if len(rows) == BATCH]


def by_adam(
    x: Tensor, y: Tensor, epochs: int, kl_weight: float, seed: int, learning_rate: float, outputs: bool = False
) -> Normals:
    """Locations and log sds by Adam, the latter ten times as fast; the KL term fades in."""
    means = [p.detach().clone().requires_grad_() for p in lenet(seed).parameters()]
    starts = [math.log(0.1 * max(float(m.detach().square().mean().sqrt()), 1e-3)) for m in means]
    log_sds = [torch.full_like(m, start).requires_grad_() for m, start in zip(means, starts, strict=True)]
    groups = [{"params": means, "lr": learning_rate}, {"params": log_sds, "lr": 10.0 * learning_rate}]
    optimizer = torch.optim.Adam(groups)
    order = batches(len(x), epochs)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: held_then_cosine(step / len(order)))
    for step, rows in enumerate(order):
        hidden = x[rows]
        for k in range(0, len(means), 2):
            hidden = hidden.relu() if k else hidden
            (weight, bias), (weight_sd, bias_sd) = means[k : k + 2], (r.exp() for r in log_sds[k : k + 2])
            if outputs:
                variance = functional.linear(hidden.square(), weight_sd.square(), bias_sd.square())
                hidden = functional.linear(hidden, weight, bias)
                hidden = hidden + variance.sqrt() * torch.randn_like(hidden)
            else:
                weight = weight + weight_sd * torch.randn_like(weight)
                hidden = functional.linear(hidden, weight, bias + bias_sd * torch.randn_like(bias))
        faded = kl_weight * min(1.0, step / (FADE * len(order)))
        loss = functional.cross_entropy(hidden, y[rows]) + faded * divergence(means, log_sds) / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return [m.detach() for m in means], [r.detach().exp() for r in log_sds]


def by_ivon(
    x: Tensor, y: Tensor, epochs: int, kl_weight: float, seed: int, learning_rate: float, start: float, beta2: float
) -> Normals:
    """The package's own optimizer: its sample size is that of the tempered likelihood, its decay that of the prior."""
    try:
        from ivon import IVON
    except ImportError:
        sys.exit("this benchmark compares with the authors' package: pip install ivon-opt, then run it again")
    network, size = lenet(seed), len(x) / kl_weight
    decay = 1.0 / PRIOR_SD**2 / size
    optimizer = IVON(network.parameters(), lr=learning_rate, ess=size, hess_init=start, beta2=beta2, weight_decay=decay)
    order = batches(len(x), epochs)
    for step, rows in enumerate(order):
        optimizer.param_groups[0]["lr"] = learning_rate * held_then_cosine(step / len(order))
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            functional.cross_entropy(network(x[rows]), y[rows]).backward()
        optimizer.step()
    (group,) = optimizer.param_groups
    means = [p.detach() for p in network.parameters()]
    sds = (group["ess"] * (group["hess"] + decay)).rsqrt().split([m.numel() for m in means])
    return means, [sd.view_as(m) for sd, m in zip(sds, means, strict=True)]


@torch.no_grad()
def judged(q: Normals, data: Any, kl_weight: float) -> dict[str, float]:
    """Scores of the prediction averaged over 16 draws, and the objective."""
    means, sds = q
    torch.manual_seed(1)

    def at_a_draw(x: Tensor) -> Tensor:
        drawn = [m + s * torch.randn_like(m) for m, s in zip(means, sds, strict=True)]
        for k in range(0, len(drawn), 2):
            x = functional.linear(x.relu() if k else x, drawn[k], drawn[k + 1])
        return x

    x, y = data.validation
    logs = torch.stack([at_a_draw(x.flatten(1)).log_softmax(1) for _ in range(16)]).logsumexp(0) - math.log(16)
    inputs, labels = data.train
    loss = sum(float(functional.cross_entropy(at_a_draw(inputs.flatten(1)), labels)) for _ in range(4)) / 4
    kl = float(divergence(means, [s.log() for s in sds]))
    accuracy = 100.0 * float((logs.argmax(1) == y).float().mean())
    return {
        "accuracy": accuracy,
        "nll": float(functional.nll_loss(logs, y)),
        "expected_loss": loss,
        "kl": kl,
        "objective": loss + kl_weight * kl / len(labels),
    }


def main() -> None:
    """Runs what is missing and prints a table for each KL weight."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("ivon_trial"), help="folder of the results")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--kl-weights", type=float, nargs="+", default=[1.0, 0.1])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    given = parser.parse_args()
    ledger, data = Ledger(given.out / "runs.json"), bp.load_data("fashion-mnist")
    x, y = data.train[0].flatten(1), data.train[1]

    def run(arm: str, kl_weight: float, seed: int) -> dict[str, Any]:
        begin = time.process_time()
        fitted = by_ivon if arm.startswith("IVON") else by_adam
        q = fitted(x, y, given.epochs, kl_weight, seed, **ARMS[arm])
        return {"seconds": time.process_time() - begin, **judged(q, data, kl_weight)}

    columns = {"accuracy": 2, "nll": 4, "expected_loss": 4, "kl": 0, "objective": 4, "seconds": 1}
    for kl_weight in given.kl_weights:
        print(f"\n| KL weight {kl_weight:g}, {given.epochs} epochs | " + " | ".join(columns) + " |")
        print("|" + "---|" * (len(columns) + 1))
        for arm in given.arms:
            found = [
                ledger.run(
                    f"{arm}/{kl_weight:g}/{given.epochs}/{seed}", lambda a=arm, w=kl_weight, s=seed: run(a, w, s)
                )  # type: ignore[misc]
                for seed in range(given.seeds)
            ]
            means = [f"{sum(one[key] for one in found) / len(found):.{digits}f}" for key, digits in columns.items()]
            print(f"| {arm} | " + " | ".join(means) + " |", flush=True)
    print(f"\n{ledger.cost()}")


if __name__ == "__main__":
    main()
