"""HALO: the penalty of the paper, the moments of the prior, and its three ways of being stated."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, optimize, stats

from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.priors.halo import HALO, kappa_of
from tests.oracles import halo_reference as halo

DOUBLE = torch.empty(0, dtype=torch.float64)
SHAPE = (6, 5)


def log_joint(declared, w, lam):
    _, terms = TensorPrior("w", declared, SHAPE, 100).evaluate({"weight": w, "lam": lam}, DOUBLE)
    return sum(float(term) for term in terms.values())


def configurations():
    torch.manual_seed(0)
    for spread in (0.1, 3.0, 40.0):
        w = spread * torch.randn(SHAPE, dtype=torch.float64)
        yield w, torch.rand(SHAPE, dtype=torch.float64) * spread + 0.05


@pytest.mark.parametrize(("xi", "psi"), [(1.0, 1.0), (0.3, 2.0), (1e-3, 1e-3)])
@pytest.mark.parametrize("signed", [True, False])
def test_minus_the_log_joint_is_the_papers_penalty_up_to_a_constant(xi, psi, signed):
    size = 50  # the paper's constants are per datum
    declared = HALO.from_paper(xi / size, psi / size, data_size=size, signed=signed)
    sums, differences = [], []
    for w, lam in configurations():
        penalty = float(halo.halo_penalty([w], [lam], xi, psi))
        joint = log_joint(declared, w, lam)
        sums.append(joint + penalty)
        differences.append(joint - penalty)
    constant = math.log(xi * psi**3 / 4.0) - (math.log(2.0) if signed else 0.0)
    assert sums == pytest.approx([30 * constant] * 3, rel=1e-9)
    assert np.ptp(differences) > 1e-3  # the control: the other sign


def test_lam_may_be_negative_in_the_papers_form():
    declared = HALO.from_paper(0.01, 0.02, data_size=10)
    for w, lam in configurations():
        assert log_joint(declared, w, -lam) == pytest.approx(log_joint(declared, w, lam), rel=1e-12)


def test_an_exponential_hyper_prior_is_not_the_papers_penalty():
    wrong = Hierarchy(lam=lambda: dist.Exponential(1.0), weight=lambda lam: dist.Laplace(0.0, lam.square()))
    sums = [log_joint(wrong, w, lam) + float(halo.halo_penalty([w], [lam], 1.0, 1.0)) for w, lam in configurations()]
    assert np.ptp(sums) > 1.0


def test_weight_decay_is_a_factor_on_both_weights_and_lam():
    size, decay = 50, 1e-2
    with_decay = HALO.from_paper(0.01, 0.02, decay, size)
    without = HALO.from_paper(0.01, 0.02, 0.0, size)
    for w, lam in configurations():
        expected = -0.5 * decay * size * float((w**2).sum() + (lam**2).sum())
        assert log_joint(with_decay, w, lam) - log_joint(without, w, lam) == pytest.approx(expected, rel=1e-9)
    assert with_decay.improper and without.improper is None


ABSENT = [(0.0, 2.0), (0.3, 0.0), (0.0, 0.0)]


@pytest.mark.parametrize(("xi", "psi"), ABSENT)
@pytest.mark.parametrize("decay", [0.0, 1e-2])
@pytest.mark.parametrize("signed", [True, False])
def test_without_xi_or_psi_minus_the_log_joint_is_still_the_papers_penalty(xi, psi, decay, signed):
    size = 50
    declared = HALO.from_paper(xi / size, psi / size, decay, size, signed=signed)
    sums = []
    for w, lam in configurations():
        shrunk = 0.5 * decay * size * float((w**2).sum() + (lam**2).sum())
        sums.append(log_joint(declared, w, lam) + float(halo.halo_penalty([w], [lam], xi, psi)) + shrunk)
    assert np.ptp(sums) < 1e-9 * max(1.0, abs(sums[0]))
    wrong = [
        total + 0.1 * float(w.abs().sum() + lam.sum()) for total, (w, lam) in zip(sums, configurations(), strict=True)
    ]
    assert np.ptp(wrong) > 1e-3  # the control: a penalty beside it
    assert declared.latents["lam"].guide == ("delta" if not psi and not decay else None)
    with pytest.raises(ValueError, match="cannot be simulated: (without a penalty|its factor)"):
        TensorPrior("w", declared, SHAPE, 100).simulate()


def test_a_kappa_of_zero_is_no_penalty_on_the_weights():
    lam = torch.ones(SHAPE, dtype=torch.float64)
    joints = [log_joint(HALO(kappa=0.0), w, lam) for w, _ in configurations()]
    assert joints == pytest.approx([joints[0]] * 3, rel=1e-12)
    others = [log_joint(HALO(kappa=1e-2), w, lam) for w, _ in configurations()]
    assert np.ptp(others) > 1e-2
    with pytest.raises(ValueError, match="cannot be simulated: without a penalty on them, the density of the weights"):
        TensorPrior("w", HALO(kappa=0.0), SHAPE, 100).simulate()


@pytest.mark.parametrize("psi", [0.0, 1e-9])
def test_without_psi_the_best_lam_under_weight_decay_leaves_a_bridge_penalty(psi):
    """sqrt(2 xi mu |w|), to which the published setting, whose psi is next to nothing, comes close too."""
    xi, mu, size = 0.3, 0.02, 40
    declared = HALO.from_paper(xi / size, psi / size, mu / size, size, signed=False)

    def least(w):
        def joint(log_lam):
            at = torch.full((1,), w, dtype=torch.float64), torch.full((1,), math.exp(log_lam), dtype=torch.float64)
            bound = TensorPrior("w", declared, (1,), size)
            values = {"weight": at[0], "lam": at[1]}
            return -sum(float(term) for term in bound.evaluate(values, DOUBLE)[1].values())

        found = optimize.minimize_scalar(joint, bounds=(-8, 8), method="bounded", options={"xatol": 1e-10})
        return found.fun - 0.5 * mu * w**2

    penalties = [least(w) for w in (0.01, 0.2, 3.0)]
    rises = [b - a for a, b in zip(penalties, penalties[1:], strict=False)]
    bridge = [math.sqrt(2.0 * xi * mu * w) for w in (0.01, 0.2, 3.0)]
    assert rises == pytest.approx([b - a for a, b in zip(bridge, bridge[1:], strict=False)], rel=1e-6)


@pytest.mark.parametrize(
    "declared",
    [HALO(kappa=24.0), HALO(prior_sd=math.sqrt(720.0) / 24.0), HALO.from_paper(0.24, 1.0, data_size=1, signed=False)],
    ids=["kappa", "prior_sd", "from_paper"],
)
def test_simulated_moments_are_twelve_and_720(declared):
    kappa = 24.0 if "xi" not in declared.config["arguments"] else 0.24
    torch.manual_seed(0)
    drawn = TensorPrior("w", declared, (1000, 1000), 10).simulate(DOUBLE)["weight"].flatten()
    first, second = halo.halo_prior_moments(kappa)
    assert (first, second) == pytest.approx((12 / kappa, 720 / kappa**2))
    for values, moment in ((drawn.abs(), first), (drawn**2, second)):
        error = float(values.std()) / math.sqrt(len(values))
        assert abs(float(values.mean()) - moment) < 4.0 * error
        assert error < 0.02 * moment  # so that a wrong constant would be seen
        assert abs(float(values.mean()) - 1.2 * moment) > 4.0 * error


def test_the_simulated_marginal_follows_the_marginal_density():
    torch.manual_seed(0)
    drawn = TensorPrior("w", HALO(kappa=24.0), (300, 300), 10).simulate(DOUBLE)["weight"].flatten()
    for low, high in ((0.0, 0.01), (0.01, 0.2), (0.2, 1.0), (1.0, 5.0)):

        def density(log_w):
            return 2.0 * math.exp(log_w) * halo.halo_marginal_density(math.exp(log_w), 24.0, 1.0)

        mass, _ = integrate.quad(density, math.log(max(low, 1e-12)), math.log(high), limit=200)
        found = float(((drawn.abs() > low) & (drawn.abs() <= high)).double().mean())
        assert abs(found - mass) < 4.0 * math.sqrt(mass * (1 - mass) / len(drawn))


def test_the_marginal_depends_on_xi_and_psi_through_kappa_only():
    for w in (0.0, 0.1, 2.0):
        one, other = (halo.halo_marginal_density(w, xi, psi) for xi, psi in ((24.0, 1.0), (24.0 / 9.0, 3.0)))
        assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(400, 300), (40, 30, 10, 10)])
def test_expected_density_is_the_prior_share_of_scales_above_he_s(density, shape):
    one = TensorPrior("w", HALO(expected_density=density), shape, 10)
    torch.manual_seed(0)
    sd = one.conditional_sd(one.simulate(DOUBLE))
    fan_in = sd[0].numel()
    share = float((sd > math.sqrt(2.0 / (density * fan_in))).double().mean())
    assert abs(share - density) < 4.0 * math.sqrt(density * (1 - density) / sd.numel())


def test_the_three_arguments_are_ways_of_stating_kappa():
    assert kappa_of(784, kappa=3.0) == 3.0
    assert kappa_of(784, prior_sd=0.5) == pytest.approx(math.sqrt(720.0) / 0.5, rel=1e-14)
    quantile = stats.gamma.isf(0.1, 3.0)
    assert kappa_of(784) == kappa_of(784, expected_density=0.1) == pytest.approx(math.sqrt(0.1 * 784) * quantile**2)
    w, lam = next(configurations())
    stated = [HALO(kappa=kappa_of(5)), HALO(expected_density=0.1), HALO(), HALO(prior_sd=math.sqrt(720) / kappa_of(5))]
    joints = [log_joint(one, w, lam) for one in stated]
    assert joints == pytest.approx([joints[0]] * 4, rel=1e-12)
    assert abs(log_joint(HALO(kappa=1.01 * kappa_of(5)), w, lam) - joints[0]) > 1e-3


@pytest.mark.parametrize(
    "arguments",
    [
        {"kappa": 1.0, "prior_sd": 1.0},
        {"kappa": float("inf")},
        {"kappa": -1.0},
        {"prior_sd": 0.0},
        {"prior_sd": float("inf")},
        {"prior_sd": float("nan")},
        {"expected_density": 0.0},
        {"expected_density": 1.0},
        {"expected_density": 10},
    ],
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="HALO"):
        HALO(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"xi": -1e-9, "psi": 1.0, "data_size": 10},
        {"xi": float("nan"), "psi": 1.0, "data_size": 10},
        {"xi": 1.0, "psi": 1.0, "data_size": 10, "lam_start": 0.0},
        {"xi": 1.0, "psi": -1.0, "data_size": 10},
        {"xi": 1.0, "psi": 1.0, "weight_decay": -1e-4, "data_size": 10},
        {"xi": 1.0, "psi": 1.0},
        {"xi": 1.0, "psi": 1.0, "data_size": 0},
    ],
)
def test_constants_of_the_paper_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=r"HALO.from_paper( needs|\(xi=...\) takes a number, not nan)"):
        HALO.from_paper(**arguments)


def test_the_config_says_how_to_make_it_again():
    assert HALO(prior_sd=0.3).config["arguments"] == {"kappa": None, "prior_sd": 0.3, "expected_density": None}
    config = HALO.from_paper(1e-4, 1e-5, 1e-4, 60_000).config
    again = HALO.from_paper(**config["arguments"])
    assert again.fingerprint() == HALO.from_paper(1e-4, 1e-5, 1e-4, 60_000).fingerprint()


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (5,), (5, 5), (3, 3, 3, 3), (7, 11)])
def test_the_papers_form_takes_tensors_of_any_number_of_weights(shape):
    """A signed lam may not be zero, which the middle of an odd number of probing points would be."""
    declared = HALO.from_paper(1e-3, 1e-2, data_size=10)
    assert TensorPrior("w", declared, shape, 10).sites["lam"].shape == shape
