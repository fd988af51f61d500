"""`--budget` of the command line: a kind and a number, or a file with densities by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bayesprune.commands.fitting import parse_settings
from bayesprune.models.costs.layer_budget_files import is_budget_file
from bayesprune.models.costs.layer_budgets import LayerBudget

__all__ = ["budget_of_fit", "budget_of_pruning"]


def budget_of_fit(given: Sequence[str]) -> dict[str, Any]:
    """Arguments of `Budget`.

    Args:
        given: Each a ``KIND=VALUE`` or a setting of the rule, or one of them a file .json or .csv, which is a density.

    Raises:
        ValueError: If two are files, one is neither, or the file is damaged.
    """
    files = [one for one in given if _is_file(one)]
    settings = parse_settings([one for one in given if not _is_file(one)], "--budget")
    if len(files) > 1 or (files and "density" in settings):
        raise ValueError("--budget takes one density, a number or a file: give it once")
    return {**({"density": LayerBudget.read(files[0])} if files else {}), **settings}


def budget_of_pruning(given: str) -> Any:
    """What `prune` takes as its budget.

    Args:
        given: ``density=VALUE``, or a file .json or .csv.

    Raises:
        ValueError: If it is neither, or the file is damaged.
    """
    if _is_file(given):
        return LayerBudget.read(given)
    settings = parse_settings([given], "--budget")
    if list(settings) != ["density"]:
        raise ValueError(f"--budget of prune takes density=VALUE or a FILE.json or .csv, not {given!r}")
    value = settings["density"]
    if isinstance(value, Mapping):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"--budget density={str(value)[:40]} is no number: give a share, or a FILE.json or .csv")
    return value


def _is_file(given: str) -> bool:
    """A name of a file; text that sets something is none, unless there is a folder in front of its sign."""
    return is_budget_file(given) and ("=" not in given or "/" in given.partition("=")[0])
