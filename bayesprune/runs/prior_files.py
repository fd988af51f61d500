"""Priors and networks out of a user's own Python files: `FILE.py:NAME` and `MODULE:NAME`.

A file `own_prior.py` with a prior of one's own::

    import pyro.distributions as dist
    import bayesprune as bp

    student = bp.Hierarchy(
        scale=bp.Latent(dist.InverseGamma(2.0, 0.01), per="output"),
        weight=lambda scale: dist.Normal(0.0, scale.sqrt()),
        included=bp.shrinkage_below(0.5),
    )

is used by `bayesprune fit --prior own_prior.py:student ...`. NAME may also be a function that returns a
hierarchy; its arguments are then the settings that `--set` gives.

Everything here runs code: references out of files come here only through `bayesprune.runs.code_trust.allowed_code`.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from bayesprune.models.language.hierarchy import Hierarchy

__all__ = ["import_file", "import_object", "load_prior", "split_reference"]


def split_reference(reference: str, what: str) -> tuple[str, str]:
    """Cuts `FILE.py:NAME` or `MODULE:NAME` in two.

    Args:
        reference: The text.
        what: What it should name, for the message.

    Raises:
        ValueError: If one of the two halves is missing.
    """
    place, colon, name = reference.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise ValueError(f"{reference!r} names no {what}: write FILE.py:NAME, with the {what}'s name after a colon")
    return place, name


def import_file(path: str | Path) -> ModuleType:
    """Runs a Python file as a module of its own; modules beside it can be imported by it.

    Args:
        path: The file; it is read anew each time.

    Raises:
        ValueError: If there is no such file, or it fails; the sentence names error, file and line.
    """
    path = Path(os.path.realpath(os.path.expanduser(path)))
    if not path.is_file():
        raise ValueError(f"there is no file {path}: check the path before the colon")
    name = f"bayesprune_file_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    # Compiled here rather than by importlib: its cache tells versions of a file apart by the second only.
    linecache.checkcache(str(path))
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses look their module up while it is running
    try:
        with _beside(path.parent):
            exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as problem:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise ValueError(
            f"{path} failed{_line_of(problem, path)} ({_one_line(problem)}): correct it there"
        ) from problem
    return module


def import_object(reference: str, what: str) -> Any:
    """Returns what `FILE.py:NAME` or `MODULE:NAME` names; modules are looked for in the current folder too.

    Args:
        reference: The text.
        what: What it should name, for the message.

    Raises:
        ValueError: If it cannot be imported, or holds no such name.
    """
    place, name = split_reference(reference, what)
    if place.endswith(".py"):
        module = import_file(place)
    else:
        try:
            with _beside(Path.cwd()):
                module = importlib.import_module(place)
        except (Exception, SystemExit) as problem:
            raise ValueError(
                f"the module {place} cannot be imported ({_one_line(problem)}): give one that Python finds, "
                "or FILE.py:NAME"
            ) from problem
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if _is_own(key, value, module)]
        raise ValueError(f"{place} has no {name!r}: it has {', '.join(own) or 'nothing of its own'}")
    return getattr(module, name)


def load_prior(reference: str, settings: Mapping[str, Any] | None = None) -> Hierarchy:
    """Returns the hierarchy that `FILE.py:NAME` names, or that the function of that name returns.

    Args:
        reference: The file and the name in it.
        settings: Arguments of the function; default none.

    Raises:
        ValueError: If the file fails, or the name is missing or of another type; the sentence lists the
            hierarchies that the file has.
    """
    place, name = split_reference(reference, "prior")
    module = import_file(place)
    found = vars(module).get(name)
    listed = ", ".join(key for key, value in vars(module).items() if isinstance(value, Hierarchy)) or "no hierarchy"
    if name not in vars(module):
        raise ValueError(f"{place} has no prior {name!r}: it has {listed}")
    if isinstance(found, Hierarchy):
        if settings:
            raise ValueError(
                f"{reference} is a hierarchy, which takes no settings ({', '.join(settings)}): change the "
                "file, or make it a function of them"
            )
        return found
    if callable(found):
        made = _called(found, reference, dict(settings or {}), place)
        if isinstance(made, Hierarchy):
            return made
        raise ValueError(f"{reference} returned {type(made).__name__}, not a Hierarchy: the file has {listed}")
    raise ValueError(f"{reference} is of type {type(found).__name__}, not a Hierarchy: the file has {listed}")


def _called(function: Callable[..., Any], reference: str, settings: dict[str, Any], place: str) -> Any:
    try:
        signature = inspect.signature(function)
        signature.bind(**settings)
    except (TypeError, ValueError) as problem:
        takes = ", ".join(inspect.signature(function).parameters) or "none"
        raise ValueError(
            f"{reference} cannot be called with these settings ({problem}): its settings are {takes}"
        ) from None
    try:
        return function(**settings)
    except Exception as problem:
        line = _line_of(problem, Path(os.path.realpath(os.path.expanduser(place))))
        raise ValueError(f"{reference} failed{line} ({_one_line(problem)}): correct it there") from problem


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Lets imports find modules in a folder, as when a script in it runs."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _line_of(problem: BaseException, path: Path) -> str:
    """Says in which line of the file an error was raised, if it was."""
    if isinstance(problem, SyntaxError) and problem.filename == str(path):
        return f" in line {problem.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == str(path)]
    return f" in line {lines[-1]}" if lines else ""


def _one_line(problem: BaseException) -> str:
    text = problem.msg if isinstance(problem, SyntaxError) else " ".join(str(problem).split())
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__


def _is_own(key: str, value: Any, module: ModuleType) -> bool:
    return not key.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
