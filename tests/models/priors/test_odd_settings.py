"""Every ready prior at odd settings, as a user would type them: refused in one sentence when declared, or it works."""

from __future__ import annotations

import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.models.priors.ready import PRIORS, make_prior

NEEDED = {
    "weight-decay": {"weight_decay": 1e-3, "data_size": 24},
    "mcp-paper": {"lam": 0.01, "gamma": 5.0, "data_size": 24},
    "sws-paper": {"xi": 1e-3, "psi": 2e-3, "data_size": 24},
    "halo-paper": {"xi": 1e-3, "psi": 2e-3, "data_size": 24},
    "soft-threshold-paper": {"weight_decay": 1e-3, "data_size": 24},
}
ODD = [0, 0.0, -1, -1.5, math.inf, -math.inf, math.nan, 1.0, "x", "", None, True, [1.0], (1, 2), {}, 10**400, object()]
EXTREME = [1e-300, 1e-30, 1e-17, 1e-9, 1e9, 1e17, 1e30, 1e300]
torch.manual_seed(0)
X, Y = torch.randn(24, 4), torch.randint(3, (24,))


def made(name, settings):
    """The prior as Python makes it, not by the checks of the command line."""
    make = bp.UnitGates if name == "unit-gates" else PRIORS[name].make
    return make(**settings)


def fitted(prior):
    torch.manual_seed(1)
    if isinstance(prior, bp.UnitGates):
        model = bp.BayesianNetwork(bp.lenet_300_100(4, 3, (5, 4)), {}, data_size=24, gates=prior, example_input=X[:1])
    else:
        network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        model = bp.BayesianNetwork(network, {"*.weight": prior}, data_size=24)
    return bp.fit(model, (X, Y), steps=2, device="cpu", execution="plain")


def one_sentence(problem):
    text = str(problem)
    assert text and "\n" not in text and len(text) < 400, text
    return text


SETTINGS = [(name, key) for name, entry in PRIORS.items() for key in entry.settings if not key.startswith("cost_")]
"""Shares of the cost are arguments of `CostPressure`, which the command line has as settings."""


@pytest.mark.filterwarnings("ignore:all units of")  # two steps under a price of 1e9 nats
@pytest.mark.filterwarnings("ignore:thresholds of .* will be asleep", "ignore:at step .* nothing is left of")
@pytest.mark.parametrize(("name", "key"), SETTINGS, ids=[f"{name} {key}" for name, key in SETTINGS])
def test_an_odd_setting_is_refused_in_one_sentence_or_the_fit_is_finite(name, key):
    refused, worked = [], []
    for value in (*ODD, *EXTREME):
        try:
            prior = made(name, {**NEEDED.get(name, {}), key: value})
        except ValueError as problem:
            refused.append(one_sentence(problem))
            continue
        try:
            fit = fitted(prior)
        except (ValueError, NonFiniteLossError) as problem:
            one_sentence(problem)
            # Anything else is told when it is declared, but for what the network or `fit` knows, before it trains.
            assert value in EXTREME or key in ("estimator", "layers", "init"), (value, problem)
            continue
        worked.append(value)
        assert all(bool(torch.isfinite(mean).all()) for mean in fit.guide.means().values()), value
    assert refused  # at the least an object() is


@pytest.mark.parametrize("name", PRIORS)
def test_numbers_of_numpy_and_torch_are_taken_and_stored_as_plain_ones(name):
    settings = {**{k: v for k, v in PRIORS[name].settings.items() if v is not inspect.Parameter.empty}}
    settings |= NEEDED.get(name, {})
    numbers = [key for key, value in settings.items() if isinstance(value, float)]
    odd = [lambda v: np.float64(v), lambda v: torch.tensor(v, dtype=torch.float64), lambda v: np.array(v)]
    for key, wrap in itertools.product(numbers, odd):
        if key.startswith("cost_"):
            continue
        given = {key: wrap(settings[key])}
        prior = made(name, given if name == "unit-gates" else {**settings, **given})
        stored = prior.config["arguments"][key]
        assert type(stored) is float and stored == settings[key]
        assert make_prior(name, **{k: v for k, v in settings.items()})  # the control: as the command line makes it
