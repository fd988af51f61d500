"""Which rule a part of a model brings with it, where none is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from bayesprune.inference.rules.rule import Rule

__all__ = ["brought_by", "brought_rules"]

R = TypeVar("R", bound=Rule)
_BROUGHT: dict[type, type[Rule]] = {}


def brought_by(part: type) -> Callable[[type[R]], type[R]]:
    """Decorates a rule that trains a part of a model, and that fits of models with such a part have by default.

    Args:
        part: The class of the part; it holds for what derives from it too.
    """

    def register(rule: type[R]) -> type[R]:
        _BROUGHT[part] = rule
        return rule

    return register


def brought_rules(parts: Iterable[object], given: Sequence[Rule]) -> list[Rule]:
    """The rules that parts of a model bring, but for those of which one was given.

    Args:
        parts: The parts.
        given: The rules that were asked for.
    """
    found = [[_BROUGHT[kind] for kind in type(part).__mro__ if kind in _BROUGHT] for part in parts]
    kinds = [rules[0] for rules in found if rules]
    names = {rule.name for rule in given}
    return [kind() for kind in kinds if kind.name not in names]
