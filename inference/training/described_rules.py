"""Rules, and arguments of a fit with them, as JSON holds them: what tells a fit, a search or a path from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from bayesprune.inference.data.fingerprints import described
from bayesprune.inference.rules.rule import Rule

__all__ = ["described_arguments", "described_rule"]


def described_rule(rule: Rule) -> dict[str, Any]:
    """A rule as a checkpoint knows it again: its class and its fields; callables among them count by their names."""
    return {type(rule).__name__: {name: _described_field(value) for name, value in vars(rule).items()}}


def described_arguments(how: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `fit` as JSON holds them, by name: of ``rules=`` their settings count, not their classes alone.

    Args:
        how: The arguments.
    """
    found = {name: described(value) for name, value in how.items()}
    if isinstance(rules := how.get("rules"), (list, tuple)):
        found["rules"] = [described_rule(one) if isinstance(one, Rule) else described(one) for one in rules]
    return found


def _described_field(value: Any) -> Any:
    return repr(value) if is_dataclass(value) else described(value)
