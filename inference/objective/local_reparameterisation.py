"""Local reparameterisation: draws of a layer's outputs in place of draws of its weights.

Kingma, Salimans & Welling 2015, eq. 6. For independent Normal weights the outputs of a linear layer on inputs h of one
row an example are independent Normals of mean h m' + b and variance h^2 s^2'. Drawn for every example anew they have
the same distribution for each example, and gradients of less variance than one draw of weights for the whole batch.
It is exact for inputs `(batch, in)` only: in convolutions and layers that are shared over time one weight acts at
several places of an example, and the draws there would have to be correlated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bayesprune.inference.guides.factors import Factor, NormalFactor
from bayesprune.models.bayesian_network import BayesianNetwork


class LocalReparameterisation(TorchFunctionMode):
    """Inside, `torch.nn.functional.linear` with one of the given weights and inputs `(batch, in)` draws its outputs.

    Args:
        factors: Guide factors by drawn weights: pairs (the drawn tensor, its name, its factor).

    Attributes:
        used: Names of the tensors whose layers drew their outputs.
    """

    def __init__(self, factors: Sequence[tuple[Tensor, str, NormalFactor]]) -> None:
        super().__init__()
        self._factors = factors
        self.used: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Draws the outputs of a linear layer, or calls `func`."""
        kwargs = kwargs or {}
        if func is not functional.linear:
            return func(*args, **kwargs)
        x, weight, bias = linear_arguments(*args, **kwargs)
        found = next(((name, factor) for drawn, name, factor in self._factors if drawn is weight), None)
        if found is None or x.ndim != 2:
            return func(x, weight, bias)
        name, factor = found
        self.used.append(name)
        mean = functional.linear(x, factor.location, bias)
        variance = functional.linear(x.square(), factor.scale.square())
        # An example whose inputs are all zero has no variance, where the root has no derivative.
        sd = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()
        return mean + sd * torch.randn_like(sd)


def linear_arguments(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The arguments of `torch.nn.functional.linear`, by its signature."""
    return x, weight, bias


def reparameterisable(
    model: BayesianNetwork, factors: Mapping[str, Factor], weights: Mapping[str, Tensor]
) -> list[tuple[Tensor, str, NormalFactor]]:
    """The drawn weights whose layers may draw their outputs: latents with a Normal guide of their own.

    Args:
        model: The model.
        factors: Guide factors by site.
        weights: Drawn weights by name of parameter tensor.
    """
    return [
        (weights[name], name, factor)
        for name, prior in model.priors.items()
        if prior.weight_is_latent and type(factor := factors.get(name)) is NormalFactor and name in weights
    ]
