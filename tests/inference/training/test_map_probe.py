"""The probe for a MAP: refused where the log joint has no maximum, and only there."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
from torch import nn

from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.training.map_probe import check_map_exists
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.latent import Latent
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.horseshoe import Horseshoe, RegularisedHorseshoe
from bayesprune.models.priors.laplace import Laplace


def centred(scale, family=dist.Normal, per="weight"):
    return Hierarchy(lam=Latent(scale, per=per), weight=lambda lam: family(0.0, lam))


def probe(prior, choice="map", shape=(10, 20)):
    bnn = BayesianNetwork(nn.Linear(shape[1], shape[0]), {"weight": prior}, data_size=100)
    check_map_exists(bnn, Guide(bnn, choice).family_of)


UNBOUNDED = {
    "half-Cauchy mixture": centred(dist.HalfCauchy(1.0)),
    "half-Cauchy mixture of a layer": centred(dist.HalfCauchy(1.0), per="layer"),
    "half-Cauchy mixture of an output": centred(dist.HalfCauchy(1.0), per="output"),
    "half-Normal mixture of Laplaces": centred(dist.HalfNormal(1.0), dist.Laplace),
    "exponential hyper-prior on HALO's form": Hierarchy(
        lam=dist.Exponential(1.0), weight=lambda lam: dist.Laplace(0.0, lam.square())
    ),
    "a Gamma of two in place of HALO's three": Hierarchy(
        lam=dist.Gamma(2.0, 1.0), weight=lambda lam: dist.Laplace(0.0, lam.square())
    ),
    "centred horseshoe": Hierarchy(
        tau=Latent(dist.HalfCauchy(1.0), per="layer"),
        lam=dist.HalfCauchy(1.0),
        weight=lambda tau, lam: dist.Normal(0.0, tau * lam),
    ),
    "centred in z": Hierarchy(
        lam=dist.HalfCauchy(1.0),
        tau=Latent(dist.HalfCauchy(1.0), per="layer"),
        z=lambda lam: dist.Normal(0.0, lam),
        weight=lambda tau, z: tau * z,
    ),
    # 200 weights outweigh the hyper-prior's lam^5, which four weights would not.
    "a Gamma of six over a whole layer": centred(dist.Gamma(6.0, 1.0), per="layer"),
}

BOUNDED = {
    "Gaussian": Gaussian(),
    "Laplace": Laplace(),
    "HALO": HALO(),
    "HALO of the paper": HALO.from_paper(1e-4, 1e-4, 1e-4, 100),
    "HALO of the paper, positive": HALO.from_paper(1e-4, 1e-4, 1e-4, 100, signed=False),
    "HALO without a penalty": HALO(kappa=0.0),
    "HALO of the paper without xi": HALO.from_paper(0.0, 1e-4, 0.0, 100, signed=False),
    "HALO of the paper without psi": HALO.from_paper(1e-4, 0.0, 0.0, 100, signed=False),
    "HALO of the paper without either": HALO.from_paper(0.0, 0.0, 1e-4, 100),
    "non-centred horseshoe": Horseshoe(),
    "non-centred regularised horseshoe": RegularisedHorseshoe(),
    "inverse-Gamma variance": Hierarchy(v=dist.InverseGamma(2.0, 1.0), weight=lambda v: dist.Normal(0.0, v.sqrt())),
    "a Gamma of six a weight": centred(dist.Gamma(6.0, 1.0)),
    "a fixed scale": Hierarchy(weight=dist.Cauchy(0.0, 1.0)),
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_a_map_that_does_not_exist_is_refused_with_the_remedy(name):
    with pytest.raises(ValueError, match="weight has no MAP.*(lam|tau).*guide='meanfield'"):
        probe(UNBOUNDED[name])


@pytest.mark.parametrize("name", BOUNDED)
def test_a_map_that_exists_is_accepted(name):
    probe(BOUNDED[name])


@pytest.mark.parametrize("name", UNBOUNDED)
def test_variational_scales_are_always_accepted(name):
    prior = UNBOUNDED[name]
    probe(prior, "meanfield")
    scales = {latent: "lognormal" for latent in prior.latents if latent != "z"}
    rest = "z" if "z" in prior.latents else "weight"
    probe(prior, {**scales, rest: "delta"})


def test_points_for_the_scales_alone_are_accepted_where_the_weights_vary():
    """With the weights away from zero a scale that goes to zero costs more than it gains."""
    probe(UNBOUNDED["half-Cauchy mixture"], {"lam": "delta", "weight": "normal"})


def test_the_probe_looks_at_every_tensor():
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    priors = {"0.weight": Gaussian(), "1.weight": UNBOUNDED["centred horseshoe"]}
    bnn = BayesianNetwork(network, priors, data_size=10)
    with pytest.raises(ValueError, match="1.weight has no MAP"):
        check_map_exists(bnn, Guide(bnn, "map").family_of)
