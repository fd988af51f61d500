"""A prior of one's own: `bayesprune fit --data digits --prior examples/own_prior.py:student --out RUN`."""

import pyro.distributions as dist

import bayesprune as bp

student = bp.Hierarchy(
    scale=bp.Latent(dist.InverseGamma(2.0, 0.01), per="output"),
    weight=lambda scale: dist.Normal(0.0, scale.sqrt()),
    included=bp.shrinkage_below(0.5),
)
