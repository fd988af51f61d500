"""One rule of what is left in a network: the summary, the trace, the table and `prune` count by it."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.left_in import included_weights, left_in, nearly_zero
from bayesprune.inference.watching.pruning_trace import trace_of_today

X, Y = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3


def model(prior, **more):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    priors = prior if isinstance(prior, dict) else {"*.weight": prior}
    return bp.BayesianNetwork(network, priors=priors, likelihood=bp.Categorical(), data_size=40, **more)


def fitted(prior, **more):
    return bp.fit(model(prior), (X, Y), steps=6, seed=0, **more)


@pytest.mark.parametrize(
    ("prior", "more"),
    [
        (bp.SpikeAndSlab(0.3, initial_inclusion=0.45), {}),
        (bp.SpikeAndSlab(0.3), {}),
        (bp.Horseshoe(), {}),
        (bp.HALO(5.0), {}),
        (bp.L0HardConcrete(lam=0.5), {}),
        ({"0.weight": bp.SpikeAndSlab(0.3, initial_inclusion=0.45), "2.weight": bp.Gaussian()}, {}),
    ],
    ids=["closed", "open", "horseshoe", "halo", "hard-concrete", "mixed"],
)
def test_summary_trace_table_and_prune_say_one_number(prior, more):
    fit = fitted(prior, **more)
    zeros = 1.0 - sum(int(left.sum()) for left in left_in(fit.guide).values()) / 42
    assert fit.summary()["sparsity"] == pytest.approx(zeros, abs=1e-12)
    assert float(fit.trace["network_sparsity"][0, -1]) == pytest.approx(zeros, abs=1e-12)
    assert bp.layer_table(fit, draws=2).rows[-1]["sparsity"] == pytest.approx(zeros, abs=1e-12)
    if zeros > 1 / 42:
        with pytest.raises(ValueError, match="the fit already has sparsity"):
            bp.prune(fit, sparsity=zeros - 1 / 42, criterion="magnitude")


def test_left_in_is_counted_weight_by_weight():
    guide = Guide(model(bp.SpikeAndSlab(0.3)), None)
    prior = guide.model.priors["0.weight"]
    pips = guide.inclusion()[prior.sites[prior.hierarchy.included.gate].name]
    for threshold in (0.5, float(pips.median())):
        expected = [[bool(p > threshold) for p in row] for row in pips.tolist()]
        assert left_in(guide, threshold)["0.weight"].tolist() == expected
    assert nearly_zero(guide) == {}  # a prior with an atom has zeros


def test_exact_zeros_are_out_and_small_weights_are_nearly_zero():
    guide = Guide(model(bp.Gaussian()), "map")
    with torch.no_grad():
        values = included_weights(guide)["0.weight"]
        next(guide.parameters())[: values.numel()] = torch.tensor([0.0, 1e-3, *[1.0] * (values.numel() - 2)])
    assert int((~left_in(guide)["0.weight"]).sum()) == 1
    assert int(nearly_zero(guide)["0.weight"].sum()) == 2


def test_a_weight_that_a_callable_sets_to_zero_is_out():
    soft = bp.Hierarchy(
        raw=bp.Latent(dist.Normal(0.0, 1.0)),
        weight=lambda raw: torch.sign(raw) * torch.relu(raw.abs() - 0.2),
        included=bp.exact_zero(),
    )
    fit = fitted(soft, guide="map")
    zeros = sum(int((weight == 0).sum()) for weight in included_weights(fit.guide).values()) / 42
    assert 0.0 < zeros < 1.0
    assert fit.summary()["sparsity"] == pytest.approx(zeros) == float(fit.trace["network_sparsity"][0, -1])
    assert np.isnan(fit.trace["near_zero"]).all()


def test_a_trace_of_an_earlier_version_keeps_what_it_knew_under_the_word_of_today():
    fit = fitted({"0.weight": bp.SpikeAndSlab(0.3, initial_inclusion=0.45), "2.weight": bp.Gaussian()})
    today = fit.trace
    earlier = today.drop_vars(["near_zero", "network_near_zero"])
    earlier["sparsity"] = today["near_zero"].fillna(today["sparsity"])
    earlier["network_sparsity"] = today["network_near_zero"]
    read = trace_of_today(earlier)
    assert read["near_zero"].equals(today["near_zero"]) and read["network_near_zero"].equals(today["network_near_zero"])
    assert np.array_equal(read["sparsity"].sel(tensor="0.weight"), today["sparsity"].sel(tensor="0.weight"))
    assert (read["sparsity"].sel(tensor="2.weight") == 0.0).all()  # no weight is exactly zero there
    assert trace_of_today(today) is today  # control
    assert math.isnan(float(read["network_sparsity"][0, -1]))  # of both together nobody has counted
    alone = fitted(bp.Gaussian()).trace
    read = trace_of_today(
        alone.drop_vars("near_zero").assign(sparsity=alone["near_zero"], network_sparsity=alone["network_near_zero"])
    )
    assert (read["network_sparsity"] == 0.0).all() and read["near_zero"].equals(alone["near_zero"])
    atoms = trace_of_today(alone.drop_vars("near_zero"), exact=["0.weight", "2.weight"])
    assert atoms["sparsity"].equals(alone["sparsity"]) and np.isnan(atoms["near_zero"]).all()
