"""Stopping a fit when its iterates are stationary, beside one that goes on four times as long.

Digits, constant learning rates. A Bayesian logistic regression is fitted with ``stop=until_converged()``, then for four
times as many steps with the same KL warm-up, and with `IterateAverage` from where the rule says yes for half as many
steps again. Printed are the ELBO of the iterates with its Monte Carlo error, that of the guide as it was left, and the
held-out loss. Controls that may not be called converged: the regression while it drifts, at a learning rate at which it
diverges, and a network whose ELBO still climbs after 9,000 steps. For the last it is also printed where the rule would
have stopped if it did not ask whether a drift could have been seen.
Run ``python -m benchmarks.early_stopping``; it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bayesprune as bp
from bayesprune.analysis.diagnostics.convergence import judge
from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.watching.callbacks import FitState
from benchmarks.ledger import Ledger

DRAWS = 200
"""Draws of the guide behind its ELBO."""
WARMUP = 1000
"""Steps of KL warm-up, the same for all."""


class WithoutResolution:
    """The judgement of `until_converged` at every tenth epoch, less its question whether a drift could be seen.

    Attributes:
        step: Where it first said "converged"; None where it never did.
    """

    def __init__(self) -> None:
        self.step: int | None = None

    def __call__(self, state: FitState) -> bool:
        late = [row for row in state.iterates if row["step"] > WARMUP]
        if self.step is None and late and state.epoch % 10 == 0:
            series = {name: torch.tensor([row[name] for row in late]).double().numpy() for name in late[0]}
            self.step = state.step if judge([series], 4)[0] == "converged" else None
        return False


def fitted(network: nn.Module, splits: Any, steps: int, learning_rate: float, **how: Any) -> bp.Fit:
    """A mean-field fit with Gaussian priors on all weights, at a constant learning rate."""
    bnn = bp.BayesianNetwork(network, {"*weight": bp.Gaussian(0.3)}, data_size=len(splits.train[0]))
    settings = {
        "batch_size": 128,
        "schedule": "constant",
        "kl_warmup": WARMUP / steps,
        "kl_weight": 1.0,
        "execution": "plain",
        "device": "cpu",
    }
    return bp.fit(bnn, splits.train, "meanfield", steps=steps, learning_rate=learning_rate, **settings, **how)


def regression() -> nn.Module:
    """Logistic regression of ten classes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def small_network() -> nn.Module:
    """Two hidden layers."""
    torch.manual_seed(0)
    return bp.lenet_300_100(64, 10, hidden=(60, 30))


@torch.no_grad()
def elbo_of(fit: bp.Fit, splits: Any) -> tuple[float, float]:
    """ELBO of the guide as it was left, on all the training data, and its standard error, in nats."""
    torch.manual_seed(1)
    objective = bp.objective(fit.model, fit.guide).eval()
    values = torch.stack([-objective(*splits.train) for _ in range(DRAWS)]).double()
    return float(values.mean()), float(values.std()) / math.sqrt(DRAWS)


def judged(fit: bp.Fit) -> dict[str, Any]:
    """Whether it converged."""
    found = bp.convergence(fit)
    return {
        "steps": int(fit.trace.iterate_step.max()),
        "verdict": f"{found.verdict}: {found.reason}",
        "iterates": found.elbo,
        "iterates_error": found.elbo_error,
        "stopped": fit.summary()["stopped_early"],
    }


def scored(fit: bp.Fit, splits: Any) -> dict[str, Any]:
    """What it came to."""
    elbo, error = elbo_of(fit, splits)
    return {**judged(fit), "guide": elbo, "guide_error": error, "nll": fit.score(*splits.test, draws=64)["nll"]}


def diverging(splits: Any) -> dict[str, Any]:
    """Momentum at a learning rate at which the loss grows."""
    try:
        return judged(fitted(regression(), splits, 3000, 3.0, optimizer="sgd"))
    except NonFiniteLossError as problem:
        return {"verdict": f"not converged: {problem}"}


def drifting_network(splits: Any, steps: int) -> dict[str, Any]:
    """The network with both rules; the second only watches."""
    rule, other = bp.until_converged(), WithoutResolution()
    fit = fitted(small_network(), splits, steps, 1e-3, stop=lambda state: other(state) or rule(state))
    at_other = None
    if other.step is not None:
        near = abs(fit.trace.iterate_step[0] - other.step) < 200
        at_other = -float(fit.trace.negative_elbo[0].where(near).mean())
    return {**judged(fit), "rule": rule.reason, "other_step": other.step, "other_iterates": at_other}


def main() -> None:
    """Fits, compares, prints."""
    parser = argparse.ArgumentParser(description="Stopping early, beside going on.")
    parser.add_argument("--steps", type=int, default=9000, help="of a fit that is not stopped (default 9,000)")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/early_stopping"), help="folder of results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ledger, splits, rate = Ledger(options.out / "ledger.json"), bp.load_data("digits"), 5e-3

    def run(name: str, steps: int, **how: Any) -> dict[str, Any]:
        return ledger.run(name, lambda: scored(fitted(regression(), splits, steps, rate, **how), splits))

    stopped = run("stopped", options.steps, stop=bp.until_converged())
    longer = run("four times as long", 4 * stopped["steps"])
    average = bp.IterateAverage(bp.until_converged(), steps=stopped["steps"] // 2)
    averaged = run("stopped and averaged", options.steps, rules=[average])
    drift = ledger.run("drifting", lambda: judged(fitted(regression(), splits, WARMUP + 800, 3e-4)))
    diverge = ledger.run("diverging", lambda: diverging(splits))
    network = ledger.run("network", lambda: drifting_network(splits, options.steps))

    print(f"logistic regression: {stopped['stopped'] or 'not stopped'}")
    gap = longer["iterates"] - stopped["iterates"]
    error = math.hypot(longer["iterates_error"], stopped["iterates_error"])
    print(f"  iterates: going on changes their ELBO by {gap:+.1f} nats, Monte Carlo error {error:.1f}")
    for name, row in (("stopped", stopped), ("four times as long", longer), ("stopped and averaged", averaged)):
        print(
            f"  {name:<21}{row['steps']:>7} steps, guide's ELBO {row['guide']:9.1f} +- {row['guide_error']:.1f} nats, "
            f"held-out nll {row['nll']:.4f}"
        )
    print(f"drifting: {drift['verdict']}\ndiverging: {diverge['verdict']}")
    print(f"network, {network['steps']} steps: {network['verdict']}\n  the rule at its end: {network['rule']}")
    if network["other_step"] is not None:
        print(
            f"  without the question of resolution it would have stopped at step {network['other_step']}, at an ELBO "
            f"of {network['other_iterates']:.0f} nats; at the end it is {network['iterates']:.0f}"
        )
    print(f"cost: {ledger.cost()}")


if __name__ == "__main__":
    main()
