"""JSON files: written in one go, and read with one sentence where they are not what they should be."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayesprune.models.files.new_file import replaced_file

__all__ = ["damaged", "need", "read_json", "read_regular", "write_json"]

_WORDS = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "an object",
    type(None): "null",
}  # fmt: skip


def write_json(file: Path, content: Mapping[str, Any], indent: int | None = 2) -> None:
    """Writes a JSON file, all of it or nothing; infinities and NaN are refused.

    Args:
        file: The file; its folder exists.
        content: What JSON holds.
        indent: Spaces of a level; None writes one line, ten times as fast. Default 2.

    Raises:
        ValueError: If a number is not finite.
        Unwritable: If it cannot be written.
    """
    text = json.dumps(content, indent=indent, allow_nan=False) + "\n"
    with replaced_file(file) as staged:
        staged.write_text(text, encoding="utf-8")


def read_json(file: Path, remedy: str, needed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Args:
        file: The file.
        remedy: What to do where it is damaged, the end of the message: ``"fit again, or restore the file"``.
        needed: Keys that have to be there, with their types (see `need`); default none.

    Raises:
        ValueError: If it is missing, no regular file, no JSON, no object, holds a number that is not finite, or lacks
            a key.
    """
    stored = read_regular(file, remedy)
    try:
        found = json.loads(stored.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as problem:
        raise damaged(file, "its lists are too deep", remedy) from problem
    except ValueError as problem:  # those of JSON and Unicode are ValueErrors
        raise damaged(file, problem, remedy) from problem
    if not isinstance(found, dict):
        raise damaged(file, f"it holds {_word(found)}, an object is expected", remedy)
    need(file, found, needed or {}, remedy)
    return found


def need(file: Path, found: Mapping[str, Any], needed: Mapping[str, Any], remedy: str) -> None:
    """Refuses what lacks a key or has a value of another type.

    Args:
        file: Where it came from.
        found: What was found there.
        needed: The type of each key, or a tuple of types; ``float`` takes whole numbers too, ``int`` no booleans, and
            ``object`` anything.
        remedy: As in `read_json`.

    Raises:
        ValueError: For the first key.
    """
    lacking = [key for key in needed if key not in found]
    if lacking:
        raise damaged(file, f"it lacks {', '.join(lacking[:3])}", remedy)
    for key, kinds in needed.items():
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        if not any(_is_of(found[key], kind) for kind in kinds):
            expected = " or ".join(_WORDS.get(kind, "something") for kind in kinds)
            raise damaged(file, f"{key} is {_word(found[key])}, {expected} is expected", remedy)


def read_regular(file: Path, remedy: str) -> bytes:
    """The content of a regular file; a pipe is not waited for.

    Raises:
        ValueError: If there is no such file, it is none, or it cannot be read.
    """
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            raise damaged(file, "it is a folder" if stat.S_ISDIR(mode) else "it is no regular file", remedy)
        return file.read_bytes()
    except MemoryError as problem:
        raise damaged(file, "it is larger than the memory", remedy) from problem
    except FileNotFoundError as problem:
        raise ValueError(f"{file} is missing: {remedy}") from problem
    except OSError as problem:
        raise damaged(file, problem.strerror or problem, remedy) from problem


def damaged(file: Path, reason: object, remedy: str) -> ValueError:
    """The error of a file that is not what was written.

    Args:
        file: The file.
        reason: Why, in words or as an exception; one that is such an error already is told as it is.
        remedy: What to do, the end of the message.
    """
    if isinstance(reason, KeyError):
        missing = str(reason.args[0]) if reason.args else ""
        reason = missing if " " in missing else f"there is no {missing!r}"  # some libraries write sentences
    text = " ".join(str(reason).split())
    if text.startswith(f"{file} is "):
        return ValueError(text)
    return ValueError(f"{file} is damaged ({text[:200]}): {remedy}")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _is_of(value: Any, kind: Any) -> bool:
    if kind is object:
        return True
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float)) if kind is float else isinstance(value, kind)


def _word(value: Any) -> str:
    return _WORDS.get(type(value), type(value).__name__)
