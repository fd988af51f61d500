"""What a run came to: the scores and counts that summary.json holds."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np

import bayesprune
from bayesprune.analysis.diagnostics.convergence import convergence
from bayesprune.data.sets import DataSplits
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.registry import is_point
from bayesprune.models.language.inclusion import is_undecided
from bayesprune.runs.declaration import Declaration
from bayesprune.runs.finite_numbers import finite_numbers
from bayesprune.runs.same_data import scaling_sketch

__all__ = ["guide_name", "summarise_run"]

SCORES = ("accuracy", "rmse", "nll", "ece", "coverage_50", "coverage_90")
_MANY_CLASSES, _A_CLASS = 20, 5
"""More classes than the first, with fewer training examples each than the second, may be no classes."""


def summarise_run(fit: Fit, declaration: Declaration, splits: DataSplits, **asked: Any) -> dict[str, Any]:
    """Scores a fit on the data's validation and test parts, and puts together what summary.json holds.

    Args:
        fit: The fit.
        declaration: The model by names.
        splits: The data.
        asked: Further keys, such as ``data_seed`` and ``data_root``.
    """
    found = fit.summary()
    per_restart = [_restart_scores(fit, number, splits) for number in range(len(fit.restarts))]
    names = [f"{part}_{score}" for part in ("test", "validation") for score in SCORES]
    means = {name: _mean([row[name] for row in per_restart]) for name in names}
    verdict = convergence(fit)
    families = {found["guide_families"][site] for site in fit.model.sites}  # gates of units have theirs besides
    summary = {
        "version": bayesprune.__version__,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "data": splits.name,
        "scaling_sketch": scaling_sketch(splits),
        **asked,
        "processes": 1,
        "gating": None,
        "budget": None,
        "masks": None,
        "refit": None,
        "refit_settings": None,
        "forms": None,
        "resumed_at_epoch": None,
        "standardised": None,
        "correlated_inputs": None,
        "kl_warmups": None,
        **found,
        **declaration.as_dict(),
        "notes": [*_hardly_classes(declaration), *found["notes"]],
        "likelihood": found["likelihood"],
        "guide": guide_name(families, found["guide"]),
        "test_accuracy": means["test_accuracy"],
        "test_rmse": means["test_rmse"],
        "nll": means["test_nll"],
        "ece": means["test_ece"],
        **{name: value for name, value in means.items() if name.startswith("test_coverage")},
        **{name: value for name, value in means.items() if name.startswith("validation_")},
        "per_restart": per_restart,
        **_inclusion(fit),
        **_units(fit),
        "converged": verdict.verdict,
        "convergence": verdict.reason,
    }
    return finite_numbers(summary)


def _hardly_classes(declaration: Declaration) -> list[str]:
    """A sentence where whole numbers were taken for more classes than there can be."""
    classes, count = declaration.outputs, declaration.data_size
    if declaration.likelihood != "categorical" or classes <= _MANY_CLASSES or count >= _A_CLASS * classes:
        return []
    return [
        f"the targets are whole numbers and were taken for {classes:,} classes, of {count / classes:.1f} training "
        "examples each: if they are numbers, give --likelihood normal, or poisson for counts"
    ]


def _restart_scores(fit: Fit, number: int, splits: DataSplits) -> dict[str, Any]:
    row: dict[str, Any] = {"seed": fit.restarts[number].seed}
    for part, (x, y) in (("test", splits.test), ("validation", splits.validation)):
        found = fit.score(x, y, restart=number) if len(x) else {}
        row |= {f"{part}_{score}": found.get(score) for score in SCORES}
    return row


def _mean(values: list[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def guide_name(families: set[str], asked: Any) -> Any:
    """What the guide was in a word, where the user left it to the prior.

    Args:
        families: Families of its sites.
        asked: What was asked for; ``"default"``: the prior's own.
    """
    if asked != "default":
        return asked
    if families and all(map(is_point, families)):
        return "map"
    if "paired" in families:
        return "paired"
    return "mixed" if any(map(is_point, families)) else "meanfield"


def _inclusion(fit: Fit) -> dict[str, Any]:
    """Median-probability model of the first restart, where there are inclusion probabilities."""
    keys = ("median_probability_nonzero", "median_probability_sparsity", "undecided")
    declared = all(prior.hierarchy.included is not None for prior in fit.model.priors.values())
    if fit.guide.is_map or not declared:
        return dict.fromkeys(keys)
    found = fit.inclusion_probabilities()
    flat = np.concatenate([variable.values.ravel() for variable in found.values()])
    nonzero = int((flat > 0.5).sum())
    weights = sum(fit.model.declared_sizes.values())  # removed ones have probability zero
    undecided = int(is_undecided(flat).sum()) / weights
    return dict(zip(keys, (nonzero, 1 - nonzero / weights, undecided), strict=True))


def _units(fit: Fit) -> dict[str, dict[str, dict[str, int]] | None]:
    """How many units and residual branches the first restart has left, where they have gates."""
    if not fit.model.closes_units:
        return {"units": None, "branches": None}
    counts = {
        str(name): {"of": theta.size, "left": int((theta > 0.5).sum())} for name, theta in fit.unit_inclusion().items()
    }
    layers = set(fit.trace["unit_set"].values[fit.trace["is_layer"].values.astype(bool)].tolist())
    return {
        "units": {name: row for name, row in counts.items() if name not in layers},
        "branches": {name: row for name, row in counts.items() if name in layers},
    }
