"""Arguments of `fit` that are rules now: taken for one release, with a warning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from bayesprune.inference.rules.gate_training import Gating
from bayesprune.models.checks.renamed_arguments import warn_of_old_name
from bayesprune.models.checks.shown_values import shown

__all__ = ["rules_of_today"]


def rules_of_today(rules: Any, more: dict[str, Any]) -> Any:
    """The rules, with what ``gating=`` and ``unit_gate_estimator=`` said, which are taken from the arguments IN PLACE.

    Args:
        rules: What was given as ``rules=``.
        more: The other arguments by name.

    Raises:
        ValueError: If one of them is of another type.
    """
    gating, estimator = more.pop("gating", None), more.pop("unit_gate_estimator", None)
    if gating is not None and not isinstance(gating, Gating):
        raise ValueError(f"gating= takes Gating(...) or None, not {shown(gating)}")
    if gating is None and estimator is None:
        return rules
    old = [name for name, value in (("gating=", gating), ("unit_gate_estimator=", estimator)) if value is not None]
    rule = gating or Gating()
    if estimator is not None:
        rule = replace(rule, estimator=estimator)
    warn_of_old_name(f"{' and '.join(old)} of fit", f"rules=[{rule!r}]", stacklevel=7)
    return [*rules, rule] if isinstance(rules, Iterable) else rules
