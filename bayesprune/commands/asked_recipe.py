"""`--recipe` of the command line: a recipe of sparse training, with the budget as its density or layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayesprune.inference.recipes.ready_recipes import recipe
from bayesprune.inference.recipes.recipe import WEIGHT_DECAY, Recipe
from bayesprune.models.costs.layer_budgets import LayerBudget
from bayesprune.runs.declaration import UNIT_GATES

__all__ = ["asked_recipe", "parts_of", "prior_of"]

PRIOR = "weight-decay"
"""The prior of a fit by a recipe that names none."""


def asked_recipe(
    name: str | None,
    settings: Mapping[str, Any],
    budget: Mapping[str, Any],
    prior: str | None,
    others: Mapping[str, Any],
) -> Recipe | None:
    """Makes what `--recipe` asks for; None without it.

    Args:
        name: Its name.
        settings: Of `--recipe-set`.
        budget: Of `--budget`, which says how dense the network ends: ``{"density": ...}``.
        prior: The prior, by name.
        others: Options that do not go with a recipe, by name; None where they are not given.

    Raises:
        ValueError: If it is unknown, does not go with another option, or lacks a density.
    """
    if name is None:
        if settings:
            raise ValueError("--recipe-set is about a recipe of sparse training, but there is none: add --recipe NAME")
        return None
    if prior == UNIT_GATES:
        raise ValueError(f"--recipe is about masks on weights, --prior {UNIT_GATES} about units: leave one of them out")
    for option, given in others.items():
        if given is not None:
            raise ValueError(f"{option} does not go with --recipe: leave one of them out")
    fixed = next((key for key in ("density", "schedule") if key in settings), None)
    if fixed is not None:
        said = "--budget density=0.01 says it" if fixed == "density" else "each recipe has its own"
        raise ValueError(f"--recipe-set takes no {fixed}, {said}: leave it out")
    other = next((key for key in budget if key != "density"), None)
    if other is not None:
        raise ValueError(
            f"--budget {other}=... does not go with --recipe, whose masks are exact in the number of weights: give "
            "--budget density=0.01, or a FILE.json or .csv"
        )
    if "density" not in budget:
        raise ValueError(f"--recipe {name} needs to know how dense the network ends: give --budget density=0.01")
    density = budget["density"]
    if isinstance(density, (LayerBudget, Mapping)):
        if "layout" in settings:
            raise ValueError("--budget says how dense each layer is, and so does layout=: leave one of them out")
        return recipe(name, layout=density, **settings)
    return recipe(name, density, **settings)


def parts_of(made: Recipe | None) -> dict[str, Any]:
    """What a recipe changes of the network, as `Declaration.network_parts` holds it.

    Args:
        made: The recipe, or None.
    """
    shared = {} if made is None or made.shared_blocks is None else {"shared_blocks": made.shared_blocks}
    return shared | ({"dyrelu": True} if made is not None and made.dyrelu else {})


def prior_of(
    prior: str | None, settings: Mapping[str, Any] | None, made: Recipe | None
) -> tuple[str, Mapping[str, Any] | None]:
    """The prior of a fit and its settings: a recipe that is given none has a Gaussian by weight decay.

    Args:
        prior: What was asked for.
        settings: Its settings.
        made: The recipe.

    Raises:
        ValueError: If there is neither.
    """
    if prior is not None:
        return prior, settings
    if made is None:
        raise ValueError(
            "say which prior: --prior NAME (see: bayesprune priors), or --recipe NAME (see: bayesprune recipes)"
        )
    return PRIOR, {"weight_decay": WEIGHT_DECAY, **(settings or {})}
