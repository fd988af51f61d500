"""SWS: the authors' penalty as a log joint, its profile, its moments, and where its MAP exists."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import optimize, special
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.training.map_probe import check_map_exists
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.priors.sws import SWS
from tests.oracles.weight_penalties import sws_penalty

DOUBLE = torch.empty(0, dtype=torch.float64)
SHAPE = (6, 5)
SIZE = 30


def log_joint(declared, w, square):
    square = torch.tensor(square, dtype=torch.float64)
    _, terms = TensorPrior("w", declared, SHAPE, 100).evaluate({"weight": w, "square": square}, DOUBLE)
    return sum(float(term) for term in terms.values())


def configurations():
    torch.manual_seed(0)
    for spread, lam in ((0.1, 0.7), (3.0, 0.2), (40.0, 5.0)):
        yield spread * torch.randn(SHAPE, dtype=torch.float64), lam


def with_shape(shape):
    """SWS at xi = psi = 1 with another concentration of the Gamma."""
    return Hierarchy(
        square=Latent(lambda: dist.Gamma(shape, 1.0), per="layer"),
        weight=lambda square: dist.Laplace(0.0, square),
    )


@pytest.mark.parametrize(("xi", "psi"), [(1.0, 1.0), (0.3, 2.0), (1e-3, 1e-3)])
def test_minus_the_log_joint_is_the_penalty_up_to_the_normaliser(xi, psi):
    size = 50  # the paper's constants are per datum
    declared = SWS.from_paper(xi / size, psi / size, data_size=size)
    sums = [log_joint(declared, w, lam**2) + sws_penalty(w.numpy(), lam, xi, psi) for w, lam in configurations()]
    normaliser = SIZE * math.log(xi / 2.0) + (SIZE + 1) * math.log(psi) - special.gammaln(SIZE + 1)
    assert sums == pytest.approx([normaliser] * 3, rel=1e-12)


def test_the_gamma_is_that_of_the_square_not_of_lam():
    """A MAP depends on its coordinate: as a density of lam, size + 1/2 is right and the joint's size + 1 is not."""

    def spread(shape, jacobian):
        found = []
        for w, lam in configurations():
            joint = log_joint(with_shape(shape), w, lam**2) + jacobian * math.log(2.0 * lam)
            found.append(joint + sws_penalty(w.numpy(), lam, 1.0, 1.0))
        return np.ptp(found)

    assert spread(SIZE + 1.0, 0) < 1e-10 and spread(SIZE + 0.5, 1) < 1e-10
    assert spread(SIZE + 0.5, 0) > 0.1 and spread(SIZE + 1.0, 1) > 0.1 and spread(float(SIZE), 0) > 0.1


def test_the_profile_is_the_root_of_the_sum_of_the_weights():
    kappa = 7.0
    declared = SWS(kappa=kappa)
    for w, _ in configurations():
        least = optimize.minimize_scalar(
            lambda log_square, w=w: -log_joint(declared, w, math.exp(log_square)),
            bounds=(-10.0, 10.0),
            options={"xatol": 1e-9},
        )
        at_one = -log_joint(declared, w, 1.0)
        psi = SIZE + 1.0
        gained = at_one - sws_penalty(w.numpy(), 1.0, kappa / psi, psi)  # the normaliser
        total = float(w.abs().sum())
        assert least.fun - gained == pytest.approx(2.0 * math.sqrt(kappa * total), rel=1e-9)
        assert math.exp(least.x) == pytest.approx(math.sqrt(kappa * total) / psi, rel=1e-5)


def test_by_default_weights_of_he_s_scale_cost_the_stated_nats_each():
    w = torch.full(SHAPE, math.sqrt(1.0 / 5.0), dtype=torch.float64)  # the mean size of a Laplace of sd sqrt(2 / 5)
    declared = SWS()
    psi = SIZE + 1.0
    best = math.sqrt(SIZE * math.sqrt(5.0) / 50.0 * float(w.sum())) / psi
    normaliser = log_joint(declared, 0.0 * w, 1.0) + psi
    assert normaliser - log_joint(declared, w, best) == pytest.approx(0.2828 * SIZE, rel=1e-3)


def test_only_the_product_of_the_constants_matters():
    one, other = SWS.from_paper(0.3, 2.0, 1), SWS.from_paper(3.0, 0.2, 1)
    differences = [log_joint(one, w, lam**2) - log_joint(other, w, 10.0 * lam**2) for w, lam in configurations()]
    assert np.ptp(differences) < 1e-9
    third = SWS.from_paper(3.0, 0.3, 1)
    assert np.ptp([log_joint(one, w, lam**2) - log_joint(third, w, 10.0 * lam**2) for w, lam in configurations()]) > 1


