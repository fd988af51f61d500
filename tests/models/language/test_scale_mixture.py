"""Scale mixtures: which priors are, and the standard deviation of the weights given their scales."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch

from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import exact_zero, shrinkage_below
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.scale_mixture import is_scale_mixture
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.horseshoe import Horseshoe, RegularisedHorseshoe
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab

DOUBLE = torch.empty(0, dtype=torch.float64)
MIXTURES = {
    "horseshoe": Horseshoe(),
    "horseshoe of outputs": Horseshoe(per="output"),
    "HALO": HALO(kappa=90.0),
    "signed HALO": HALO.from_paper(1e-3, 2e-3, 1e-4, 60),  # its lam is a real latent
    "a normal of a scale": Hierarchy(s=dist.HalfCauchy(1.0), weight=lambda s: dist.Normal(0.0, s)),
}
OTHERS = {
    "gaussian": Gaussian(),
    "HALO without xi": HALO.from_paper(0.0, 1e-3, 1e-4, 60),
    "spike and slab": SpikeAndSlab(),
    "scales and gates": Hierarchy(
        s=dist.HalfCauchy(1.0),
        z=dist.Bernoulli(0.5),
        n=dist.Normal(0.0, 1.0),
        weight=lambda s, z, n: s * z * n,
        included=exact_zero(gate="z"),
    ),
    "two real latents": Hierarchy(u=dist.Normal(0.0, 1.0), v=dist.Normal(0.0, 1.0), weight=lambda u, v: u * v),
    "no scale": Hierarchy(u=dist.Normal(0.0, 1.0), weight=lambda u: 2.0 * u),
}


@pytest.mark.parametrize("name", [*MIXTURES, *OTHERS])
def test_a_scale_mixture_is_a_weight_scaled_by_latents_whatever_their_support(name):
    bound = TensorPrior("w", {**MIXTURES, **OTHERS}[name], (3, 4), 10)
    assert is_scale_mixture(bound) == (name in MIXTURES)


@pytest.mark.parametrize("declared", [Horseshoe(), RegularisedHorseshoe(), Horseshoe(per="output")])
def test_the_conditional_sd_of_a_horseshoe_is_its_scale(declared):
    one = TensorPrior("w", declared, (3, 4), 10)
    values = {k: v for k, v in one.simulate(DOUBLE).items() if k != "weight"}
    scale = values["tau"] * values["lam"]
    if "c2" in values:
        scale = (values["c2"] * scale**2 / (values["c2"] + scale**2)).sqrt()
    found = one.conditional_sd(values)
    assert found.shape == (3, 4)
    torch.testing.assert_close(found, scale.expand(3, 4), rtol=1e-12, atol=0)


def test_the_conditional_sd_of_halo_is_that_of_its_laplace():
    one = TensorPrior("w", HALO(kappa=90.0), (3, 4), 10)
    values = one.simulate(DOUBLE)
    expected = math.sqrt(2.0) * values["lam"] ** 2 / 10.0
    torch.testing.assert_close(one.conditional_sd(values), expected, rtol=1e-12, atol=0)


def test_the_conditional_sd_counts_the_sd_of_the_latent_that_is_scaled():
    wide = Hierarchy(
        lam=dist.HalfCauchy(1.0),
        z=lambda: dist.Normal(0.0, 2.0),
        weight=lambda lam, z: lam * z,
        included=shrinkage_below(),
    )
    one = TensorPrior("w", wide, (3, 4), 10)
    values = {k: v for k, v in one.simulate(DOUBLE).items() if k != "weight"}
    torch.testing.assert_close(one.conditional_sd(values), 2.0 * values["lam"])
    half = Hierarchy(
        tau=Latent(dist.HalfCauchy(1.0), per="layer"),
        lam=dist.HalfCauchy(1.0),
        z=lambda lam: dist.Normal(0.0, lam),
        weight=lambda tau, z: tau * z,
    )
    one = TensorPrior("w", half, (3, 4), 10)
    values = {k: v for k, v in one.simulate(DOUBLE).items() if k != "weight"}
    torch.testing.assert_close(one.conditional_sd(values), values["tau"] * values["lam"])


@pytest.mark.parametrize(
    "declared",
    [
        Hierarchy(
            raw=dist.Normal(0.0, 1.0),
            s=Latent(dist.HalfNormal(1.0), per="layer"),
            weight=lambda raw, s: raw.sign() * (raw.abs() - s).clamp_min(0.0),
        ),
        Hierarchy(
            u=Latent(dist.Normal(0.0, 1.0), dims={"output": None, "rank": 2}),
            v=Latent(dist.Normal(0.0, 1.0), dims={"rank": 2, "input": None}),
            weight=lambda u, v: u @ v,
        ),
        Hierarchy(u=dist.Normal(0.0, 1.0), v=dist.Normal(0.0, 1.0), weight=lambda u, v: u * v),
    ],
    ids=["soft threshold", "low rank", "product"],
)
def test_the_conditional_sd_is_refused_where_the_prior_is_no_scale_mixture(declared):
    one = TensorPrior("w", declared, (5, 7), 10)
    values = {k: v for k, v in one.simulate().items() if k != "weight"}
    with pytest.raises(ValueError, match="no scale mixture"):
        one.conditional_sd(values)
