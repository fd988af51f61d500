"""Ready priors: hierarchies with a name, by which a command line, a file and another process make them again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from bayesprune.models.checks.setting_types import typed_settings

__all__ = ["READY", "ReadyPrior", "ready"]

Make = TypeVar("Make", bound=Callable[..., Any])
_MARK = "ready_prior"
"""Attribute of an alternate constructor with its name and summary, until its class is there."""


@dataclass(frozen=True)
class ReadyPrior:
    """A ready prior.

    Attributes:
        name: Its name on the command line, ``"halo-paper"``.
        make: Its class, an alternate constructor of it, or what makes it.
        summary: One line on what it is.
        stored: Its name in a saved fit, ``"HALO.from_paper"``; None for gates, which are stored apart.
    """

    name: str
    make: Callable[..., Any]
    summary: str
    stored: str | None

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings with their defaults; `inspect.Parameter.empty` for one that must be given."""
        return {name: p.default for name, p in inspect.signature(self.make).parameters.items()}


READY: dict[str, ReadyPrior] = {}
"""Every ready prior whose module has been imported, by its name in a saved fit; `PRIORS` is the list of all."""


def ready(name: str, summary: str, later: Collection[str] = ()) -> Callable[[Make], Make]:
    """Decorator of a ready prior: of its class, and below a `classmethod` of an alternate constructor.

    The types of settings are checked as `typed_settings` says, and what is made has a `config` with all of them::

        @ready("laplace", "weight ~ Laplace(0, scale): the lasso")
        class Laplace(Hierarchy):
            def __init__(self, scale: float | None = None) -> None: ...

    A file of `models/priors` that has one is found by itself (`bayesprune.models.priors.ready`).

    Args:
        name: Its name on the command line.
        summary: One line on what it is.
        later: Settings that came after files without them had been written: at their defaults `config` leaves them out,
            so that a prior is stored, and has the fingerprint, as it always was. Default: none.

    Raises:
        ValueError: If another ready prior has that name.
    """

    def declared(make: Make) -> Make:
        if not isinstance(make, type):
            made: Any = typed_settings(_recorded(make, ".".join(make.__qualname__.split(".")[-2:]), later))
            setattr(made, _MARK, (name, summary))
            return made
        make.__init__ = typed_settings(_recorded(make.__init__, make.__name__, later))  # type: ignore[misc]
        _add(ReadyPrior(name, make, summary, make.__name__))
        for key, one in vars(make).items():
            if isinstance(one, classmethod) and hasattr(one.__func__, _MARK):
                own_name, own_summary = getattr(one.__func__, _MARK)
                _add(ReadyPrior(own_name, getattr(make, key), own_summary, f"{make.__name__}.{key}"))
        return make

    return declared


def _add(entry: ReadyPrior) -> None:
    for other in READY.values():
        if (other.name == entry.name) != (other.stored == entry.stored):
            raise ValueError(
                f"the ready prior {entry.stored}, {entry.name!r}, shares a name with {other.stored}, {other.name!r}: "
                "give it a class and a name of its own"
            )
    READY[str(entry.stored)] = entry


def _recorded(make: Callable[..., Any], stored: str, later: Collection[str]) -> Callable[..., Any]:
    """What is made has a `config`: its name, and the settings in the order of the arguments."""
    signature = inspect.signature(make)

    @functools.wraps(make)
    def recorded(owner: Any, **settings: Any) -> Any:
        made = make(owner, **settings)
        bound = signature.bind(owner, **settings)
        bound.apply_defaults()
        _, *given = bound.arguments.items()
        told = [(key, value) for key, value in given if key not in later or value != signature.parameters[key].default]
        arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in told}  # as JSON has it
        (owner if made is None else made).config = {"name": stored, "arguments": arguments}
        return made

    return recorded
