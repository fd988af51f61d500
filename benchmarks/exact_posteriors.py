"""Posteriors beside the truth: spike-and-slab regression by enumeration, horseshoe regression by NUTS.

Run ``python -m benchmarks.exact_posteriors``; it prints three tables. The truth is that of `tests/oracles`, written
from the formulas alone. Cost: about eight processor minutes.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size
from torch import nn

import bayesprune as bp
from bayesprune.inference.objective.latent_gate_estimators import antithetic
from tests.oracles import horseshoe_reference as horseshoe
from tests.oracles import spike_and_slab_reference as spike


def fitted_pips(
    problem: Any, guide: str, steps: int, copies: int, learning_rate: float = 0.005, particles: int = 1
) -> np.ndarray:
    """Inclusion probabilities, `(copies, features)`, starting from least squares as from a trained network.

    Copies of the regression are fitted at once, as outputs of one linear layer that share no parameter: their mean is
    what guide and objective aim at, one of them carries the Monte Carlo error of its own fit.
    """
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)[:, None]
    line = nn.Linear(x.shape[1], copies, bias=False).double()
    with torch.no_grad():
        line.weight.copy_(torch.linalg.lstsq(x, y).solution.T.expand_as(line.weight))
    prior = bp.SpikeAndSlab(problem.inclusion, problem.slab_sd, initial_inclusion=0.5)
    targets = y.expand(-1, copies).clone() if copies > 1 else y[:, 0]
    bnn = bp.BayesianNetwork(line, {"weight": prior}, bp.Normal(problem.noise_sd), len(x))
    fit = bp.fit(
        bnn,
        (x, targets),
        guide,
        steps=steps,
        batch_size=len(x),
        learning_rate=learning_rate,
        schedule="cosine",
        kl_warmup=0.0,
        precision="float64",
        particles=particles,
        gate_estimator=antithetic,
        device="cpu",
    )
    return fit.inclusion_probabilities()["weight"].values


def horseshoe_beside_nuts(draws: int = 400, warmup: int = 200, steps: int = 4000) -> dict[str, np.ndarray]:
    """Posterior of the weights of a horseshoe regression by NUTS and by the mean-field guide, on one model.

    Returns:
        For each weight the ``truth``, means and sds by both, the ``ratio`` of sds (mean-field over NUTS), the
        ``effective`` number of NUTS draws and ``error``, two Monte Carlo errors of the difference of means.
    """
    problem = horseshoe.horseshoe_problem()
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    line = nn.Linear(x.shape[1], 1, bias=False).double()
    prior = bp.Horseshoe(problem.global_scale)
    bnn = bp.BayesianNetwork(line, {"weight": prior}, bp.Normal(problem.noise_sd), len(x))
    pyro.set_rng_seed(0)
    mcmc = MCMC(NUTS(bnn, target_accept_prob=0.9, max_tree_depth=6), draws, warmup, disable_progbar=True)
    mcmc.run(x, y)
    sites = mcmc.get_samples()
    tau = sites["weight.tau"].reshape(-1, 1, 1)
    exact = (tau * sites["weight.lam"] * sites["weight.z"])[:, 0, :]
    fit = bp.fit(
        bnn,
        (x, y),
        "meanfield",
        steps=steps,
        batch_size=len(x),
        learning_rate=5e-3,
        schedule="cosine",
        kl_warmup=0.2,
        precision="float64",
        particles=2,
        device="cpu",
    )
    found = fit.draws(4000, sites=lambda name: name == "weight")["weight"][:, 0, :]
    effective, sd = effective_sample_size(exact.unsqueeze(0), 0, 1), exact.std(0)
    columns = {
        "nuts_mean": exact.mean(0),
        "meanfield_mean": found.mean(0),
        "nuts_sd": sd,
        "ratio": found.std(0) / sd,
        "effective": effective,
        "error": 2.0 * (sd**2 / effective + found.var(0) / len(found)).sqrt(),
    }
    return {"truth": np.asarray(problem.weights)} | {name: value.numpy() for name, value in columns.items()}


def main() -> None:
    """Prints the tables."""
    argparse.ArgumentParser(description="Posteriors beside the truth.").parse_args()
    torch.set_num_threads(1)
    np.set_printoptions(precision=3, suppress=True, linewidth=120)
    began = time.process_time()
    problem = spike.orthogonal_problem()
    exact = spike.enumerate_posterior(problem).pips
    found = fitted_pips(problem, "paired", 3000, 32)
    single = fitted_pips(problem, "paired", 2000, 1, particles=64)[0]
    factorised = fitted_pips(problem, "meanfield", 1500, 32, 0.02)
    print("spike and slab, orthogonal design: inclusion probabilities")
    print("exact                        ", exact)
    print("paired, mean of 32 fits      ", found.mean(0), "largest error", np.abs(found.mean(0) - exact).max())
    print("paired, sd over the fits     ", found.std(0))
    print("paired, one fit, 64 particles", single, "largest error", np.abs(single - exact).max())
    print("factorised, mean of 32 fits  ", factorised.mean(0), "largest", np.abs(factorised.mean(0) - exact).max())

    problem = spike.diabetes_problem()
    exact = spike.enumerate_posterior(problem).pips
    found = fitted_pips(problem, "paired", 1500, 16, 0.01).mean(0)
    correlations = np.abs(np.corrcoef(problem.x.T) - np.eye(problem.x.shape[1])).max(axis=0)
    print("\nspike and slab, diabetes (correlated)")
    print("largest correlation of the feature", correlations)
    print("exact ", exact)
    print("paired", found, "correlation with exact", np.corrcoef(found, exact)[0, 1])

    print("\nhorseshoe regression, NUTS and mean-field")
    for name, column in horseshoe_beside_nuts().items():
        print(f"{name:16}", column)
    print(f"\ncost: 1 run x {(time.process_time() - began) / 60:.1f} processor minutes")


if __name__ == "__main__":
    main()
