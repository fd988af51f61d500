"""How the gradient of the negative ELBO is estimated: the options of `Objective`, as one declaration."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bayesprune.inference.objective.latent_gate_estimators import GateEstimator

__all__ = ["Gradient"]


@dataclass(frozen=True)
class Gradient:
    """How an evaluation of the negative ELBO, and with it its gradient, is estimated.

    Attributes:
        particles: Draws of the guide that an evaluation averages; default 1.
        latent_gates: How gradients pass Bernoulli latents; default None: `default_estimator` of the model.
        analytic: Whether registered terms replace draws; default True.
        sticking_the_landing: Whether terms of drawn sites are estimated from the draw with the parameters of log q
            held fixed, in place of registered terms (see `sticking_the_landing`); default False.
        local_reparameterisation: Which layers draw their outputs in place of their weights, see
            `bayesprune.inference.objective.local_reparameterisation`. Default None: linear layers on inputs
            `(batch, in)` with at least 20 inputs whose weights have a gate each (spike and slab), in place of
            `moment_matched` draws. True: those on `(batch, in)` wherever weights are Normal or have such gates given
            what else is drawn. ``"approximate"``: convolutions and inputs of more dimensions too. False: none.
        autocast: dtype in which the network runs (`torch.bfloat16`), or None (default) for its own.

    Raises:
        ValueError: If `particles` is less than 1, or `local_reparameterisation` is none of these.
    """

    particles: int = 1
    latent_gates: GateEstimator | None = None
    analytic: bool = True
    sticking_the_landing: bool = False
    local_reparameterisation: bool | str | None = None
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.particles < 1:
            raise ValueError(f"particles must be at least 1, not {self.particles}")
        given = self.local_reparameterisation
        if given is not None and given not in (True, False) and given != "approximate":
            raise ValueError(
                f"local_reparameterisation takes True, False, 'approximate' or None, not {given!r}: None is the default"
            )
