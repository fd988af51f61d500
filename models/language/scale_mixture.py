"""Scale mixtures: priors under which a weight is, given random scales, a scaled Normal or Laplace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from bayesprune.models.language.iid import Iid
from bayesprune.models.language.latent import WEIGHT, Declared

__all__ = ["conditional_sd", "is_scale_mixture"]


class ScaledPrior(Protocol):
    """What is asked of a prior that is bound to a tensor; `TensorPrior` says what each of these is."""

    name: str
    hierarchy: Declared
    shape: tuple[int, ...]
    weight_is_latent: bool

    @property
    def sites(self) -> Mapping[str, Any]:
        """Sites by name of latent."""

    @property
    def scales(self) -> tuple[str, ...]:
        """Names of the positive latents."""

    @property
    def standard_normal(self) -> str | None:
        """Name of the one real latent per weight that is scaled."""

    def latent_of(self, site: str) -> str:
        """Name of the latent of a site."""

    def weight_distribution(self, values: dict[str, Tensor]) -> Iid:
        """The weights' own distribution at given values of the latents."""

    def run(
        self, draw: Callable[[str, Iid], Tensor], like: Tensor, shared: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weights, and the values of the latents, by any `draw`."""


def is_scale_mixture(prior: ScaledPrior) -> bool:
    """Whether the weight is, given random scales, a scaled Normal or Laplace: the one definition.

    A weight that is a latent is one where its distribution depends on other latents, whatever their support: HALO's
    signed lam is real. A weight that is a function of latents is one where it has positive scales and multiplies one
    real latent per weight. A prior whose event is an exact zero has gates in place of scales.
    """
    if prior.hierarchy.included is not None and prior.hierarchy.included.is_exact:
        return False
    if prior.weight_is_latent:
        return any(parent in prior.sites for parent in prior.hierarchy.parents.get(WEIGHT, ()))
    return bool(prior.scales) and prior.standard_normal is not None


def conditional_sd(prior: ScaledPrior, values: dict[str, Tensor]) -> Tensor:
    """Standard deviation of the weights given their scales, at given values of the latents.

    It is that of the weights' own distribution; for a weight that is a function of the latents, the scale
    by which it multiplies its standard Normal latent per weight (the non-centred form).

    Args:
        prior: The prior.
        values: Values by name of latent.

    Returns:
        `(out, in, ...)`.

    Raises:
        ValueError: If the prior is no scale mixture.
    """
    if prior.weight_is_latent:
        return prior.weight_distribution(values).stddev.expand(prior.shape)
    base = prior.standard_normal
    refusal = f"the prior on {prior.name} is no scale mixture: its weight is no scaled standard Normal"
    if base is None:
        raise ValueError(refusal)

    def weight_at(number: float) -> Tensor:
        """The weights where the scaled latent is `number` of its own standard deviations off its mean."""

        def given(site: str, fn: Iid) -> Tensor:
            latent = prior.latent_of(site)
            return fn.mean + number * fn.stddev if latent == base else values[latent]

        return prior.run(given, values[base], {})[0]

    zero, one, far = weight_at(0.0), weight_at(1.0), weight_at(1000.0)
    if not torch.allclose((far - zero) / 1000.0, one - zero, rtol=1e-3):
        raise ValueError(refusal)
    return (one - zero).abs()
