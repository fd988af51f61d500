"""k-hat of a guide against tails that are known, and its ratios against formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import bayesprune as bp
from bayesprune.analysis.diagnostics.log_densities import LogDensities
from bayesprune.analysis.diagnostics.pareto import _ratios
from tests.analysis.regressions import data_of, fit_with_guide
from tests.oracles.conjugate_regression import regression

LINE = regression(features=1)
SLOPES = regression(features=4, correlation=0.9)


def khat_with(share, **how):
    """Of the one slope, the guide's sd being this share of the posterior's."""
    fit = fit_with_guide(LINE, sd=share * LINE.meanfield_sd)
    return bp.pareto_khat(fit, data_of(LINE), draws=1000, **how).blocks


@pytest.mark.parametrize(
    "share", [pytest.param(0.9, marks=pytest.mark.slow), 0.7, pytest.param(0.5, marks=pytest.mark.slow)]
)
def test_a_guide_that_is_too_narrow_has_the_tail_index_of_two_normals(share):
    (block, joint) = khat_with(share, joint=True)
    assert (block.name, block.entries, joint.name, joint.entries) == ("weight", 1, "joint", 1)
    assert block.khat == pytest.approx(1 - share**2, abs=0.25)
    assert joint.khat == pytest.approx(block.khat, abs=1e-9)  # with one site both are the same


def test_the_exact_posterior_is_good_and_a_narrow_guide_unreliable():
    assert [(b.khat, b.verdict) for b in khat_with(1.0)] == [(-math.inf, "good")]
    assert [b.verdict for b in khat_with(0.15)] == ["unreliable"]


def test_joint_ratios_are_log_joint_less_log_guide():
    fit = fit_with_guide(SLOPES)
    ratios, varies = _ratios(LogDensities(fit, 0), {}, True, *data_of(SLOPES), 20)
    w = fit.draws(20)["weight"][:, 0].numpy()
    log_q = stats.norm.logpdf(w, SLOPES.mean, SLOPES.meanfield_sd).sum(1)
    np.testing.assert_allclose(ratios["joint"], SLOPES.log_joint(w) - log_q, rtol=1e-12)
    assert varies == {"joint": True}
    assert np.abs(ratios["joint"] - SLOPES.log_joint(w)).max() > 0.1  # control


@pytest.fixture(scope="module")
def horseshoe_line():
    torch.manual_seed(0)
    x, y = data_of(regression(features=3))
    bnn = bp.BayesianNetwork(
        nn.Linear(3, 1, bias=False).double(), {"weight": bp.Horseshoe(0.5)}, bp.Normal(1.0), len(y)
    )
    return bp.fit(bnn, (x, y), "meanfield", steps=300, precision="float64", learning_rate=1e-2), (x, y)


def test_a_block_is_drawn_and_the_rest_held_at_the_centre(horseshoe_line):
    fit, (x, y) = horseshoe_line
    blocks = {"tau": ["weight.tau"], "scales": ["weight.tau", "weight.lam"]}
    ratios, _ = _ratios(LogDensities(fit, 0), blocks, False, x, y, 10)
    centre = {name: value.numpy() for name, value in fit.guide.means().items()}
    draws = {name: value.numpy() for name, value in fit.draws(10).items()}
    (logs,) = [family for family in fit.guide.families if "tau" in family.sites[0].name]
    place = dict(
        zip(
            [s.name for s in logs.sites],
            zip(logs.cut(logs.location), logs.cut(logs.log_scale), strict=True),
            strict=True,
        )
    )

    def by_hand(drawn, number):
        at = {name: draws[name][number] if name in drawn else centre[name] for name in centre}
        w = (at["weight.tau"] * at["weight.lam"] * at["weight.z"])[0]
        total = stats.norm.logpdf(y.numpy(), x.numpy() @ w, 1.0).sum()
        total += stats.halfcauchy.logpdf(at["weight.tau"], scale=0.5).sum()
        total += stats.halfcauchy.logpdf(at["weight.lam"]).sum() + stats.norm.logpdf(at["weight.z"]).sum()
        for name in drawn:
            location, log_scale = (part.detach().numpy() for part in place[name])
            total -= stats.lognorm.logpdf(at[name], np.exp(log_scale), scale=np.exp(location)).sum()
        return total

    for name, drawn in blocks.items():
        expected = np.array([by_hand(drawn, number) for number in range(10)])
        np.testing.assert_allclose(ratios[name], expected, rtol=1e-10)
    assert np.abs(ratios["tau"] - ratios["scales"]).max() > 0.1  # control: which sites are drawn matters


def test_blocks_are_the_small_continuous_sites(horseshoe_line, spike, digits):
    fit, data = horseshoe_line
    assert [block.name for block in bp.pareto_khat(fit, data, draws=100).blocks] == [
        "weight.tau",
        "weight.lam",
        "weight.z",
    ]
    with pytest.raises(ValueError, match=r"no continuous site \(but for slabs given their gates\) has 30"):
        bp.pareto_khat(spike, digits["train"])
    for blocks in ({"gates": ["fc1.weight.gate"]}, {"none": []}, {"joint": ["fc3.weight.slab"]}):
        with pytest.raises(ValueError, match="give it some of the sites with a density, here none"):
            bp.pareto_khat(spike, digits["train"], blocks=blocks)


def test_the_joint_of_a_network_is_unreliable_however_it_was_fitted(gaussian, digits):
    found = bp.pareto_khat(gaussian, digits["train"], draws=200, joint=True)
    assert [(block.name, block.verdict) for block in found.blocks] == [("joint", "unreliable")]
    assert found.blocks[0].entries == 64 * 12 + 12 * 8 + 8 * 10
    assert "dependence between blocks" not in str(found)


def test_a_subsample_is_scaled_and_said(horseshoe_line):
    fit, data = horseshoe_line
    every = bp.pareto_khat(fit, data, draws=100)
    assert bp.pareto_khat(fit, data, draws=100, examples=60, seed=3).blocks[0].khat == pytest.approx(
        every.blocks[0].khat, abs=1e-6
    )
    some = bp.pareto_khat(fit, data, draws=100, examples=20)
    assert some.blocks[0].khat != pytest.approx(every.blocks[0].khat, abs=1e-3)
    assert str(some).splitlines()[-1] == "the likelihood is that of 20 of 60 examples, scaled"
    assert "scaled" not in str(every)
    part, _ = _ratios(LogDensities(fit, 0), {"tau": ["weight.tau"]}, False, data[0][:20], data[1][:20], 5)
    thrice, _ = _ratios(
        LogDensities(fit, 0), {"tau": ["weight.tau"]}, False, data[0][:20].repeat(3, 1), data[1][:20].repeat(3), 5
    )
    np.testing.assert_allclose(part["tau"], thrice["tau"], rtol=1e-12)


def test_few_draws_and_constant_draws_cannot_tell():
    fit = fit_with_guide(LINE)
    assert bp.pareto_khat(fit, data_of(LINE), draws=99).blocks[0].verdict == "cannot tell"
    assert bp.pareto_khat(fit, data_of(LINE), draws=100).blocks[0].verdict == "good"
    still = fit_with_guide(LINE, sd=np.array([1e-320]))
    assert bp.pareto_khat(still, data_of(LINE), draws=200).blocks[0].verdict == "cannot tell"


def test_what_makes_no_sense_is_refused(halo, horseshoe_line, digits):
    with pytest.raises(ValueError, match="this fit is a MAP"):
        bp.pareto_khat(halo, digits["train"])
    fit, (x, y) = horseshoe_line
    with pytest.raises(ValueError, match="data= has 59 rows, but the fit had 60"):
        bp.pareto_khat(fit, (x[1:], y[1:]))
    with pytest.raises(ValueError, match="examples is a number from 1 to the 60 of the fit, not 61"):
        bp.pareto_khat(fit, (x, y), examples=61)
    with pytest.raises(ValueError, match="draws must be at least 1, not 0"):
        bp.pareto_khat(fit, (x, y), draws=0)
    with pytest.raises(ValueError, match="there is no restart 1"):
        bp.pareto_khat(fit, (x, y), restart=1)


def test_the_fit_is_left_as_it_was(gaussian, digits):
    before = {name: value.clone() for name, value in gaussian.guide.state_dict().items()}
    state = torch.random.get_rng_state()
    bp.pareto_khat(gaussian, digits["train"], draws=3, joint=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in gaussian.guide.state_dict().items())
    assert gaussian.model.network.fc1.weight.dtype == torch.float32


@pytest.mark.parametrize("level", ["weight", "output"])
def test_gated_fits_have_a_joint_k_hat_and_no_blocks_of_slabs(level):
    torch.manual_seed(0)
    x = torch.randn(80, 3)
    data = (x, x[:, 0] + 0.5 * torch.randn(80))
    priors = {"weight": bp.SpikeAndSlab(0.4, slab_sd=1.0, level=level)}
    fit = bp.fit(bp.BayesianNetwork(nn.Linear(3, 1), priors, bp.Normal(0.5), data_size=80), data, epochs=30)
    found = bp.pareto_khat(fit, data, draws=200, joint=True)
    assert [block.name for block in found.blocks] == ["joint"]
    assert math.isfinite(
        found.blocks[0].khat
    )  # an infinite one is what draws of a gate and of its slab apart would give
    with pytest.raises(ValueError, match="but for slabs given their gates") as refused:
        bp.pareto_khat(fit, data)
    assert "\n" not in str(refused.value)
