"""Deleting weights from a fit's network: what can be deleted, by which scores, and what the held-out loss becomes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprune.inference.data.batch_normalisation import statistics_at, take_statistics
from bayesprune.inference.data.batches import check_examples
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.pruning.criteria import CRITERIA, Criterion
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.levels import level_shape
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.networks.outputs import outputs_at
from bayesprune.models.networks.placing import like

Array = np.ndarray
Scores = str | Criterion | Mapping[str, Any]

PER = ("weight", "output", "input", "kernel", "gate")
BASES = ("mean", "included")
PRECISIONS = {"float64": torch.float64, "float32": torch.float32}


def check_choices(per: str, base: str, precision: str) -> None:
    """Refuses unknown words.

    Raises:
        ValueError: If one is unknown.
    """
    if per not in PER:
        raise ValueError(f"per= takes one of {', '.join(PER)}, not {per!r}")
    if base not in BASES:
        raise ValueError(f"base= takes one of {', '.join(BASES)}, not {base!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown: expected one of {', '.join(PRECISIONS)}")


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


def group_numbers(prior: TensorPrior, per: str) -> Array:
    """Number of the group of each weight, `(out, in, ...)`, counted from 0 without gaps."""
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


def scores_by_weight(
    fit: Fit, restart: int, priors: dict[str, TensorPrior], scores: Scores | None
) -> tuple[dict[str, Array], str, str | None]:
    """Scores by weight, what they are in words, and the kind of the event if they are inclusion probabilities."""
    found: Mapping[str, Any]
    if scores is None:
        probabilities = fit.inclusion_probabilities(restart)
        kinds = sorted({probabilities[name].attrs["kind"] for name in priors})
        if len(kinds) > 1:
            raise ValueError(
                f"the priors' inclusion events are of unlike kinds ({', '.join(kinds)}), whose probabilities are not "
                "comparable: name tensors of one kind by tensors=, or pass scores='magnitude'"
            )
        found = {name: probabilities[name].values for name in priors}
        what, kind = f"inclusion probability ({kinds[0]})", kinds[0]
    else:
        found, what = _named_scores(fit, restart, scores)
        kind = None
    checked = {}
    for name, prior in priors.items():
        value = found.get(name)
        value = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if value.shape != prior.shape:
            raise ValueError(f"scores must hold one number for each weight of {name}, shape {prior.shape}")
        checked[name] = value.astype(np.float64)
        if not np.isfinite(checked[name]).all():
            raise ValueError(f"the scores of {name} are not all finite: remove or fill NaN and infinity")
    return checked, what, kind


def _named_scores(fit: Fit, restart: int, scores: Scores) -> tuple[Mapping[str, Any], str]:
    if isinstance(scores, Mapping):
        return scores, "given scores"
    if isinstance(scores, str):
        if scores not in CRITERIA:
            raise ValueError(
                f"scores {scores!r} is unknown: expected one of {', '.join(CRITERIA)}, a callable or arrays"
            )
        return CRITERIA[scores](fit, restart), scores
    return scores(fit, restart), getattr(scores, "__name__", type(scores).__name__)


def base_network(fit: Fit, restart: int, base: str, dtype: torch.dtype) -> BayesianNetwork:
    """A copy of the model whose network has the weights of the base network, and the statistics that belong to them.

    Statistics of batch normalisation are the running ones where the fit keeps no inputs.
    """
    one = fit.restarts[restart]
    model = copy.deepcopy(one.model).to(dtype).eval()
    with torch.no_grad():
        mean = one.model.weights_at(one.guide.means()) if base == "mean" else fit.included_weights(restart)
        for name, weight in mean.items():
            model.network.get_parameter(name).copy_(weight)
    if fit.inputs is not None:
        take_statistics(model.network, fit.inputs)
    return model


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
