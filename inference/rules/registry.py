"""Which rule a part of a model brings with it, where none is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from bayesprune.inference.rules.rule import Rule

__all__ = ["brought_by", "brought_rules"]

R = TypeVar("R", bound=Rule)
_BROUGHT: dict[type, type[Rule]] = {}


def brought_by(part: type) -> Callable[[type[R]], type[R]]:
    """Decorates a rule that fits of models with a certain part have by default, once a fit however many such parts.

    Args:
        part: The class of the part: a way, a layer of the network, a hierarchy, or an inclusion event of one; it holds
            for what derives from it too.
    """

    def register(rule: type[R]) -> type[R]:
        _BROUGHT[part] = rule
        return rule

    return register


def brought_rules(parts: Iterable[object], given: Sequence[Rule]) -> list[Rule]:
    """The rules that parts of a model bring, each once, but for those of which one was given.

    Args:
        parts: The parts.
        given: The rules that were asked for.
    """
    found = [[_BROUGHT[kind] for kind in type(part).__mro__ if kind in _BROUGHT] for part in parts]
    kinds = dict.fromkeys(rules[0] for rules in found if rules)
    names = {rule.name for rule in given}
    return [kind() for kind in kinds if kind.name not in names]
