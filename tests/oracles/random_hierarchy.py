"""Hierarchies composed at random: scales of many families at several levels, weights centred or not, gates, a factor.

A description is a plain tuple, so that hypothesis can shrink it; `hierarchy_of` makes the declaration.
"""

from __future__ import annotations

import inspect
from functools import reduce
from operator import mul

import pyro.distributions as dist
from hypothesis import strategies as st

from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import exact_zero
from bayesprune.models.language.latent import Latent

SCALES = {
    "gamma": lambda size: dist.Gamma(2.5, 2.5 / size),
    "inverse gamma": lambda size: dist.InverseGamma(3.5, 2.5 * size),
    "exponential": lambda size: dist.Exponential(1.0 / size),
    "half-normal": lambda size: dist.HalfNormal(size),
    "half-Cauchy": lambda size: dist.HalfCauchy(size),
    "log-normal": lambda size: dist.LogNormal(size.log() if hasattr(size, "log") else 0.0, 0.5),
    "chi squared": lambda size: dist.Chi2(3.0 + size),  # no registered term: from the draw
    "weibull": lambda size: dist.Weibull(size, 1.5),  # the same, by a transformed distribution
    "beta": lambda size: dist.Beta(2.5, 1.0 + size),
    "uniform": lambda size: dist.Uniform(0.0, 1.0),
}
WEIGHTS = {
    "normal": lambda scale: dist.Normal(0.0, scale),
    "laplace": lambda scale: dist.Laplace(0.0, scale),
    "student": lambda scale: dist.StudentT(4.0, 0.0, scale),
}
COARSE = ("network", "layer")
FINE = ("output", "input", "kernel", "weight")

LATENTS = st.lists(
    st.tuples(st.sampled_from(sorted(SCALES)), st.sampled_from(COARSE + FINE), st.booleans()), min_size=0, max_size=3
)
DESCRIPTIONS = st.tuples(
    LATENTS,
    st.sampled_from(sorted(WEIGHTS)),
    st.sampled_from(("centred", "non-centred", "gated by weight", "gated by output")),
    st.booleans(),
)


def taking(names, body):
    """A function of arguments with these names, which calls `body` with their values."""

    def function(**values):
        return body(*(values[name] for name in names))

    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    function.__signature__ = inspect.Signature(parameters)
    return function


def hierarchy_of(description):
    """The declaration of a description: (scales, family of the weight, form, whether there is a factor)."""
    scales, family, form, has_factor = description
    latents, parents_of = {}, {}
    order = {level: place for place, level in enumerate(COARSE + FINE)}
    for number, (kind, level, is_child) in enumerate(sorted(scales, key=lambda scale: order[scale[1]])):
        above = [name for name in latents if parents_of[name] in COARSE and order[parents_of[name]] <= order[level]]
        names = above[-1:] if is_child else []
        name = f"s{number}"
        make = SCALES[kind]
        latents[name] = Latent(taking(names, lambda size=1.0, make=make: make(size)), per=level)
        parents_of[name] = level
    names = list(latents)

    def product(*values):
        return reduce(mul, values, 1.0) if values else 0.7

    make_weight = WEIGHTS[family]
    more = {}
    if form == "centred":
        more["weight"] = taking(names, lambda *values: make_weight(product(*values)))
    elif form == "non-centred":
        latents["z"] = Latent(make_weight(1.0))
        more["weight"] = taking([*names, "z"], lambda *values: product(*values))
    else:
        level = form.rsplit(" ", 1)[1]
        latents["gate"] = Latent(dist.Bernoulli(0.3), per=level, init=0.8)
        latents["slab"] = Latent(taking(names, lambda *values: make_weight(product(*values))))
        more["weight"] = lambda gate, slab: gate * slab
        more["included"] = exact_zero(gate="gate", slab="slab")
    if has_factor:
        more["factor"] = lambda weight: -0.3 * weight.square().sum()
    return Hierarchy(**more, **latents)
