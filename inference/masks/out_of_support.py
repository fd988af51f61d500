"""What Normal factors of weights that are out are under a Normal prior: that prior, so that they cost nothing."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprune.inference.rules.rule import Run
from bayesprune.models.language.latent import WEIGHT
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = ["settle_scales"]

LOG_SCALE = "log_scale"


def settle_scales(run: Run, name: str, now: Tensor, before: Tensor | None = None) -> None:
    """Sets the standard deviations of Normal factors under a fixed Normal prior as masks change, IN PLACE.

    Where a weight is out its factor is its prior, Normal(0, sd), so that its part of the KL term is zero and the ELBO
    is that of the sparse network alone. What Adam makes of the rounding of a zero gradient moves it a little between
    two calls, and nothing else with it: no living weight depends on it. A weight that comes starts with the mean scale
    of those of its tensor that stay, as in SSVI (Li et al. 2024). Under any other prior, of a weight that is no latent
    itself, and of points, nothing is set: all else is `Support`'s affair.

    Args:
        run: The restart.
        name: Name of the tensor.
        now: Its mask from now on, `(out, in, ...)`.
        before: Its mask until now; default None: that of the beginning, when nothing comes.
    """
    prior = run.objective.model.priors[name]
    if WEIGHT not in prior.sites:
        return
    for parameter, piece in run.slices(prior.sites[WEIGHT].name):
        if piece.parameter != LOG_SCALE:
            continue
        log_scale = piece.of(parameter.data)
        sd = fixed_sd(prior, log_scale)
        if sd is None:
            continue
        if before is not None:
            stay = now & before
            living = torch.where(stay.any(), stay, before)  # all may have gone at once
            mean = (log_scale.exp() * living).sum() / living.sum()
            log_scale.copy_(torch.where(now & ~before, mean.log(), log_scale))
        log_scale.copy_(torch.where(now, log_scale, sd.log()))


def fixed_sd(prior: TensorPrior, like: Tensor) -> Tensor | None:
    """The standard deviation of weights ~ Normal(0, sd) that depend on no latent; None for any other prior.

    Args:
        prior: The prior.
        like: A tensor of its shape.
    """
    if len(prior.sites) != 1:
        return None
    fn = prior.weight_distribution({WEIGHT: like}).base_dist
    if type(fn) is not dist.Normal or bool((fn.loc != 0).any()):
        return None
    return fn.scale.detach()
