"""Horseshoe and regularised horseshoe: the log joint of a regression against one written in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pyro import poutine
from torch import nn

from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.priors.horseshoe import Horseshoe, RegularisedHorseshoe
from tests.oracles import horseshoe_reference as horseshoe

PROBLEM = horseshoe.horseshoe_problem()


def log_joint(declared, values):
    """Log joint of the regression as a Pyro model, at given values of the latents."""
    x, y = torch.tensor(PROBLEM.x), torch.tensor(PROBLEM.y)
    line = nn.Linear(x.shape[1], 1, bias=False).double()
    bnn = BayesianNetwork(line, {"weight": declared}, Normal(PROBLEM.noise_sd), len(x))
    sites = {f"weight.{name}": torch.as_tensor(value, dtype=torch.float64) for name, value in values.items()}
    sites = {name: v.reshape(bnn.sites[name].shape) for name, v in sites.items()}
    with torch.no_grad():
        trace = poutine.trace(poutine.condition(bnn, sites)).get_trace(x, y)
        return float(trace.log_prob_sum())


def points():
    rng = np.random.default_rng(0)
    p = PROBLEM.x.shape[1]
    for _ in range(4):
        yield {"z": rng.standard_normal(p), "lam": np.abs(rng.standard_cauchy(p)), "tau": float(rng.exponential())}


def test_the_log_joint_of_the_horseshoe_is_the_one_in_numpy():
    for v in points():
        arguments = (PROBLEM.x, PROBLEM.y, v["z"], v["lam"], v["tau"], PROBLEM.noise_sd)
        found = log_joint(Horseshoe(PROBLEM.global_scale), v)
        assert found == pytest.approx(horseshoe.horseshoe_log_joint(*arguments, PROBLEM.global_scale), rel=1e-11)
        assert abs(found - horseshoe.horseshoe_log_joint(*arguments, 1.0)) > 1e-3  # the control


@pytest.mark.parametrize(("slab_sd", "slab_df"), [(2.0, 4.0), (0.3, 7.0)])
def test_the_log_joint_of_the_regularised_horseshoe_is_the_one_in_numpy(slab_sd, slab_df):
    declared = RegularisedHorseshoe(PROBLEM.global_scale, slab_sd=slab_sd, slab_df=slab_df)
    for number, v in enumerate(points()):
        c_squared = 0.5 + number
        expected = horseshoe.regularised_horseshoe_log_joint(
            *(PROBLEM.x, PROBLEM.y, v["z"], v["lam"], v["tau"], c_squared, PROBLEM.noise_sd, PROBLEM.global_scale),
            slab_scale=slab_sd,
            slab_df=slab_df,
        )
        found = log_joint(declared, {**v, "c2": c_squared})
        assert found == pytest.approx(expected, rel=1e-11)
        assert abs(found - log_joint(Horseshoe(PROBLEM.global_scale), v)) > 1e-3


def test_the_largest_weights_of_the_regularised_horseshoe_are_bounded_by_its_slab():
    one = TensorPrior("w", RegularisedHorseshoe(1.0), (1, 3), 10)
    big = {"tau": torch.tensor(1e4), "lam": torch.full((1, 3), 1e3), "c2": torch.tensor(0.25), "z": torch.ones(1, 3)}
    assert torch.allclose(one.evaluate(big)[0], torch.full((1, 3), 0.5), rtol=1e-4)
    small = {**big, "tau": torch.tensor(1e-4), "lam": torch.ones(1, 3)}
    assert torch.allclose(one.evaluate(small)[0], torch.full((1, 3), 1e-4), rtol=1e-4)


def test_the_default_tau0_follows_the_expected_density_and_fan_in():
    for declared in (Horseshoe(expected_density=0.2), RegularisedHorseshoe(expected_density=0.2)):
        one = TensorPrior("w", declared, (3, 2, 4, 4), 10)
        expected = 0.2 / 0.8 / math.sqrt(32)
        values = {k: torch.ones(s.shape, dtype=torch.float64) for k, s in one.sites.items()}
        _, terms = one.evaluate(values, torch.empty(0, dtype=torch.float64))
        assert float(terms["tau"]) == pytest.approx(horseshoe.log_half_cauchy_density(1.0, expected), rel=1e-12)


@pytest.mark.parametrize("per", ["weight", "output", "input", "kernel"])
def test_local_scales_may_be_shared(per):
    one = TensorPrior("w", Horseshoe(per=per), (3, 4), 10)
    drawn = one.simulate()
    torch.testing.assert_close(drawn["weight"], drawn["tau"] * drawn["lam"] * drawn["z"])
    assert one.sites["lam"].shape == {"output": (3, 1), "input": (1, 4)}.get(per, (3, 4))


@pytest.mark.parametrize("kind", [Horseshoe, RegularisedHorseshoe])
@pytest.mark.parametrize(
    "arguments", [{"tau0": 0.0}, {"tau0": -1.0}, {"expected_density": 1.0}, {"expected_density": 0.0}]
)
def test_arguments_out_of_range_are_refused(kind, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        kind(**arguments)


@pytest.mark.parametrize("arguments", [{"slab_sd": 0.0}, {"slab_df": 0.0}, {"slab_df": -1.0}])
def test_a_slab_out_of_range_is_refused(arguments):
    with pytest.raises(ValueError, match="positive slab_sd and slab_df"):
        RegularisedHorseshoe(**arguments)
