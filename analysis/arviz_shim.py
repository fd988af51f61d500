"""The one place that knows which ArviZ is installed.

ArviZ 1 (Python 3.12 and later) and the preview inside ArviZ 0.23 (Python 3.11) offer the same functions under
two names. The package uses few of them: `from_dict`, `rhat`, `ess` and `mcse`; users get the whole namespace
here too.
"""

from __future__ import annotations

import functools
from importlib import import_module
from types import ModuleType

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
