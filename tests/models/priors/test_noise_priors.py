"""Priors with multiplicative noise: densities, marginals, prices of groups, and what the improper ones refuse."""

from __future__ import annotations

import math

import pytest
import torch
from pyro.infer import MCMC, NUTS
from scipy import stats
from torch import nn

import bayesprune as bp
from bayesprune.models.distributions.fitted_normal import FittedNormal
from bayesprune.models.distributions.log_uniform import LogUniform
from bayesprune.models.distributions.nonzero_penalty import NonzeroPenalty
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.priors.ready import PRIORS, from_config, make_prior
from tests.oracles.noise_reference import half_cauchy_product_density

DOUBLE = torch.empty(0, dtype=torch.float64)
LINEAR, CONV = (6, 5), (6, 5, 3, 2)
IMPROPER = {
    "sparse-variational-dropout": LogUniform(),
    "group-normal-jeffreys": LogUniform(),
    "l0-hard-concrete": NonzeroPenalty(1.0),
    "vib": FittedNormal(1.0),
}
PROPER = ("group-horseshoe", "structured-bayesian-pruning")


@pytest.mark.parametrize("tau0", [1.0, 0.2])
def test_the_factors_of_the_group_horseshoe_multiply_to_half_cauchys(tau0):
    for z in (0.05, 0.6, 1.0, 4.0):
        known = stats.halfcauchy.pdf(z)
        assert half_cauchy_product_density(z) == pytest.approx(known, rel=1e-7)
        assert half_cauchy_product_density(z, shape=0.51) != pytest.approx(known, rel=1e-3)  # the control
    torch.manual_seed(0)
    prior = TensorPrior("w", bp.GroupHorseshoe(tau0), (20_000, 2), 10)
    drawn = [prior.simulate(DOUBLE) for _ in range(300)]
    z = (drawn[0]["z_a"] * drawn[0]["z_b"]).sqrt().flatten().numpy()
    s = torch.stack([one["s_a"] * one["s_b"] for one in drawn]).sqrt().numpy()
    assert stats.kstest(z, stats.halfcauchy.cdf).pvalue > 1e-3
    assert stats.kstest(s, stats.halfcauchy(scale=tau0).cdf).pvalue > 1e-3
    assert stats.kstest(2.0 * s, stats.halfcauchy(scale=tau0).cdf).pvalue < 1e-3
    scale = (drawn[0]["s_a"] * drawn[0]["s_b"] * drawn[0]["z_a"] * drawn[0]["z_b"]).sqrt()
    torch.testing.assert_close(drawn[0]["weight"], scale * drawn[0]["w"])


@pytest.mark.parametrize(
    ("level", "linear", "conv"), [("weight", 1, 1), ("output", 5, 30), ("input", 6, 36), ("kernel", 1, 6)]
)
def test_a_gate_costs_the_price_of_all_the_weights_that_it_switches(level, linear, conv):
    for shape, group in ((LINEAR, linear), (CONV, conv)):
        prior = TensorPrior("w", bp.L0HardConcrete(0.3, level=level), shape, 10)
        z = torch.full(prior.sites["z"].shape, 0.4, dtype=torch.float64)
        z.view(-1)[0] = 0.0
        w = torch.ones(shape, dtype=torch.float64)
        weight, terms = prior.evaluate({"z": z, "w": w}, DOUBLE)
        assert float(terms["z"]) == pytest.approx(-0.3 * group * (z.numel() - 1), rel=1e-12)
        assert int((weight == 0).sum()) == group


def test_points_decay_as_a_normal():
    for prior in (bp.L0HardConcrete(slab_sd=0.7), bp.StructuredBayesianPruning(slab_sd=0.7), bp.VIB(slab_sd=0.7)):
        one = TensorPrior("w", prior, LINEAR, 10)
        w = torch.randn(LINEAR, dtype=torch.float64)
        noise = next(latent for latent in one.sites if latent != "w")
        values = {noise: torch.full(one.sites[noise].shape, 0.5, dtype=torch.float64), "w": w}
        weight, terms = one.evaluate(values, DOUBLE)
        assert float(terms["w"]) == pytest.approx(stats.norm(0, 0.7).logpdf(w).sum(), rel=1e-12)
        assert torch.equal(weight, 0.5 * w)
    default = TensorPrior("w", bp.VIB(), LINEAR, 10).evaluate(values, DOUBLE)[1]["w"]
    assert float(default) == pytest.approx(stats.norm(0, math.sqrt(2.0 / 5.0)).logpdf(w).sum(), rel=1e-6)


@pytest.mark.parametrize("name", IMPROPER)
def test_improper_priors_are_neither_simulated_nor_sampled_and_say_why(name):
    prior = make_prior(name)
    with pytest.raises(ValueError, match="cannot be simulated: "):
        bp.prior_sparsity(prior, (3, 4))
    with pytest.raises(ValueError, match="cannot be sampled: fit it with a guide"):
        IMPROPER[name].sample()
    bnn = bp.BayesianNetwork(nn.Linear(3, 2), {"weight": prior}, data_size=8)
    with pytest.raises(ValueError, match="cannot be sampled: fit it with a guide in place of NUTS"):
        MCMC(NUTS(bnn), num_samples=1, warmup_steps=1, disable_progbar=True).run(
            torch.randn(8, 3), torch.randint(2, (8,))
        )


@pytest.mark.parametrize("name", PROPER)
def test_proper_priors_are_simulated(name):
    found = bp.prior_sparsity(make_prior(name), (30, 20), draws=20)
    assert 0.0 < found.mean < 1.0 and found.kind == "relative"


@pytest.mark.parametrize("name", [*IMPROPER, *PROPER])
def test_a_prior_is_made_again_of_its_config(name):
    settings = {key: default for key, default in PRIORS[name].settings.items()}
    settings |= {"per": "input"} if "per" in settings else {"level": "input"} if "level" in settings else {}
    prior = make_prior(name, **settings)
    assert prior.config["arguments"] == settings
    again = from_config(prior.config)
    assert again.fingerprint() == prior.fingerprint()
    if settings:
        assert make_prior(name).fingerprint() != prior.fingerprint()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: bp.GroupNormalJeffreys(per="weight"), "per"),
        (lambda: bp.GroupHorseshoe(tau0=0.0), "tau0"),
        (lambda: bp.GroupHorseshoe(per="block"), "per"),
        (lambda: bp.L0HardConcrete(lam=-1.0), "lam"),
        (lambda: bp.L0HardConcrete(slab_sd=0.0), "slab_sd"),
        (lambda: bp.L0HardConcrete(level="layer"), "level"),
        (lambda: bp.L0HardConcrete(dropout=0.95), "dropout"),
        (lambda: bp.L0HardConcrete(dropout=0.0), "dropout"),
        (lambda: bp.StructuredBayesianPruning(low=1.0, high=0.0), "low"),
        (lambda: bp.StructuredBayesianPruning(low=-100.0), "low"),
        (lambda: bp.StructuredBayesianPruning(slab_sd=-1.0), "slab_sd"),
        (lambda: bp.StructuredBayesianPruning(per="network"), "per"),
        (lambda: bp.VIB(strength=0.0), "strength"),
        (lambda: bp.VIB(per="weight"), "per"),
        (lambda: bp.Latent(LogUniform(), spread=0.0), "spread"),
    ],
)
def test_arguments_out_of_range_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
