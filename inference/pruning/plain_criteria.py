"""Criteria that need a plain network and no posterior: those of a fit, and of a network that is pruned already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayesprune.inference.data.batches import Batches, Data
from bayesprune.inference.deletion.deletion_scores import CHUNK, by_weight_of, chunks
from bayesprune.inference.objective.hessian_diagonal import hessian_diagonal
from bayesprune.models.likelihoods.likelihood import Likelihood

__all__ = ["PLAIN_CRITERIA", "PlainCriterion", "PlainNetwork"]


@dataclass(frozen=True)
class PlainNetwork:
    """What a criterion sees of a network.

    Attributes:
        network: The network with its weights and zeros.
        active: True where a weight is there, by name of tensor, `(out, in, ...)`.
        likelihood: What its outputs mean; None where that is not known.
        data: Examples for criteria that look at some; None: there are none.
        seed: For criteria that draw numbers.
    """

    network: nn.Module
    active: Mapping[str, Tensor]
    likelihood: Likelihood | None = None
    data: Data | None = None
    seed: int = 0

    @property
    def weights(self) -> dict[str, Tensor]:
        """Weights by name of tensor."""
        return {name: self.network.get_parameter(name).detach() for name in self.active}


PlainCriterion = Callable[[PlainNetwork], dict[str, Tensor]]


def magnitude(given: PlainNetwork) -> dict[str, Tensor]:
    """|weight|."""
    return {name: weight.abs() for name, weight in given.weights.items()}


def at_random(given: PlainNetwork) -> dict[str, Tensor]:
    """Uniform numbers in [0, 1) of a seed, the same whatever is active: a control that every criterion has to beat."""
    generator = torch.Generator().manual_seed(given.seed)
    return {name: torch.rand(there.shape, generator=generator) for name, there in given.active.items()}


def optimal_brain_damage(given: PlainNetwork) -> dict[str, Tensor]:
    """1/2 w^2 d^2 loss / dw^2, in nats an example: what the loss rises by in second order (LeCun, Denker & Solla 1990).

    The loss is the mean negative log-likelihood of the examples, without a prior; the diagonal of its Hessian is exact,
    and negative where the loss bends down, so that those weights go first.

    Raises:
        ValueError: If there are no examples, or nothing says what the network's outputs mean.
    """
    data, likelihood = _looked_at("optimal-brain-damage", given)
    like = next(given.network.parameters())
    count = Batches(data, CHUNK, like.device, like.dtype).length or 1
    bent = hessian_diagonal(given.network, likelihood, chunks(given.network, data, given.seed), given.active, count)
    return {name: 0.5 * bent[name] * weight.square() for name, weight in given.weights.items()}


def deletion(given: PlainNetwork) -> dict[str, Tensor]:
    """What the loss is predicted to rise by when a weight is deleted, nats an example: curvature / 2 less the slope.

    Both are derivatives of a gate on the weight, see `bayesprune.deletion_scores`. Optimal brain damage leaves out the
    slope, which is zero where the training has converged, and takes the whole second derivative.

    Raises:
        ValueError: If there are no examples, or nothing says what the network's outputs mean.
    """
    data, likelihood = _looked_at("deletion", given)
    return by_weight_of(given.network, likelihood, data, list(given.active), given.seed)


def _looked_at(criterion: str, given: PlainNetwork) -> tuple[Data, Likelihood]:
    """The examples that a criterion looks at, and what outputs mean.

    Raises:
        ValueError: If one is missing.
    """
    if given.data is None:
        raise ValueError(
            f"{criterion} looks at examples, which neither the fit keeps nor data= gives: pass data=(x, y)"
        )
    if given.likelihood is None:
        raise ValueError(f"{criterion} needs what the outputs mean: this result has no likelihood")
    return given.data, given.likelihood


PLAIN_CRITERIA: dict[str, PlainCriterion] = {
    "magnitude": magnitude,
    "random": at_random,
    "optimal-brain-damage": optimal_brain_damage,
    "deletion": deletion,
}
