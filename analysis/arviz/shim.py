"""The one place that knows which ArviZ is installed.

ArviZ 1 (Python 3.12 and later) and the preview inside ArviZ 0.23 (Python 3.11) offer the same functions under
two names. The package uses few of them: `from_dict`, `rhat`, `ess` and `mcse`; users get the whole namespace
here too.

What users type is ``import arviz as az``. There ArviZ 1 takes data trees, and ArviZ 0.23 its own `InferenceData`.
"""

from __future__ import annotations

import functools
from importlib import import_module
from types import ModuleType
from typing import Any

import xarray as xr

NEEDED = ("from_dict", "summary", "rhat", "ess", "mcse")
_REMEDY = "install bayesprune with its dependencies (arviz>=1 on Python 3.12+, arviz[preview]>=0.23 on Python 3.11)"


@functools.cache
def arviz() -> ModuleType:
    """The ArviZ namespace, the one whose `from_dict` takes groups; imported on first use.

    Raises:
        ImportError: If there is no ArviZ, or only one that is too old; says what to install.
    """
    try:
        namespace = import_module("arviz")
        if not is_modular(getattr(namespace, "__version__", "0")):
            namespace = import_module("arviz.preview")
    except ImportError as problem:
        raise ImportError(f"ArviZ with its modular interface cannot be imported ({problem}): {_REMEDY}") from problem
    missing = [name for name in NEEDED if not hasattr(namespace, name)]
    if missing:
        raise ImportError(f"this ArviZ has no {', '.join(missing)}: {_REMEDY}")
    return namespace


def is_modular(version: str) -> bool:
    """Whether a version of ArviZ has the modular interface at its top level: 1 and later."""
    return int(version.split(".")[0]) >= 1


def for_top_level(tree: xr.DataTree) -> Any:
    """A data tree in the form that the functions of ``import arviz as az`` take.

    Args:
        tree: It, with draws over ``chain`` and ``draw``.

    Returns:
        The tree itself for ArviZ 1; for ArviZ 0.23 an `arviz.InferenceData` of the same groups and attributes.
    """
    arviz()  # says what to install where it is not there
    installed: Any = import_module("arviz")
    return tree if is_modular(installed.__version__) else installed.InferenceData.from_datatree(tree)
