"""Whether a pruned network is much worse than the fit that it comes from, and what to do then.

The fit's averaged prediction, the network at the guide's centre and the pruned one are scored on the same training
examples: where pruning has cost more than a margin, a note says from what to what, and a setting that was tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from bayesprune.inference.data.batch_normalisation import reestimate_statistics
from bayesprune.inference.data.batches import Data
from bayesprune.inference.fit_result import Fit
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.networks.outputs import outputs_at

__all__ = ["Alternative", "gone_layers", "loss_by_pruning"]

EXAMPLES = 2000
"""Training examples that networks are compared on, evenly spaced."""
DRAWS = 8
"""Draws behind the averaged prediction."""
POINTS, SHARE = 0.03, 0.05
"""What pruning may cost without a note: accuracy, and rmse as a share of that of the fit."""
ERRORS = 2.0
"""Standard errors of the sample beyond which a difference is one."""
NOT_TAKEN = (ValueError, RuntimeError, TypeError, IndexError)


@dataclass(frozen=True)
class Alternative:
    """Other ways of pruning that a note may name.

    Attributes:
        words: What to ask `prune` for, with ``{}`` for the value.
        values: Values from the strictest to the mildest.
        network: The pruned network at a value.
    """

    words: str
    values: tuple[float, ...]
    network: Callable[[float], nn.Module]


def gone_layers(masks: dict[str, Tensor]) -> list[str]:
    """A sentence if nothing is left of weight tensors; biases are none, which a layer can do without."""
    tensors = {name: mask for name, mask in masks.items() if mask.ndim > 1 or len(masks) == 1}
    gone = [name for name, mask in tensors.items() if not bool(mask.any())]
    if not gone:
        return []
    if len(gone) > 1:
        what = f"{len(gone)} layers are gone: none of the weights of {', '.join(gone)} is left"
    else:
        what = f"a layer is gone: none of the {masks[gone[0]].numel():,} weights of {gone[0]} is left"
    follows = "their outputs are" if len(gone) > 1 else "its output is"
    return [f"{what}, so that {follows} constant; prune less, or per layer"]


def loss_by_pruning(
    fit: Fit,
    restart: int,
    rule: str,
    networks: tuple[nn.Module, nn.Module],
    data: Data,
    alternatives: Iterable[Alternative],
) -> str | None:
    """Says what pruning has cost on training data, where it is more than 3 points of accuracy or 5 % of the rmse.

    Compared with the averaged prediction; of a network with batch normalisation with the centre's, if that is better.

    Args:
        fit: The fit.
        restart: Which restart.
        rule: The rule in words.
        networks: The network at the guide's centre, whose batch normalisation is estimated anew, and the pruned one,
            whose has been; on the CPU.
        data: The training data. Of a loader or a data set that cannot be read by row nothing is read.
        alternatives: Tried in this order for the remedy.

    Returns:
        A sentence; None where it cost less, or where it cannot be told: no data by row, targets that the likelihood
        does not take, a likelihood without accuracy and rmse.
    """
    found = _examples(data)
    if found is None:
        return None
    x, y = found
    likelihood = fit.restarts[restart].model.likelihood
    try:
        is_normalised = reestimate_statistics(networks[0], (x, y)) > 0
        averaged = likelihood.scores(
            fit.predict(x, DRAWS, restart, data=None if fit.inputs is not None else (x, y)).mean, y
        )
        centre, pruned = (_scores(network, likelihood, x, y) for network in networks)
    except NOT_TAKEN:  # pruning takes data whose targets mean nothing, to estimate batch normalisation on
        return None
    measure = next((name for name in ("accuracy", "rmse") if name in pruned), None)
    if measure is None:
        return None
    before = averaged[measure]
    if is_normalised:  # what the running statistics were estimated with may be far from the draws
        before = (max if measure == "accuracy" else min)(before, centre[measure])
    if not _is_much_worse(measure, before, pruned[measure], len(x)):
        return None
    shown = [_shown(measure, scores[measure]) for scores in (averaged, centre, pruned)]
    keeps = "" if fit.restarts[restart].guide.is_map else "refit the fit with these masks, "
    remedy = f"{keeps}finetune the result, or fit again with another setting of the prior"
    for words, value, score in _tried(alternatives, measure, likelihood, x, y):
        if not _is_much_worse(measure, before, score, len(x)):
            remedy = f"take {words.format(f'{value:g}')} ({_shown(measure, score)}), {keeps}or finetune the result"
            break
    return (
        f"pruning by {rule} took the {measure} on {len(x):,} training examples from {shown[0]} (averaged prediction; "
        f"{shown[1]} at the guide's centre) to {shown[2]}: {remedy}"
    )


def _tried(
    alternatives: Iterable[Alternative], measure: str, likelihood: Likelihood, x: Tensor, y: Tensor
) -> Iterator[tuple[str, float, float]]:
    for one in alternatives:
        for value in one.values:
            try:
                network = one.network(value)
                reestimate_statistics(network, (x, y))
                score = _scores(network, likelihood, x, y)[measure]
            except Exception:  # what was asked for has been done: nothing that only goes into a note may lose it
                continue
            yield one.words, value, score


def _is_much_worse(measure: str, before: float, after: float, count: int) -> bool:
    """Whether the difference exceeds the margin, and what `count` examples may differ by."""
    if not math.isfinite(after):
        return True
    if measure == "accuracy":
        error = math.sqrt((before * (1.0 - before) + after * (1.0 - after)) / count)
        return before - after > max(POINTS, ERRORS * error)
    # The rmse of Normal errors has a relative standard error of 1 / sqrt(2 n), the ratio of two sqrt(2) times that.
    return after > (1.0 + max(SHARE, ERRORS / math.sqrt(count))) * before


def _shown(measure: str, value: float) -> str:
    return f"{100.0 * value:.1f} %" if measure == "accuracy" else f"{value:.4g}"


@torch.no_grad()
def _scores(network: nn.Module, likelihood: Likelihood, x: Tensor, y: Tensor) -> dict[str, float]:
    """The likelihood's own scores of a plain network."""
    outputs = outputs_at(network, {}, x, batch_size=500)
    device = next(likelihood.parameters(), outputs).device
    return likelihood.scores(likelihood.predict(outputs.to(device)).cpu(), y)


def _examples(data: Data) -> tuple[Tensor, Tensor] | None:
    """At most `EXAMPLES` evenly spaced rows on the CPU; None of data that are a stream, which is the user's to read."""
    loader: Any = data if isinstance(data, DataLoader) else None
    collate = default_collate if loader is None else loader.collate_fn
    data = data if loader is None else loader.dataset
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(torch.is_tensor(part) for part in data):
        rows = _rows(len(data[0]))
        return data[0][rows.to(data[0].device)].cpu(), data[1][rows.to(data[1].device)].cpu()
    if not isinstance(data, Dataset) or isinstance(data, IterableDataset):
        return None
    try:
        with torch.random.fork_rng(devices=[]):  # a data set may draw its augmentation
            found = collate([data[int(row)] for row in _rows(len(data))])  # type: ignore[arg-type]
    except NOT_TAKEN:
        return None
    is_pair = isinstance(found, (tuple, list)) and len(found) == 2 and all(torch.is_tensor(part) for part in found)
    return (found[0], found[1]) if is_pair else None


def _rows(count: int) -> Tensor:
    return torch.linspace(0, count - 1, min(EXAMPLES, count)).round().long()
