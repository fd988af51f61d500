"""What the plain path costs: one step of `bayesprune` beside three hand-written loops, alternated in one process.

Mean-field Normal guide, LeNet-300-100, a Normal prior on all 266,610 parameters, batch 128, Adam. Run
``python -m benchmarks.plain_path --threads 1``. Cost: one run of under a minute.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable

import torch

import bayesprune as bp
from bayesprune.inference.fit import make_optimizer
from bayesprune.inference.guides import Guide
from bayesprune.inference.objective import Objective
from benchmarks.hand_written import LOOPS, Loop, Setup, starting_locations, time_alternated


def bayesprune_step(setup: Setup, x: torch.Tensor, y: torch.Tensor) -> Callable[[], float]:
    """A step of the plain path as `fit` makes it."""
    network = bp.lenet_300_100()
    torch.nn.utils.vector_to_parameters(starting_locations(setup.seed), network.parameters())
    model = bp.BayesianNetwork(network, {"*": bp.Gaussian(setup.prior_sd)}, data_size=setup.data_size)
    objective = Objective(model, Guide(model, "meanfield"))
    optimizer = make_optimizer("adam", objective, setup.learning_rate)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        terms = objective.terms(x, y)
        (terms.loss / setup.data_size).backward()
        optimizer.step()
        return float(terms.kl) - float(terms.log_likelihood)

    return step


def main() -> None:
    """Times, prints a table and one line of JSON."""
    parser = argparse.ArgumentParser(description="One step of the plain path beside three hand-written loops.")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--blocks", type=int, default=25, help="timed blocks of each (default 25)")
    parser.add_argument("--steps", type=int, default=20, help="steps a block (default 20)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    x, y = torch.rand(128, 784), torch.randint(10, (128,))
    setup = Setup(scale=0.1 * math.sqrt(2.0 / 784))

    def stepper(loop: Loop) -> Callable[[], float]:
        return lambda: loop.step(x, y).item()

    steps: dict[str, Callable[[], object]] = {"bayesprune": bayesprune_step(setup, x, y)}
    steps |= {name: stepper(build(setup)) for name, build in LOOPS.items()}
    medians = time_alternated(steps, options.blocks, options.steps)
    best = min(value for name, value in medians.items() if name != "bayesprune")
    print(f"{'':28}{'ms/step':>10}{'x best hand-written':>22}   ({options.threads} threads)")
    for name, value in medians.items():
        print(f"{name:28}{value:10.2f}{value / best:22.2f}")
    print(json.dumps({"threads": options.threads, "ms_per_step": medians, "ratio": medians["bayesprune"] / best}))


if __name__ == "__main__":
    main()
