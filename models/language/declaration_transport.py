"""How a declaration gets into another process of the same user (`multiprocessing`, `joblib`); never into a file.

A ready prior goes by its name and arguments, as in a saved fit. A declaration of one's own has functions: where these
have a name that the other process can import, they go by that name, else by `cloudpickle` if it is installed.
"""

from __future__ import annotations

import importlib
import pickle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayesprune.models.language.hierarchy import Hierarchy

__all__ = ["reduced"]

_FUNCTIONS = ("nodes", "latents", "weight", "weight_value", "factor")
"""What has functions and distributions, which are equal to themselves alone."""
_CARRIERS = ("cloudpickle", "joblib.externals.cloudpickle")


def reduced(hierarchy: Hierarchy) -> tuple[Any, ...]:
    """What `pickle` is to write for a hierarchy: a function and its arguments.

    Raises:
        ValueError: If it has functions without a name that could be imported, and there is no `cloudpickle`.
    """
    from bayesprune.models.priors.ready import from_config

    if _is_ready(hierarchy):
        return from_config, (hierarchy.config,)
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


def _is_ready(hierarchy: Hierarchy) -> bool:
    """Whether the name and the arguments say all: not of a class of one's own, or where something was set since."""
    from bayesprune.models.priors.ready import from_config

    try:
        made = None if hierarchy.config is None else from_config(hierarchy.config)
    except ValueError:
        return False
    if made is None or type(made) is not type(hierarchy):
        return False
    return all(vars(made).get(name) == value for name, value in vars(hierarchy).items() if name not in _FUNCTIONS)


def _carrier() -> Any:
    for name in _CARRIERS:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _made(kind: type[Hierarchy], state: dict[str, Any]) -> Hierarchy:
    found = object.__new__(kind)
    found.__dict__.update(state)
    return found


def _unpacked(kind: type[Hierarchy], state: bytes) -> Hierarchy:
    return _made(kind, pickle.loads(state))
