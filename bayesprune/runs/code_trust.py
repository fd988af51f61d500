"""What of a user's own code is run, and when: never because a file names it, only because the user says so.

summary.json of a run or of a pruned network, and path.json, may name a network or a prior by ``FILE.py:NAME`` or
``MODULE:NAME``. Importing a file or a module runs it, and whoever wrote the folder chose the name. So every reader of
such a file asks `allowed_code` first, and imports what it returns. A name without a colon is one of ours.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CodeNotTrusted", "CodeTrust", "absolute", "allowed_code", "is_code", "repeating"]

KINDS = ("network", "prior")


class CodeNotTrusted(ValueError):
    """A file names code of the user's own that the user has not allowed to run."""


@dataclass(frozen=True)
class CodeTrust:
    """What the user allows to run; by default nothing.

    Attributes:
        trust_code: Whether all code that the folder names may run.
        network: The reference of the network, repeated by the user; None where it is not.
        prior: The same of the prior.
    """

    trust_code: bool = False
    network: str | None = None
    prior: str | None = None


def is_code(reference: str) -> bool:
    """Whether a network's or prior's reference is code of the user's own, `FILE.py:NAME` or `MODULE:NAME`."""
    return ":" in reference


def absolute(reference: str) -> str:
    """`FILE.py:NAME` with the file's absolute path, so that it is found from any folder; others unchanged."""
    place, colon, name = reference.rpartition(":")
    return f"{Path(place).expanduser().resolve()}:{name}" if colon and place.endswith(".py") else reference


def allowed_code(declared: Mapping[str, Any], trust: CodeTrust, where: str | Path) -> dict[str, str]:
    """The references that may be resolved, of those that a file holds.

    Args:
        declared: What the file holds; ``network`` and ``prior``, as far as they are there, are looked at.
        trust: What the user allows.
        where: The file, for the message.

    Returns:
        By kind the reference: as the user repeated it where it is code, files by their absolute paths.

    Raises:
        CodeNotTrusted: If one is code that the user has neither repeated nor trusts; the sentence says what would be
            run, and how to allow it.
        ValueError: If the user repeated another reference than the file's, or one is no text.
    """
    found = {kind: declared[kind] for kind in KINDS if kind in declared}
    for kind, reference in found.items():
        if not isinstance(reference, str):
            raise ValueError(f"the {kind} is of type {type(reference).__name__}, but a name is expected")
        if "\0" in reference:
            raise ValueError(f"the {kind} {reference!r} has a null character in its name")
    stored = {kind: absolute(reference) for kind, reference in found.items()}
    for kind, reference in stored.items():
        given = getattr(trust, kind)
        if given is not None and absolute(given) != reference:
            raise ValueError(
                f"--{kind} is {absolute(given)}, but {where} names the {kind} {reference}: repeat that one, or read it "
                "in Python with a model of your own, bayesprune.Fit.load(folder, model=...)"
            )
    asked = {
        kind: reference
        for kind, reference in stored.items()
        if is_code(reference) and not trust.trust_code and getattr(trust, kind) is None
    }
    if asked:
        several = len(asked) > 1
        raise CodeNotTrusted(
            f"{where} names {' and '.join(_described(kind, reference) for kind, reference in asked.items())}, "
            f"code that would be run and is not unless you say so: {'repeat them' if several else 'repeat it'} with"
            f"{_options(asked)}, or give --trust-code (from Python "
            f"{', '.join(f'{kind}=...' for kind in asked)} or trust_code=True)"
        )
    return stored


def repeating(declared: Mapping[str, Any]) -> str:
    """The options that a next command has to repeat, each with a space before it; empty where nothing is code.

    Args:
        declared: Has ``network`` and ``prior``.
    """
    return _options({kind: declared[kind] for kind in KINDS if is_code(declared[kind])})


def _options(references: Mapping[str, str]) -> str:
    return "".join(f" --{kind} {shlex.quote(reference)}" for kind, reference in references.items())


def _described(kind: str, reference: str) -> str:
    place, _, name = reference.rpartition(":")
    what = "file" if place.endswith(".py") or kind == "prior" else "module"
    return f"the {kind} {name!r} of the {what} {place}"
