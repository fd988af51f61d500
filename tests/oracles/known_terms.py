"""Terms known by other means: every registered pair with priors to try, and its expectation by scipy's quadrature.

Densities and integrals are scipy's: nothing here is shared with the terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyro.distributions as dist
import torch
from scipy import integrate, special, stats

from bayesprune.inference.guides.factors import (
    BernoulliFactor,
    DeltaFactor,
    LogitNormalFactor,
    LogNormalFactor,
    NormalFactor,
)
from bayesprune.inference.guides.hard_concrete import HardConcreteFactor
from bayesprune.inference.guides.paired import Pair, SlabFactor
from bayesprune.inference.guides.truncated_lognormal import TruncatedLogNormalFactor
from bayesprune.models.distributions.fitted_normal import FittedNormal
from bayesprune.models.distributions.hard_concrete import hard_concrete
from bayesprune.models.distributions.log_uniform import LogUniform, TruncatedLogUniform
from bayesprune.models.distributions.nonzero_penalty import NonzeroPenalty
from bayesprune.models.distributions.signed_gamma import SignedGamma
from bayesprune.models.distributions.tilted_beta import TiltedBeta
from bayesprune.models.distributions.truncated_log_normal import TruncatedLogNormal
from bayesprune.models.language.tensor_prior import Site


@dataclass(frozen=True)
class Family:
    """A family of priors: typical parameters, which of them are positive, and scipy's log density.

    Attributes:
        parameters: By name.
        real: Those that may be negative.
        log_density: (value, parameters) -> nats, of numbers or arrays.
        kink: Where the log density has one, given its parameters.
    """

    parameters: dict[str, float]
    log_density: Callable[..., float]
    real: tuple[str, ...] = ()
    kink: Callable[..., float] | None = None


def signed_gamma(x, concentration, rate):
    return stats.gamma.logpdf(abs(x), concentration, scale=1.0 / rate) - math.log(2.0)


def tilted_beta(x, concentration1, concentration0, odds, count):
    normaliser = special.hyp2f1(-count, concentration1, concentration1 + concentration0, 1.0 - odds)
    tilt = count * np.log1p(x * (odds - 1.0))
    return stats.beta.logpdf(x, concentration1, concentration0) + tilt - np.log(normaliser)


FAMILIES = {
    dist.Normal: Family(
        {"loc": 0.3, "scale": 0.7}, lambda x, loc, scale: stats.norm.logpdf(x, loc, scale), real=("loc",)
    ),
    dist.Laplace: Family(
        {"loc": 0.3, "scale": 0.7},
        lambda x, loc, scale: stats.laplace.logpdf(x, loc, scale),
        real=("loc",),
        kink=lambda loc, scale: loc,
    ),
    dist.Gamma: Family(
        {"concentration": 2.5, "rate": 0.7},
        lambda x, concentration, rate: stats.gamma.logpdf(x, concentration, scale=1.0 / rate),
    ),
    SignedGamma: Family({"concentration": 2.5, "rate": 0.7}, signed_gamma),
    dist.InverseGamma: Family(
        {"concentration": 2.5, "rate": 0.7},
        lambda x, concentration, rate: stats.invgamma.logpdf(x, concentration, scale=rate),
    ),
    dist.Exponential: Family({"rate": 0.7}, lambda x, rate: stats.expon.logpdf(x, scale=1.0 / rate)),
    dist.HalfNormal: Family({"scale": 0.7}, lambda x, scale: stats.halfnorm.logpdf(x, scale=scale)),
    dist.HalfCauchy: Family({"scale": 0.7}, lambda x, scale: stats.halfcauchy.logpdf(x, scale=scale)),
    dist.LogNormal: Family(
        {"loc": 0.3, "scale": 0.7},
        lambda x, loc, scale: stats.lognorm.logpdf(x, scale, scale=math.exp(loc)),
        real=("loc",),
    ),
    dist.Beta: Family(
        {"concentration1": 2.5, "concentration0": 0.8},
        lambda x, concentration1, concentration0: stats.beta.logpdf(x, concentration1, concentration0),
    ),
    TiltedBeta: Family({"concentration1": 2.5, "concentration0": 1.8, "odds": 0.6, "count": 3.0}, tilted_beta),
    dist.Uniform: Family(
        {"low": 0.0, "high": 1.0}, lambda x, low, high: stats.uniform.logpdf(x, low, high - low), real=("low",)
    ),
    LogUniform: Family({}, lambda x: -math.log(abs(x)) - 0.5 * (math.log(4.0 * math.pi * math.e) + np.euler_gamma)),
    FittedNormal: Family({"strength": 0.7}, lambda x, strength: strength * stats.norm.logpdf(x, 0.0, abs(x))),
    NonzeroPenalty: Family({"price": 0.7}, lambda x, price: -price * (x != 0)),
    TruncatedLogUniform: Family(
        {"low": -4.0, "high": 0.5},
        lambda x, low, high: stats.loguniform.logpdf(x, math.exp(low), math.exp(high)),
        real=("low", "high"),
    ),
}


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def typical(family, **changed):
    """A member of a family at its typical parameters, in float64."""
    given = FAMILIES[family].parameters | changed
    return family(**{name: number(value) for name, value in given.items()})


POSITIVE = (
    dist.Gamma,
    dist.InverseGamma,
    dist.Exponential,
    dist.HalfNormal,
    dist.HalfCauchy,
    dist.LogNormal,
)
AROUND_ZERO = {  # a location of zero that is no latent has ways of its own
    "typical": lambda family: typical(family),
    "centred": lambda family: typical(family, loc=0.0),
    "centred, its scale a latent": lambda family: lambda scale: family(0.0, scale),
    "both latents": lambda family: lambda size, scale: family(size.log(), scale),
}


def centred(family):
    return {name: make(family) for name, make in AROUND_ZERO.items()}


def alone(family):
    return {"typical": typical(family)}


CASES = {
    **{
        (family, kind): centred(family) for family in (dist.Normal, dist.Laplace) for kind in (NormalFactor, SlabFactor)
    },
    **{(family, DeltaFactor): centred(family) for family in (dist.Normal, dist.Laplace)},
    **{(family, kind): alone(family) for family in POSITIVE for kind in (LogNormalFactor, DeltaFactor)},
    (SignedGamma, DeltaFactor): alone(SignedGamma),
    (dist.Beta, LogitNormalFactor): alone(dist.Beta),
    (TiltedBeta, LogitNormalFactor): alone(TiltedBeta),
    (dist.Uniform, LogitNormalFactor): {
        "typical": typical(dist.Uniform),
        "wider, by latents": lambda below, above: dist.Uniform(-below, 1.0 + above),
    },
    (dist.Bernoulli, BernoulliFactor): {
        "by a probability": dist.Bernoulli(number(0.2)),
        "by log odds": dist.Bernoulli(logits=number(-1.2)),
        "by a probability that is a latent": lambda odds: dist.Bernoulli(odds / (1.0 + odds)),
    },
    (LogUniform, NormalFactor): alone(LogUniform),
    (FittedNormal, NormalFactor): alone(FittedNormal),
    (NonzeroPenalty, HardConcreteFactor): alone(NonzeroPenalty),
    (TruncatedLogUniform, TruncatedLogNormalFactor): alone(TruncatedLogUniform),
}
"""The priors that the checker tries for each pair, by name: for `check_term`."""

NOISE_PAIRS = {pair for pair in CASES if pair[0] in (LogUniform, FittedNormal, NonzeroPenalty, TruncatedLogUniform)}
"""Pairs that the checker and the quadrature below cannot take, since their terms are an approximation, no average over
draws, or of a factor with ends; tests/inference/terms/test_noise_terms.py holds them to integrals of their own."""


def site(name, shape, support="real", per="weight"):
    return Site(name, name, name, tuple(shape), support, per, None)


def factor_at(kind, guide, noise=None, ends=(-4.0, 0.5)):
    """A factor at given parameters, with the sums over the site that a family hands it; no noise: at its centre."""
    if kind is DeltaFactor:
        return kind(guide["value"])
    if kind is BernoulliFactor:
        return kind(guide["logit"].sigmoid(), guide["logit"])
    if kind is HardConcreteFactor:
        noise = torch.zeros_like(guide["log_alpha"]) if noise is None else noise
        return kind(hard_concrete(guide["log_alpha"], noise), guide["log_alpha"])
    location, log_scale = guide["location"], guide["log_scale"]
    if kind is TruncatedLogNormalFactor:
        logarithm = TruncatedLogNormal(location, log_scale, *ends).logarithm_at(
            torch.zeros_like(location) if noise is None else noise
        )
        return kind(logarithm.exp(), location, log_scale, logarithm, ends)
    value = location + log_scale.exp() * (torch.zeros_like(location) if noise is None else noise)
    to_site = {LogNormalFactor: torch.exp, LogitNormalFactor: torch.sigmoid}.get(kind, lambda u: u)
    sums = torch.stack([(location.square() + (2.0 * log_scale).exp()).sum(), log_scale.sum()])
    more = {}
    if kind is SlabFactor:
        pair = Pair(site("z", guide["logit"].shape, "boolean", "output"), site("slab", location.shape), (1, 1))
        more = {"inclusion": guide["logit"].sigmoid(), "pair": pair}
    return kind(value=to_site(value), location=location, log_scale=log_scale, sums=sums, **more)


def log_density_of(kind, u, location, scale):
    """The values and the log densities of a guide in nats, at numbers u on the real line."""
    if kind is LogNormalFactor:
        return np.exp(u), stats.lognorm.logpdf(np.exp(u), scale, scale=math.exp(location))
    if kind is LogitNormalFactor:
        x = special.expit(u)
        return x, stats.norm.logpdf(u, location, scale) - np.log(x) - np.log(special.expit(-u))
    return u, stats.norm.logpdf(u, location, scale)


def entry(kind, family, parameters, location, log_scale, adaptive=False):
    """E_q[log q - log p] of one entry in nats, by quadrature over the noise of the guide.

    Gauss-Legendre of 160 nodes on each side of the kink or of the centre, or scipy's adaptive rule.
    """
    scale, known = math.exp(log_scale), FAMILIES[family]

    def integrand(e):
        value, log_q = log_density_of(kind, location + scale * e, location, scale)
        return stats.norm.pdf(e) * (log_q - known.log_density(value, **parameters))

    middle = 0.0 if known.kink is None else np.clip((known.kink(**parameters) - location) / scale, -11.9, 11.9)
    pieces = (-12.0, middle), (middle, 12.0)
    if adaptive:
        return sum(integrate.quad(integrand, *piece, epsabs=1e-13, epsrel=1e-12, limit=400)[0] for piece in pieces)
    return float(sum(integrate.fixed_quad(integrand, *piece, n=160)[0] for piece in pieces))
