"""Deleting weights from a fit's network: what the loss of every example becomes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from bayesprune.inference.data.batch_normalisation import statistics_at
from bayesprune.inference.data.data_checks import check_examples
from bayesprune.inference.deletion.what_is_deleted import check_base, check_per
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.networks.outputs import outputs_at
from bayesprune.models.networks.placing import like

Array = np.ndarray

PRECISIONS = {"float64": torch.float64, "float32": torch.float32}


def check_choices(per: str, base: str, precision: str) -> None:
    """Refuses unknown words.

    Raises:
        ValueError: If one is unknown.
    """
    check_per(per)
    check_base(base)
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown: expected one of {', '.join(PRECISIONS)}")


def checked_examples(model: BayesianNetwork, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Held-out `(x, y)` on the model's device and in its precision.

    Raises:
        ValueError: If the network does not take them, or they are fewer than two.
    """
    if not (isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)):
        raise ValueError("data must be a pair of tensors (x, y) of held-out inputs and targets")
    reference = next(model.network.parameters())
    x, y = (like(part, reference) for part in data)
    check_examples(model.network, model.likelihood, x, y)
    if len(x) < 2:
        raise ValueError(f"a standard error over examples needs 2 held-out examples at least, not {len(x)}")
    return x, y


@torch.no_grad()
def losses_of(model: BayesianNetwork, x: Tensor, y: Tensor, batch_size: int, inputs: Tensor | None = None) -> Array:
    """Loss of every example in nats, `(n,)`, in float64.

    Args:
        model: The model, whose network's own weights are looked at.
        x: Held-out inputs.
        y: Held-out targets.
        batch_size: Examples a forward pass.
        inputs: Training inputs on which statistics of batch normalisation are estimated; default None: the network's.
    """
    statistics = None if inputs is None else statistics_at(model.network, {}, inputs)
    parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
    outputs = ((outputs_at(model.network, {}, a, batch_size, statistics), b) for a, b in parts)
    return -torch.cat([model.likelihood.scored.log_prob(each, b) for each, b in outputs]).double().cpu().numpy()


@torch.no_grad()
def deletion_differences(
    model: BayesianNetwork,
    x: Tensor,
    y: Tensor,
    before: Array,
    masks: Iterable[Mapping[str, Array]],
    batch_size: int,
    inputs: Tensor | None = None,
) -> Iterator[Array]:
    """What each deletion changes in the loss of each example: after minus before, `(n,)`, nats.

    Args:
        model: The base network; it is as before after each deletion.
        x: Held-out inputs.
        y: Held-out targets.
        before: Losses without any deletion, of `losses_of`.
        masks: For each deletion what it deletes, boolean by tensor, `(out, in, ...)`.
        batch_size: Examples a forward pass.
        inputs: Training inputs on which statistics of batch normalisation are estimated after each deletion; default
            None: they stay those of the base network.

    Raises:
        ValueError: If a loss is not finite.
    """
    if not np.isfinite(before).all():
        raise ValueError("the loss of the network before any deletion is not finite: check the fit and the targets")
    for deleted in masks:
        parameters = {name: model.network.get_parameter(name) for name in deleted}
        kept = {name: parameter.clone() for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            parameter.masked_fill_(torch.as_tensor(deleted[name], device=parameter.device), 0.0)
        difference = losses_of(model, x, y, batch_size, inputs) - before  # paired: an example's own difficulty cancels
        for name, parameter in parameters.items():
            parameter.copy_(kept[name])
        if not np.isfinite(difference).all():
            what = " and ".join(f"{name}[{entries(mask)}]" for name, mask in deleted.items())
            raise ValueError(f"without {what} the held-out loss is not finite: check the targets")
        yield difference


def paired_error(difference: Array) -> float:
    """Standard error of the mean of paired differences, in their unit."""
    return float(difference.std(ddof=1) / np.sqrt(len(difference)))


def entries(mask: Array) -> str:
    """The entries of a mask as they are written in brackets; the number of its weights where they are no box."""
    parts, size = [], 1
    for axis, length in enumerate(mask.shape):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        size *= len(found)
        first, last = int(found[0]), int(found[-1])
        if len(found) == 1:
            parts.append(str(first))
        else:
            parts.append(":" if len(found) == length else f"{first}:{last + 1}")
            size = size if last - first + 1 == len(found) else -1
    return ", ".join(parts) if size == mask.sum() else f"{int(mask.sum())} weights"
