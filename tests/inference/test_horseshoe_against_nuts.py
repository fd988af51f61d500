"""Horseshoe regression: the mean-field guide beside NUTS on the same Bayesian network."""

from __future__ import annotations

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size
from torch import nn

from bayesprune.inference.fit import fit
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.horseshoe import Horseshoe
from bayesprune.models.likelihoods import Normal
from tests.oracles import horseshoe_reference as horseshoe


def sampled_weights(bnn, x, y, draws=400, warmup=200):
    """Draws of the weights by NUTS, and their effective sample sizes."""
    pyro.set_rng_seed(0)
    mcmc = MCMC(NUTS(bnn, target_accept_prob=0.9, max_tree_depth=6), draws, warmup, disable_progbar=True)
    mcmc.run(x, y)
    sites = mcmc.get_samples()
    tau = sites["weight.tau"].reshape(-1, 1, 1)
    weights = (tau * sites["weight.lam"] * sites["weight.z"])[:, 0, :]
    return weights, effective_sample_size(weights.unsqueeze(0), 0, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_mean_field_means_of_a_horseshoe_regression_are_those_of_nuts():
    """Means of the strong weights within 0.1 posterior sd and two Monte Carlo errors.

    Of the five empty features one mean is just outside that. Standard deviations do not agree: the product of three
    independent factors is too wide, 1.5 to 1.6 times for the strong weights and 1.0 to 1.3 times for the others,
    also where the fit is two and a half times as long.
    """
    problem = horseshoe.horseshoe_problem()
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    bnn = BayesianNetwork(
        nn.Linear(x.shape[1], 1, bias=False).double(),
        {"weight": Horseshoe(problem.global_scale)},
        Normal(problem.noise_sd),
        len(x),
    )
    exact, size = sampled_weights(bnn, x, y)
    result = fit(
        bnn,
        (x, y),
        "meanfield",
        steps=4000,
        batch_size=len(x),
        learning_rate=5e-3,
        schedule="cosine",
        precision="float64",
        particles=2,
        device="cpu",
    )
    found = result.draws(4000, sites=lambda name: name == "weight")["weight"][:, 0, :]
    sd = exact.std(0)
    error = 2.0 * (sd**2 / size + found.var(0) / len(found)).sqrt()
    away = (found.mean(0) - exact.mean(0)).abs()
    ratio = found.std(0) / sd
    report = np.round(torch.stack([exact.mean(0), found.mean(0), sd, ratio, size]).numpy(), 3)
    print(f"\nmean (NUTS), mean (mean-field), sd (NUTS), ratio of sds, effective draws\n{report}")
    assert bool((size > 30).all())
    strong = torch.tensor(np.abs(problem.weights) > 1.0)
    assert bool((away[strong] < 0.1 * sd[strong] + error[strong]).all()), report
    assert bool((ratio > 0.8).all()) and bool((ratio < 2.0).all()), report
    assert bool((ratio[strong] > 1.2).all()), report  # should that improve, the docs are to be changed
