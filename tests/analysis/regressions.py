"""Fits of a conjugate regression whose guide is set by hand, so that nothing depends on an optimizer."""

from __future__ import annotations

import torch
from torch import nn

import bayesprune as bp


def data_of(problem):
    return torch.tensor(problem.x), torch.tensor(problem.y)


def model_of(problem):
    line = nn.Linear(problem.x.shape[1], 1, bias=False).double()
    prior, likelihood = bp.Gaussian(problem.prior_sd), bp.Normal(problem.noise_sd)
    return bp.BayesianNetwork(line, {"weight": prior}, likelihood, len(problem.y))


def fit_with_guide(problem, sd=None, mean=None, restarts=1):
    """A fit whose guide is Normal(mean, sd); by default the mean-field optimum."""
    fit = bp.fit(model_of(problem), data_of(problem), "meanfield", steps=1, precision="float64", restarts=restarts)
    for one in fit.restarts:
        (family,) = one.guide.families
        with torch.no_grad():
            family.location.copy_(torch.as_tensor(problem.mean if mean is None else mean))
            family.log_scale.copy_(torch.as_tensor(problem.meanfield_sd if sd is None else sd).log())
    return fit
