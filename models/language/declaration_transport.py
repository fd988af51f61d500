"""How a declaration gets into another process of the same user (`multiprocessing`, `joblib`); never into a file.

A ready prior goes by its name and arguments, as in a saved fit. A declaration of one's own has functions: where these
have a name that the other process can import, they go by that name, else by `cloudpickle` if it is installed.
"""

from __future__ import annotations

import importlib
import pickle
from typing import Any, TypeVar

from bayesprune.models.language.latent import Declared
from bayesprune.models.language.ready_registry import READY

__all__ = ["reduced"]

Kind = TypeVar("Kind")
_FUNCTIONS = ("nodes", "latents", "weight", "weight_value", "factor")
"""What has functions and distributions, which are equal to themselves alone."""
_CARRIERS = ("cloudpickle", "joblib.externals.cloudpickle")


def reduced(hierarchy: Declared) -> tuple[Any, ...]:
    """What `pickle` is to write for a hierarchy: a function and its arguments.

    Raises:
        ValueError: If it has functions without a name that could be imported, and there is no `cloudpickle`.
    """
    if _is_ready(hierarchy):
        return _called, (type(hierarchy), hierarchy.config)
    state = vars(hierarchy)
    try:
        pickle.dumps(state)
    except (pickle.PicklingError, AttributeError, TypeError) as problem:
        carrier = _carrier()
        if carrier is None:
            raise ValueError(
                f"the prior {hierarchy!r} has functions without a name that another process could import ({problem}): "
                "write them as functions at the top of a module in place of lambdas, or install cloudpickle"
            ) from problem
        return _unpacked, (type(hierarchy), carrier.dumps(state))
    return _made, (type(hierarchy), state)


def _is_ready(hierarchy: Declared) -> bool:
    """Whether the name and the arguments say all: not of a class of one's own, or where something was set since."""
    try:
        made = None if hierarchy.config is None else _called(type(hierarchy), hierarchy.config)
    except (TypeError, ValueError):
        return False
    if type(made) is not type(hierarchy):
        return False
    return all(vars(made).get(name) == value for name, value in vars(hierarchy).items() if name not in _FUNCTIONS)


def _called(kind: type[Kind], config: dict[str, Any]) -> Kind | None:
    """The ready prior of that class by its name and arguments; None if it is none.

    That the class is an argument has the other process import its module, which names the prior there.
    """
    entry = READY.get(config["name"])
    found: Kind | None = None if entry is None else entry.make(**config["arguments"])
    return found


def _carrier() -> Any:
    for name in _CARRIERS:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _made(kind: type[Kind], state: dict[str, Any]) -> Kind:
    found = object.__new__(kind)
    found.__dict__.update(state)
    return found


def _unpacked(kind: type[Kind], state: bytes) -> Kind:
    return _made(kind, pickle.loads(state))
