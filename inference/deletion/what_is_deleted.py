"""What is deleted from: the groups of weights that go at once, and the plain network that they go from."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from bayesprune.inference.data.batch_normalisation import take_statistics
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.left_in import left_in
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.levels import level_shape
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = [
    "BASES",
    "PER",
    "base_network",
    "base_weights",
    "check_base",
    "check_per",
    "group_numbers",
    "selected_priors",
]

PER = ("weight", "output", "input", "kernel", "gate")
BASES = ("mean", "included", "median")


def check_per(per: str) -> None:
    """Refuses unknown words.

    Raises:
        ValueError: If it is none of `PER`.
    """
    if per not in PER:
        raise ValueError(f"per= takes one of {', '.join(PER)}, not {per!r}")


def check_base(base: str) -> None:
    """Refuses unknown words.

    Raises:
        ValueError: If it is none of `BASES`.
    """
    if base not in BASES:
        raise ValueError(f"base= takes one of {', '.join(BASES)}, not {base!r}")


def selected_priors(priors: dict[str, TensorPrior], tensors: str | Sequence[str] | None) -> dict[str, TensorPrior]:
    """The priors of the named tensors; None names all.

    Raises:
        ValueError: For an unknown name, or none.
    """
    if tensors is None:
        return priors
    names = [tensors] if isinstance(tensors, str) else list(tensors)
    unknown = [name for name in names if name not in priors]
    if unknown or not names:
        asked = f"no tensor {unknown[0]!r} with a prior" if unknown else "nothing to delete from in an empty tensors="
        raise ValueError(f"there is {asked}: name some of {', '.join(priors)}")
    return {name: prior for name, prior in priors.items() if name in names}


def group_numbers(prior: TensorPrior, per: str) -> np.ndarray:
    """Number of the group of each weight, `(out, in, ...)`, counted from 0 without gaps.

    Args:
        prior: The prior of one tensor.
        per: One of `PER`.

    Raises:
        ValueError: For a gate where the prior has none of the tensor's own, or a level that the tensor has not.
    """
    if per != "gate":
        shape = level_shape(per, prior.shape, tensor=prior.name)
        return np.broadcast_to(np.arange(np.prod(shape, dtype=int)).reshape(shape), prior.shape)
    event = prior.hierarchy.included
    if event is None or event.gate is None:
        raise ValueError(
            f"per='gate' deletes what one gate switches, but the prior on {prior.name} has no gate: "
            "use per='weight', or name other tensors by tensors="
        )
    site = prior.sites[event.gate]
    if site.name != f"{prior.name}.{event.gate}":
        raise ValueError(
            f"the gate on {prior.name} is shared by the whole network, which cannot be deleted: use another per="
        )
    numbers = torch.arange(int(np.prod(site.shape, dtype=int))).reshape(site.shape)
    return prior.spread(event.gate, numbers).numpy()


@torch.no_grad()
def base_weights(fit: Fit, restart: int, base: str) -> dict[str, Tensor]:
    """Weights of the network that is deleted from, by name of tensor.

    Args:
        fit: The fit.
        restart: Which restart.
        base: ``"mean"``: every gate at its probability, E[weight]; ``"included"``: every gate open, E[weight |
            included]; ``"median"``: those of the median-probability model, zero where the fit leaves a weight out.
    """
    one = fit.restarts[restart]
    if base == "mean":
        return one.model.weights_at(one.guide.means())
    weights = fit.included_weights(restart)
    if base == "included":
        return weights
    left = left_in(one.guide)
    return {name: torch.where(left[name].to(weight.device), weight, 0.0) for name, weight in weights.items()}


def base_network(fit: Fit, restart: int, weights: Mapping[str, Tensor], dtype: torch.dtype) -> BayesianNetwork:
    """A copy of the model whose network has these weights, and the statistics that belong to them.

    Statistics of batch normalisation are the running ones where the fit keeps no inputs.

    Args:
        fit: The fit.
        restart: Which restart.
        weights: Such as `base_weights` gives.
        dtype: What it computes with.
    """
    model = copy.deepcopy(fit.restarts[restart].model).to(dtype).eval()
    with torch.no_grad():
        for name, weight in weights.items():
            model.network.get_parameter(name).copy_(weight)
    if fit.inputs is not None:
        take_statistics(model.network, fit.inputs)
    return model
