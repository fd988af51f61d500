"""One point of a path: its fit pruned in several ways, with scores and costs of every pruned network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from bayesprune.inference.data.batches import Data
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.predictions.plain_scores import plain_scores
from bayesprune.inference.pruning.left_out import left_out
from bayesprune.inference.pruning.prune import pruned
from bayesprune.inference.pruning.ranking import Ranking
from bayesprune.inference.pruning.report import PruneResult
from bayesprune.models.costs.costs import costs
from bayesprune.models.costs.latency import latency, ratio
from bayesprune.models.networks.placing import like
from bayesprune.models.tracing.not_followed import NotFollowedError
from bayesprune.models.units.compact import CompactResult

__all__ = [
    "SPARSITIES",
    "Pruning",
    "Splits",
    "check_prunings",
    "default_prunings",
    "joined_points",
    "label",
    "measure",
    "prune_as",
]

Pruning = Mapping[str, Any]
"""Arguments of `prune` by name; none of them: only what the fit has left out itself."""
Splits = Mapping[str, tuple[Tensor, Tensor]]
"""Inputs and targets by ``"validation"`` and ``"test"``."""
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Sparsities that a fit without gates is pruned to by default."""
_TAKEN = ("sparsity", "min_inclusion", "per", "criterion")


def check_prunings(prunings: Sequence[Pruning]) -> tuple[dict[str, Any], ...]:
    """Refuses prunings that cannot be carried out or written down.

    Raises:
        ValueError: If there is none, one comes twice, or one is no mapping from arguments of `prune` to numbers and
            names.
    """
    made = []
    for one in prunings:
        if not isinstance(one, Mapping) or any(key not in _TAKEN or callable(one[key]) for key in one):
            raise ValueError(
                f"a pruning is a mapping with some of {', '.join(_TAKEN)} and numbers or names, not {one!r}: "
                'write e.g. prunings=[{"sparsity": 0.9}]'
            )
        made.append(dict(one))
    labels = [label(one) for one in made]
    if len(set(labels)) != len(labels) or not labels:
        raise ValueError(f"prunings= needs at least one pruning, and each once, not {labels}")
    return tuple(made)


def default_prunings(fit: Fit) -> tuple[dict[str, Any], ...]:
    """The median-probability model where every weight has a gate, else a ladder of sparsities.

    Where a weight can be exactly zero without a gate, what the fit itself has left out comes first.
    """
    events = [prior.hierarchy.included for prior in fit.model.priors.values()]
    gated = all(event is not None and event.gate is not None for event in events)
    if gated and not fit.guide.is_map:
        return ({"min_inclusion": 0.5},)
    ladder = tuple({"sparsity": sparsity} for sparsity in SPARSITIES)
    return ({}, *ladder) if any(event is not None and event.is_exact for event in events) else ladder


def label(pruning: Pruning) -> str:
    """A pruning in a few words, e.g. ``"sparsity 0.9"``."""
    parts = [f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in pruning.items()]
    return ", ".join(parts).replace("_", " ") or "as fitted"


def prune_as(fit: Fit, restart: int, pruning: Pruning, data: Data | None = None) -> PruneResult | None:
    """Prunes a restart; None where that asks for less sparsity than the fit has.

    Args:
        fit: The fit.
        restart: Which restart.
        pruning: How.
        data: Training data for statistics of batch normalisation; default None: they stay those of the fit.
    """
    zeros, weights = left_out(fit, restart)
    how = dict(pruning) or {"sparsity": zeros / weights}
    if how.get("sparsity") is not None and round(how["sparsity"] * weights) < zeros:
        return None
    min_inclusion = how.pop("min_inclusion", None)
    return pruned(fit, Ranking.of(**how, data=data), min_inclusion, restart)


def measure(fit: Fit, prunings: Sequence[Pruning], data: Data, splits: Splits, timed: bool) -> dict[str, Any]:
    """Prunes every restart of a fit in every way, and scores and counts what comes out.

    Args:
        fit: The fit.
        prunings: How.
        data: The training data, for statistics of batch normalisation.
        splits: The data to score on.
        timed: Whether to measure the latency of the compact networks.

    Returns:
        ``seconds`` of the fit; ``fits``, the scores of the averaged prediction, a mapping for each restart;
        ``networks``, the scores and costs of the pruned networks, a list for each restart with a mapping or None for
        each pruning; ``notes``, sentences on what could not be counted.
    """
    notes: dict[str, None] = {}
    fits, networks = [], []
    for restart in range(len(fit.restarts)):
        found = {name: fit.score(*split, restart=restart) for name, split in splits.items()}
        fits.append(_by_split(found))
        row = []
        for pruning in prunings:
            pruned = prune_as(fit, restart, pruning, data)
            row.append(None if pruned is None else _network(pruned, splits, timed, notes))
        networks.append(row)
    return {"seconds": fit.settings["seconds"], "fits": fits, "networks": networks, "notes": list(notes)}


def joined_points(points: Sequence[Mapping[str, Any]], fit: Fit) -> dict[str, Any]:
    """One point of several, each of which `measure` made of one restart.

    Args:
        points: The points, in the order of the restarts.
        fit: The fit of all restarts.
    """
    return {
        "seconds": fit.settings["seconds"],
        "fits": [one for point in points for one in point["fits"]],
        "networks": [one for point in points for one in point["networks"]],
        "notes": list(dict.fromkeys(note for point in points for note in point["notes"])),
    }


def _network(pruned: PruneResult, splits: Splits, timed: bool, notes: dict[str, None]) -> dict[str, Any]:
    """Scores and costs of one pruned network."""
    network = pruned.network
    found = {name: plain_scores(network, pruned.likelihood, *split) for name, split in splits.items()}
    x = next(iter(splits.values()))[0][:2].cpu()
    example = like(x, next(network.parameters()))
    small = _compacted(pruned, example, notes)
    counted = costs(network, example[:1], None if small is None else small.network)
    times: dict[str, float] = {}
    if timed and small is not None:
        measured = latency({"zeros": network, "compact": small.network}, example[:1], seconds=0.5)
        times["latency"] = measured["compact"].median
        times["latency_ratio"] = ratio(measured["zeros"], measured["compact"]).median
    return {
        **_by_split(found),
        "sparsity": pruned.report.sparsity,
        "density": pruned.report.nonzero / pruned.report.weights,
        "weights": pruned.report.weights,
        "nonzero": pruned.report.nonzero,
        "dense_macs": counted.dense_macs,
        "sparse_macs": counted.sparse_macs,
        "compact_macs": counted.compact_macs,
        "parameters": counted.parameters,
        "compact_parameters": counted.compact_parameters,
        "latency": times.get("latency"),
        "latency_ratio": times.get("latency_ratio"),
    }


def _compacted(pruned: PruneResult, example: Tensor, notes: dict[str, None]) -> CompactResult | None:
    """The network without its dead units; None, and a note, where it cannot be had."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*all .* dead")  # a network of no use, as its scores show
        try:
            return pruned.compact(example)
        except NotFollowedError as problem:
            words = problem.otherwise('compact one of them with path.prune(value=...).compact(unknown="keep")')
            notes[f"compact networks could not be made: {words}"] = None
            return None
        except ValueError as problem:
            notes[f"compact networks could not be made: {problem}"] = None
            return None


def _by_split(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    """Scores as ``validation_accuracy`` and so on; None where one is not finite, which JSON cannot hold."""
    flat = {f"{split}_{name}": value for split, found in scores.items() for name, value in found.items()}
    return {name: value if math.isfinite(value) else None for name, value in flat.items()}
