"""What checkpoints of earlier versions hold, in the words of today: unit gates were a case of their own there.

The one rule that there was stood as ``gating`` and ``unit_gate_estimator`` among the arguments of the fit, and its
state as ``gates``. The order of the data was drawn by torch's own generator, between the draws of the noise.
"""

from __future__ import annotations

import ast
import contextlib
import math
from collections.abc import Mapping
from typing import Any

from bayesprune.inference.data.fingerprints import described
from bayesprune.inference.objective.unit_gate_estimators import estimator_named
from bayesprune.inference.objective.weight_moments import FEWEST_INPUTS
from bayesprune.inference.rules.gate_training import Gating
from bayesprune.inference.training.kept_order import BY_TORCH
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["asked_of_today", "state_of_today", "with_default_draws"]


def asked_of_today(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a fit was asked for, as today's version writes it.

    Args:
        asked: What was written.
    """
    found = dict(asked)
    for option in ("gate_estimator", "optimizer", "schedule"):  # data classes were printed
        with contextlib.suppress(SyntaxError, AssertionError, ValueError):
            found[option] = dict([_call(found.get(option) or "")])
    if "training" in found or "gating" not in found:
        return found
    gating, estimator = found.pop("gating"), found.pop("unit_gate_estimator", None)
    found["training"] = {}
    if gating is not None or estimator is not None:
        name, settings = _call(gating or "Gating()")
        rule = described(Gating(**{"delay": 0.0, **settings}))  # theta was not held then
        if isinstance(estimator, str) and "(" not in estimator:
            rule[name]["estimator"] = described(estimator_named(estimator))
        elif estimator is not None:
            rule[name]["estimator"] = dict([_call(estimator)])
        found["training"] = {Gating.name: rule}
    return found


def with_default_draws(before: Mapping[str, Any], asked: Mapping[str, Any], model: BayesianNetwork) -> dict[str, Any]:
    """What a fit was asked for when drawn weights were the default, where today's comes to these too.

    It does not for layers of many inputs with gates: who goes on with those says ``local_reparameterisation=False``.

    Args:
        before: What was written.
        asked: What is asked for now.
        model: The model.
    """
    name = "local_reparameterisation"
    gated = any(
        math.prod(prior.shape[1:]) >= FEWEST_INPUTS
        for prior in model.priors.values()
        if any(site.support == "boolean" for site in prior.sites.values())
    )
    as_then = before.get(name) is False and asked.get(name) is None and not gated
    return {**before, name: None} if as_then else dict(before)


def state_of_today(kept: dict[str, Any]) -> dict[str, Any]:
    """The state of a restart, as today's version writes it, IN PLACE.

    Args:
        kept: What was written.
    """
    if "gates" in kept:
        state = kept.pop("gates")
        kept["rules"] = {Gating.name: state} if state else {}
    kept.setdefault("order", BY_TORCH)
    return kept


def _call(text: str) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a data class that was printed."""
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    return call.func.id, {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
