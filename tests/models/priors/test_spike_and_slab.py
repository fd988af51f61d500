"""Spike and slab: levels, log joint, moments; and the two one-line priors, Gaussian and Laplace."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.laplace import Laplace
from bayesprune.models.priors.spike_and_slab import SPIKE_LEVELS, SpikeAndSlab

DOUBLE = torch.empty(0, dtype=torch.float64)


@pytest.mark.parametrize("level", SPIKE_LEVELS)
def test_one_gate_switches_its_whole_group(level):
    one = TensorPrior("w", SpikeAndSlab(0.5, level=level, block=(3, 2)), (8, 7, 3, 3), 10)
    torch.manual_seed(0)
    drawn = one.simulate()
    gates = one.spread("z", drawn["z"])
    shape = {"weight": (8, 7, 3, 3), "kernel": (8, 7, 1, 1), "output": (8, 1, 1, 1), "input": (1, 7, 1, 1)}
    assert drawn["z"].shape == shape.get(level, (3, 4, 1, 1))
    assert torch.equal(drawn["weight"], gates * drawn["slab"])
    if level == "block":
        assert len(set(gates[3:6, 4:6].flatten().tolist())) == 1
    assert set(drawn["z"].unique().tolist()) == {0.0, 1.0}


def test_the_log_joint_is_bernoulli_times_normal():
    one = TensorPrior("w", SpikeAndSlab(0.3, slab_sd=0.7), (3, 4), 10)
    z = torch.tensor([[0.0, 1, 0, 1]] * 3, dtype=torch.float64)
    slab = torch.randn(3, 4, dtype=torch.float64)
    weight, terms = one.evaluate({"z": z, "slab": slab}, DOUBLE)
    assert torch.equal(weight, z * slab)
    assert float(terms["z"]) == pytest.approx(stats.bernoulli(0.3).logpmf(z).sum(), rel=1e-12)
    assert float(terms["slab"]) == pytest.approx(stats.norm(0, 0.7).logpdf(slab).sum(), rel=1e-12)


def test_the_slab_is_scaled_by_fan_in_and_the_density_is_the_expected_one():
    torch.manual_seed(0)
    one = TensorPrior("w", SpikeAndSlab(0.2), (400, 100), 10)
    weight = one.simulate()["weight"]
    on = weight[weight != 0]
    assert abs(on.numel() / 40_000 - 0.2) < 4 * math.sqrt(0.16 / 40_000)
    assert float(on.std()) == pytest.approx(math.sqrt(2.0 / (0.2 * 100)), rel=0.05)
    # He's scale for the network that is left: outputs of unit inputs have variance 2.
    assert float((weight**2).sum(1).mean()) == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"expected_density": 0.0},
        {"expected_density": 1.0},
        {"slab_sd": 0.0},
        {"slab_sd": -1.0},
        {"level": "layer"},
        {"level": "row"},
        {"initial_inclusion": 1.0},
    ],
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        SpikeAndSlab(**arguments)


@pytest.mark.parametrize("block", [(0, 4), (-1, 2)])
def test_an_empty_block_is_refused(block):
    with pytest.raises(ValueError, match="block"):
        SpikeAndSlab(level="block", block=block)


@pytest.mark.parametrize(
    ("declared", "reference"),
    [
        (Gaussian(0.3), stats.norm(0, 0.3)),
        (Gaussian(), stats.norm(0, math.sqrt(2.0 / 4.0))),
        (Laplace(0.3), stats.laplace(0, 0.3)),
        (Laplace(), stats.laplace(0, math.sqrt(2.0 / 4.0) / math.sqrt(2.0))),
    ],
)
def test_gaussian_and_laplace_are_what_they_say(declared, reference):
    one = TensorPrior("w", declared, (3, 4), 10)
    w = torch.randn(3, 4, dtype=torch.float64)
    _, terms = one.evaluate({"weight": w}, DOUBLE)
    assert float(terms["weight"]) == pytest.approx(reference.logpdf(w).sum(), rel=1e-12)
    assert float(one.conditional_sd({"weight": w}).mean()) == pytest.approx(reference.std(), rel=1e-6)


@pytest.mark.parametrize("kind", [Gaussian, Laplace])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_gaussian_and_laplace_refuse_what_is_not_positive(kind, value):
    with pytest.raises(ValueError, match="must be positive|takes a number or None, not nan"):
        kind(value)
