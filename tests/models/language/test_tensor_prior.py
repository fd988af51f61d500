"""A hierarchy bound to a tensor: sites, simulation, densities, low rank."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.horseshoe import Horseshoe
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab

DOUBLE = torch.empty(0, dtype=torch.float64)


def test_sites_are_named_after_the_tensor_and_shared_ones_after_the_pattern():
    shared = Hierarchy(
        tau=Latent(dist.HalfCauchy(1.0), per="network"),
        lam=Latent(dist.HalfCauchy(1.0), per="output"),
        weight=lambda tau, lam: dist.Normal(0.0, tau * lam),
    )
    one = TensorPrior("fc1.weight", shared, (3, 4), 100, "fc*.weight")
    found = {latent: (site.name, site.shape, site.support) for latent, site in one.sites.items()}
    assert found == {
        "tau": ("fc*.weight.tau", (), "positive"),
        "lam": ("fc1.weight.lam", (3, 1), "positive"),
        "weight": ("fc1.weight", (3, 4), "real"),
    }
    assert one.weight_is_latent


def test_reserved_arguments_are_those_of_the_tensor():
    seen = {}

    def weight(size, fan_in, data_size):
        seen[size] = (fan_in, data_size)
        return dist.Normal(0.0, 1.0)

    one = Hierarchy(weight=weight)
    for shape in ((3, 4), (6, 5, 3, 3), (7,)):
        TensorPrior("w", one, shape, 1234)
    assert seen[12] == (4, 1234) and seen[270] == (45, 1234) and seen[7] == (1, 1234)


@pytest.mark.parametrize("support", ["real", "positive", "unit", "boolean", "other"])
def test_supports_are_recognised(support):
    members = {
        "real": [dist.Normal(0.0, 1.0), dist.StudentT(3.0), dist.Laplace(0.0, 1.0), dist.Cauchy(0.0, 1.0)],
        "positive": [
            dist.Gamma(2.0, 1.0),
            dist.HalfCauchy(1.0),
            dist.HalfNormal(1.0),
            dist.InverseGamma(2.0, 1.0),
            dist.Exponential(1.0),
            dist.LogNormal(0.0, 1.0),
            dist.Weibull(1.0, 2.0),
        ],
        "unit": [dist.Beta(1.0, 2.0), dist.Uniform(0.0, 1.0)],
        "boolean": [dist.Bernoulli(0.3)],
        "other": [dist.Uniform(0.0, 2.0), dist.Pareto(1.0, 2.0)],
    }[support]
    for member in members:
        one = TensorPrior("w", Hierarchy(s=member, weight=lambda s: 1.0 + s), (3, 4), 10)
        assert one.sites["s"].support == support, member


def test_simulation_draws_the_declared_distribution():
    one = TensorPrior(
        "w",
        Hierarchy(tau=Latent(dist.Gamma(4.0, 2.0), per="output"), weight=lambda tau: dist.Normal(0.0, tau * 3.0)),
        (4000, 5),
        10,
    )
    drawn = one.simulate()
    assert set(drawn) == {"tau", "weight"} and drawn["tau"].shape == (4000, 1)
    assert stats.kstest(drawn["tau"].flatten().numpy(), stats.gamma(4.0, scale=0.5).cdf).pvalue > 1e-3
    standard = (drawn["weight"] / (3.0 * drawn["tau"])).flatten().numpy()
    assert stats.kstest(standard, "norm").pvalue > 1e-3
    assert stats.kstest(2 * standard, "norm").pvalue < 1e-6


def test_a_factor_makes_a_prior_that_cannot_be_simulated():
    one = TensorPrior("w", HALO.from_paper(0.1, 0.1, weight_decay=0.1, data_size=10), (3, 4), 10)
    with pytest.raises(ValueError, match="cannot be simulated"):
        one.simulate()
    two = TensorPrior("w", Hierarchy(weight=dist.Normal(0.0, 1.0), improper="it is improper"), (3, 4), 10)
    with pytest.raises(ValueError, match="cannot be simulated: it is improper"):
        two.simulate()


def test_evaluation_returns_each_latents_log_density_and_the_factor():
    one = TensorPrior(
        "w",
        Hierarchy(
            lam=dist.Gamma(3.0, 2.0),
            weight=lambda lam: dist.Laplace(0.0, lam),
            factor=lambda weight, lam: -0.5 * weight.square().sum() - lam.sum(),
        ),
        (3, 4),
        10,
    )
    lam = torch.rand(3, 4, dtype=torch.float64) + 0.1
    w = torch.randn(3, 4, dtype=torch.float64)
    weight, terms = one.evaluate({"lam": lam, "weight": w}, DOUBLE)
    assert torch.equal(weight, w)
    assert terms["lam"].item() == pytest.approx(stats.gamma(3.0, scale=0.5).logpdf(lam).sum(), rel=1e-12)
    assert terms["weight"].item() == pytest.approx(stats.laplace(0, lam).logpdf(w).sum(), rel=1e-12)
    assert terms["factor"].item() == pytest.approx(-0.5 * (w**2).sum().item() - lam.sum().item(), rel=1e-12)


@pytest.mark.parametrize(
    "declared",
    [
        Hierarchy(lam=lambda: dist.HalfCauchy(0.1), weight=lambda lam: dist.Normal(0.1, 0.3 * lam)),
        Hierarchy(lam=lambda fan_in: dist.HalfCauchy(0.4 / fan_in), weight=lambda lam: dist.Normal(0.1, 0.3 * lam)),
    ],
    ids=["constant", "fan_in"],
)
def test_constants_of_callables_are_not_rounded_to_float32(declared):
    one = TensorPrior("w", declared, (3, 4), 10)
    lam = torch.rand(3, 4, dtype=torch.float64) + 0.1
    w = torch.randn(3, 4, dtype=torch.float64)
    _, terms = one.evaluate({"lam": lam, "weight": w}, DOUBLE)
    assert terms["lam"].dtype == terms["weight"].dtype == torch.float64
    expected = stats.halfcauchy(scale=0.1).logpdf(lam).sum()
    assert terms["lam"].item() == pytest.approx(expected, rel=1e-13)
    assert terms["weight"].item() == pytest.approx(stats.norm(0.1, 0.3 * lam).logpdf(w).sum(), rel=1e-13)
    # The control: a constant rounded to float32 is seen at this precision.
    rounded = stats.halfcauchy(scale=float(torch.tensor(0.1))).logpdf(lam).sum()
    assert abs(rounded - expected) > 1e-9


def test_constants_follow_the_dtype_in_either_order():
    one = TensorPrior("w", Hierarchy(weight=lambda: dist.Normal(0.1, 0.3)), (3, 4), 10)
    w = torch.randn(3, 4, dtype=torch.float64)
    expected = stats.norm(0.1, 0.3).logpdf(w).sum()
    assert one.evaluate({"weight": w.float()})[1]["weight"].dtype == torch.float32
    assert one.evaluate({"weight": w}, DOUBLE)[1]["weight"].item() == pytest.approx(expected, rel=1e-13)
    assert one.evaluate({"weight": w.float()})[1]["weight"].dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32


def test_blocks_reach_finer_latents_the_weights_and_the_factor_expanded():
    one = TensorPrior(
        "w",
        Hierarchy(
            tau=Latent(dist.HalfCauchy(1.0), per="block", block=(2, 3)),
            lam=lambda tau: dist.HalfCauchy(tau),
            weight=lambda tau, lam: dist.Normal(0.0, tau * lam),
            factor=lambda tau: tau.sum(),
        ),
        (5, 7),
        10,
    )
    assert one.sites["tau"].shape == (3, 3)
    tau = torch.rand(3, 3, dtype=torch.float64) + 0.1
    full = torch.tensor([[tau[i // 2, j // 3] for j in range(7)] for i in range(5)], dtype=torch.float64)
    lam, w = torch.rand(5, 7, dtype=torch.float64) + 0.1, torch.randn(5, 7, dtype=torch.float64)
    _, terms = one.evaluate({"tau": tau, "lam": lam, "weight": w}, DOUBLE)
    assert terms["lam"].item() == pytest.approx(stats.halfcauchy(scale=full).logpdf(lam).sum(), rel=1e-12)
    assert terms["weight"].item() == pytest.approx(stats.norm(0, full * lam).logpdf(w).sum(), rel=1e-12)
    assert terms["factor"].item() == pytest.approx(full.sum().item(), rel=1e-12)
    assert torch.equal(one.spread("tau", tau), full)


def test_a_low_rank_prior_takes_named_dimensions():
    rank = Hierarchy(
        u=Latent(dist.Normal(0.0, 1.0), dims={"output": None, "rank": 2}),
        v=Latent(dist.Normal(0.0, 1.0), dims={"rank": 2, "input": None}),
        weight=lambda u, v: u @ v,
    )
    one = TensorPrior("w", rank, (5, 7), 10)
    assert one.sites["u"].shape == (5, 2) and one.sites["v"].shape == (2, 7)
    drawn = one.simulate()
    assert drawn["weight"].shape == (5, 7)
    assert torch.linalg.matrix_rank(drawn["weight"]) == 2
    assert "output=own x rank=2" in str(rank)
    with pytest.raises(ValueError, match="dims\\['input'\\].*w is \\(5,\\)"):
        TensorPrior("w", rank, (5,), 10)


def test_a_level_that_a_tensor_lacks_is_refused_by_the_tensors_name():
    with pytest.raises(ValueError, match="per='input'.*fc1.bias"):
        TensorPrior("fc1.bias", Horseshoe(per="input"), (5,), 10)


def test_a_gates_value_of_zero_makes_an_exact_zero():
    one = TensorPrior("w", SpikeAndSlab(0.5), (30, 40), 10)
    drawn = one.simulate()
    assert torch.equal(drawn["weight"] == 0, drawn["z"] == 0)
    assert 0.4 < float(drawn["z"].mean()) < 0.6