def test_simulated_weights_have_the_stated_standard_deviation():
    expected = math.sqrt(2.0 * 13.0 * 14.0) / 5.0
    torch.manual_seed(0)
    prior = TensorPrior("w", SWS(kappa=5.0), (4, 3), 10)
    squares = torch.stack([prior.simulate(DOUBLE)["weight"].square().mean() for _ in range(2500)])
    error = float(squares.std()) / math.sqrt(len(squares))
    assert error < 0.025 * expected**2
    assert abs(float(squares.mean()) - expected**2) < 4.0 * error
    assert abs(float(squares.mean()) - 1.1 * expected**2) > 4.0 * error


def test_the_objective_of_a_map_is_the_penalty():
    x, y = torch.randn(20, 5, dtype=torch.float64), torch.randint(6, (20,))
    model = bp.BayesianNetwork(nn.Linear(5, 6).double(), {"weight": SWS.from_paper(0.02, 0.05, 20)}, data_size=20)
    objective = Objective(model, Guide(model))
    assert objective.guide.is_map
    constants = []
    for w, lam in configurations():
        family = {site.name: f for f in objective.guide.families for site in f.sites}
        with torch.no_grad():
            family["weight"].location.copy_(w.flatten())
            family["weight.square"].location.fill_(2.0 * math.log(lam))
        penalty = sws_penalty(w.numpy(), lam, 20 * 0.02, 20 * 0.05)
        constants.append(float(objective.terms(x, y).kl) - penalty)
    assert np.ptp(constants) < 1e-9 * abs(constants[0])
    assert np.ptp([c + 1e-3 * lam for c, (_, lam) in zip(constants, configurations(), strict=True)]) > 1e-4


def test_a_fit_finds_the_scale_of_its_weights():
    torch.manual_seed(0)
    x = torch.randn(60, 5)
    y = (x[:, 0] > 0).long()
    model = bp.BayesianNetwork(nn.Linear(5, 2), {"weight": SWS(kappa=5.0)}, data_size=60)
    values = bp.fit(model, (x, y), steps=200, learning_rate=0.04, device="cpu").guide.means()
    assert float(Guide(model).means()["weight.square"]) == 1.0  # as the authors' lam
    expected = math.sqrt(5.0 * float(values["weight"].abs().sum())) / 11.0
    assert float(values["weight.square"]) == pytest.approx(expected, rel=0.01)
    assert expected != pytest.approx(1.0, rel=0.05)  # where it started


@pytest.mark.parametrize("shape", [(1, 1), (10, 20), (50, 70)])
def test_the_map_exists_and_one_less_in_the_gamma_takes_it_away(shape):
    def probe(prior):
        model = bp.BayesianNetwork(nn.Linear(shape[1], shape[0]), {"weight": prior}, data_size=10)
        check_map_exists(model, Guide(model, "map").family_of)

    probe(SWS())
    probe(SWS.from_paper(1e-4, 1e-4, 10))
    if max(shape) <= 32:  # a larger tensor is probed by a piece of it
        with pytest.raises(ValueError, match="no MAP.*square"):
            probe(with_shape(float(shape[0] * shape[1])))


def test_the_scale_is_a_point_under_a_mean_field_guide_as_its_posterior_is_narrow():
    model = bp.BayesianNetwork(nn.Linear(5, 6), {"weight": SWS()}, data_size=10)
    assert Guide(model, "meanfield").family_of == {"weight.square": "delta", "weight": "normal"}
    assert Guide(model, {"square": "lognormal"}).family_of["weight.square"] == "lognormal"  # but may be asked for
    for kappa, tolerance in ((1e2, 0.02), (1e6, 2e-4)):
        w = next(configurations())[0]
        root = math.sqrt(kappa * float(w.abs().sum()))
        grid = np.linspace(-8.0, 8.0, 61) / math.sqrt(2.0 * root) + math.log(root / (SIZE + 1))
        logs = np.array([log_joint(SWS(kappa=kappa), w, math.exp(each)) + each for each in grid])
        density = np.exp(logs - logs.max())
        density /= density.sum()
        sd = math.sqrt(float(density @ grid**2 - (density @ grid) ** 2))
        assert sd == pytest.approx(1.0 / math.sqrt(2.0 * root), rel=tolerance)
        assert sd != pytest.approx(1.0 / math.sqrt(root), rel=0.2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SWS(kappa=0.0),
        lambda: SWS(kappa=float("nan")),
        lambda: SWS.from_paper(0.0, 1.0, 10),
        lambda: SWS.from_paper(1.0, -1.0, 10),
        lambda: SWS.from_paper(1.0, 1.0),
        lambda: SWS.from_paper(1.0, 1.0, 0),
    ],
)
def test_arguments_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="^SWS"):
        make()
