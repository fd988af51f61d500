"""The documented way to train HALO as its authors do, by public names alone, beside a loop of its formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bayesprune as bp
from tests.oracles import halo_reference as halo

STEPS, BATCH, SIZE = 200, 8, 40
DECAY, RATE = 1e-2, 0.05
CONSTANTS = {"xi": 1e-3, "psi": 1e-2}


def network():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def batches():
    """Five batches, the same in the same order each epoch."""
    torch.manual_seed(8)
    x, y = torch.randn(SIZE, 5, dtype=torch.float64), torch.randint(3, (SIZE,))
    return list(zip(x.split(BATCH), y.split(BATCH), strict=True))


def authors(constants=CONSTANTS, decay=DECAY, lam_start=1.0):
    """Names, and what the authors' loop ends on where weights have lambdas and biases decay only."""
    plain, data = network(), batches()
    names = [name for name, _ in plain.named_parameters()]

    def loss(parameters, step):
        x, y = data[step % len(data)]
        outputs = torch.func.functional_call(plain, dict(zip(names, parameters, strict=True)), (x,))
        return nn.functional.cross_entropy(outputs, y)

    start = [p.detach() for p in plain.parameters()]
    regularised = [name.endswith("weight") for name in names]
    path = halo.halo_training_loop(
        start, loss, constants["xi"], constants["psi"], decay, RATE, 0.9, STEPS, lam_start, regularised
    )
    lams = [f"{name}.lam" for name in names if name.endswith("weight")]
    return dict(zip([*names, *lams], [*path.weights, *path.lambdas], strict=True))


def ours(constants=CONSTANTS, decay=DECAY, settings=None, biases=True, **more):
    """Where a fit by the recipe ends, and the sites that it has."""
    priors = {"*.weight": bp.HALO.from_paper(**constants, weight_decay=decay, data_size=SIZE, **more)}
    if biases:
        priors["*.bias"] = bp.Gaussian.from_weight_decay(decay, data_size=SIZE)
    bnn = bp.BayesianNetwork(network(), priors, data_size=SIZE)
    settings = bp.HALO.paper_fit(RATE) if settings is None else settings
    fit = bp.fit(bnn, batches(), steps=STEPS, precision="float64", device="cpu", **settings)
    found = {name: value.double() for name, value in fit.guide.means().items()}
    return found | {name: p.detach() for name, p in fit.model.network.named_parameters() if p.requires_grad}


def distance(found, expected):
    assert set(expected) <= set(found)
    return max(float((found[name] - value).abs().max()) for name, value in expected.items())


@pytest.mark.parametrize("lam_start", [1.0, 0.6])
def test_the_recipe_ends_where_the_authors_loop_ends(lam_start):
    expected = authors(lam_start=lam_start)
    assert distance(ours(lam_start=lam_start), expected) < 1e-10
    start = {name: p.detach() for name, p in network().named_parameters()}
    assert distance(expected, start) > 0.1  # it did go somewhere


@pytest.mark.parametrize(
    "without",
    [
        {"settings": {"optimizer": "sgd", "learning_rate": RATE}},
        {"settings": bp.HALO.paper_fit(RATE) | {"schedule": "hold-cosine"}},
        {"settings": bp.HALO.paper_fit(RATE) | {"kl_warmup": 0.6}},
        {"biases": False},
        {"lam_start": 0.9},
    ],
    ids=["by fit's own settings", "another schedule", "faded in", "biases without a prior", "another start of lam"],
)
def test_without_any_part_of_the_recipe_a_fit_ends_elsewhere(without):
    assert distance(ours(**without), authors()) > 3e-3


ABSENT = [
    {"xi": 0.0, "psi": 1e-2},
    {"xi": 1e-3, "psi": 0.0},
    pytest.param({"xi": 0.0, "psi": 0.0}, marks=pytest.mark.slow),  # both at once
]


@pytest.mark.parametrize("constants", ABSENT)
def test_a_constant_of_zero_is_that_part_of_the_penalty_left_out(constants):
    """With weight decay, as the authors run it, and without."""
    assert distance(ours(constants), authors(constants)) < 1e-10
    assert distance(ours(constants), authors()) > 1e-3
    bare = ours(constants, 0.0, biases=False)
    assert distance(bare, authors(constants, 0.0)) < 1e-10
    assert distance(bare, authors(constants)) > 1e-3


def test_a_bias_under_weight_decay_has_the_sd_that_an_optimizer_s_flag_implies():
    prior = bp.Gaussian.from_weight_decay(0.02, data_size=50)
    drawn = prior.probe()
    same = bp.Gaussian(sd=1.0 / math.sqrt(0.02 * 50)).probe()
    assert drawn == pytest.approx(same, rel=1e-12)
    assert bp.Gaussian(sd=0.9 / math.sqrt(0.02 * 50)).probe() != pytest.approx(same, rel=1e-2)
    with pytest.raises(ValueError, match="a parameter without a prior has no decay"):
        bp.Gaussian.from_weight_decay(0.0, data_size=50)
    with pytest.raises(ValueError, match="Gaussian.from_weight_decay needs data_size="):
        bp.Gaussian.from_weight_decay(0.1)


def test_the_settings_of_the_recipe_are_arguments_of_fit():
    import inspect

    assert set(bp.HALO.paper_fit()) <= set(inspect.signature(bp.fit).parameters)
    assert bp.HALO.paper_fit()["learning_rate"] == 0.1
