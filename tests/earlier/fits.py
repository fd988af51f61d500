"""What the stored fits were declared with and made from, and the numbers that are compared, for writer and test alike.

Only names that both versions have; data come from scikit-learn or a formula.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

import bayesprune as bp

DRAWS = 8
NUMBERS = (
    "version", "data_size", "weights", "nonzero", "sparsity", "elbo", "expected_log_likelihood", "kl", "kinds", "seeds",
    "point_estimates", "guide_families",
)  # fmt: skip
"""What of a summary both versions say in the same words."""


def patients() -> tuple[Tensor, Tensor]:
    """scikit-learn's diabetes data, targets divided by 100."""
    x, y = load_diabetes(return_X_y=True)
    return torch.as_tensor(x * 20.0), torch.as_tensor(y / 100.0)


def waves() -> tuple[Tensor, Tensor]:
    """60 inputs of 6 numbers and their classes, of 3, by a formula."""
    x = torch.sin(torch.arange(360, dtype=torch.float64) * 1.7).reshape(60, 6)
    return x, (x[:, 0] > 0).long() + (x[:, 1] + 0.5 * x[:, 2] > 0.2).long()


def network(inputs: int, hidden: int, outputs: int) -> nn.Module:
    """Two layers, with weights by a formula."""
    made = bp.lenet_300_100(inputs, outputs, hidden=(hidden,)).double()
    with torch.no_grad():
        for tensor in made.parameters():
            count = torch.arange(tensor.numel(), dtype=torch.float64)
            tensor.copy_(0.6 * torch.sin(1.0 + 2.3 * count + tensor.numel()).reshape(tensor.shape))
    return made


def own_prior() -> bp.Hierarchy:
    """A declaration that no ready prior has: its code is not stored."""
    return bp.Hierarchy(
        tau=bp.Latent(lambda fan_in: dist.HalfCauchy(1.0 / math.sqrt(fan_in)), "layer"),
        lam=bp.Latent(dist.Gamma(2.0, 2.0), "output"),
        weight=lambda tau, lam: dist.Normal(0.0, tau * lam),
        included=bp.shrinkage_below(0.5),
    )


def model(name: str) -> bp.BayesianNetwork:
    """The model of a stored fit, as it was declared."""
    if name == "regression":
        priors = {"*.weight": bp.Horseshoe()}
        return bp.BayesianNetwork(network(10, 4, 1), priors, likelihood=bp.Normal(), data_size=442)
    if name == "gates":
        gates = bp.UnitGates(kappa=0.003, weight_scale=0.3)
        return bp.BayesianNetwork(network(6, 8, 3), {}, data_size=60, gates=gates, example_input=waves()[0][:2])
    prior = {"own": own_prior, "halo": lambda: bp.HALO(kappa=0.5), "checkpoint": bp.SpikeAndSlab}[name]()
    return bp.BayesianNetwork(network(6, 8, 3), {"*.weight": prior}, data_size=60)


def options(name: str) -> dict[str, Any]:
    """How it was fitted: all that has a default is said, as defaults have changed since."""
    chosen: dict[str, Any] = {
        "steps": 60, "batch_size": 20, "learning_rate": 0.02, "kl_warmup": 0.2, "kl_weight": 1.0, "seed": 2,
        "device": "cpu", "precision": "float64", "guide": "map" if name == "halo" else None,
    }  # fmt: skip
    if name == "regression":
        chosen |= {"restarts": 2, "batch_size": 100}
    if name == "gates":
        gating, takes_rules = bp.Gating(travel=0.4, round_at=0.8), "rules" in inspect.signature(bp.fit).parameters
        chosen |= {"rules": [gating]} if takes_rules else {"gating": gating}
        chosen |= {"kl_warmup": 0.0}
    return chosen


def digits() -> np.ndarray:
    """Five inputs of the shape of the digits, in standard units, by a formula."""
    return np.sin(np.arange(5 * 64) * 0.9).reshape(5, 1, 8, 8).astype(np.float32)


def answers(fit: bp.Fit, x: Tensor) -> dict[str, Any]:
    """What a fit says of itself, of its weights and of inputs."""
    found: dict[str, Any] = {}
    summary = fit.summary()
    found["summary"] = {name: summary[name] for name in NUMBERS if name in summary}
    for number in range(len(fit.restarts)):
        prediction = fit.predict(x[:5], draws=DRAWS, restart=number)
        found[f"mean {number}"], found[f"sd {number}"] = prediction.mean.tolist(), prediction.sd.tolist()
        found[f"weights {number}"] = {k: w.tolist() for k, w in fit.included_weights(number).items()}
        try:
            inclusion = fit.inclusion_probabilities(number, draws=DRAWS)
        except ValueError:  # of a MAP
            continue
        found[f"inclusion {number}"] = {name: inclusion[name].values.tolist() for name in inclusion.data_vars}
        found[f"kinds {number}"] = {name: inclusion[name].attrs["kind"] for name in inclusion.data_vars}
    return found
