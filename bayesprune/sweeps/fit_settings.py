"""Settings of a fit by the names of `bayesprune fit`: which there are, and what they are in Python and as a command.

A setting is an option of `bayesprune fit` by its long name (``learning-rate``, ``prior``, ``recipe``), or one of its
KEY=VALUE settings with the option in front (``set.kappa``, ``budget.density``). It imports no PyTorch, as the command
line reads it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from bayesprune.inference.training.fit_options import FitOptions
from bayesprune.models.checks.plain_numbers import plain_value
from bayesprune.models.checks.shown_values import shown

__all__ = [
    "OPTIONS", "OUTPUTS_DRAWN", "PAIRS", "REPEATED", "checked_settings", "digest_of", "known_name",
    "settings_as_options", "told",
]  # fmt: skip

OPTIONS = (
    "data", "prior", "network", "width", "recipe", "budget", "on", "guide", "likelihood", "standardise", "weights",
    "new-head", "epochs", "steps", "batch-size", "learning-rate", "optimizer", "schedule", "kl-warmup", "kl-weight",
    "particles", "tune", "seed", "restarts", "device", "precision", "execution", "local-reparameterisation",
    "data-root",
)  # fmt: skip
"""Options of `bayesprune fit` that are one setting each; a test holds them to the command."""
PAIRS = {
    "set": "settings", "network-set": "network_settings", "gating": "gating", "budget": "budget",
    "recipe-set": "recipe_settings",
}  # fmt: skip
"""Options that take KEY=VALUE, and the argument of `fit_run` that they are."""
REPEATED = ("on", "tune", "budget")
"""Options that may be given several times."""
OUTPUTS_DRAWN: dict[str, bool | str] = {"exact": True, "approximate": "approximate", "off": False}
"""What the words of --local-reparameterisation are in Python."""
_FIELDS = {one.name for one in fields(FitOptions)}
_DIGITS = 16


def known_name(name: str, what: str = "a setting of a sweep") -> str:
    """The name of a setting as it is written down: hyphens in options, as the command line has them.

    Args:
        name: As it was given, ``learning_rate`` or ``learning-rate``.
        what: What was given, for the message.

    Raises:
        ValueError: If there is none; it says the nearest.
    """
    option, point, key = name.partition(".")
    option = option.replace("_", "-")
    if option in (PAIRS if point else OPTIONS) and (key or not point):
        return f"{option}.{key}" if point else option
    known = [*OPTIONS, *(f"{one}.{key or option.replace('-', '_')}" for one in PAIRS)]
    near = difflib.get_close_matches(option if not point else f"{option}.{key}", known, 1, cutoff=0.6)
    key = name.replace("-", "_").rpartition(".")[2]
    if not near or near[0].startswith("set."):
        meant = f"a setting of the prior is set.{key}, and others are options of bayesprune fit by their long names"
    else:
        meant = f"did you mean {near[0]}?"
    raise ValueError(f"{name!r} is no name of {what}: {meant}")


def checked_settings(given: Mapping[str, Any], what: str = "a setting of a sweep") -> dict[str, Any]:
    """Settings by their names as they are written down, with values as JSON holds them.

    Args:
        given: Values by name; numbers may be those of NumPy.
        what: What they are, for messages.

    Raises:
        ValueError: If a name is unknown or comes twice, or JSON cannot hold a value; or if an option of a fit refuses
            its value.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"settings are values by name, not {shown(given)}: give a dict")
    found: dict[str, Any] = {}
    for name, value in given.items():
        known = known_name(str(name), what)
        if known in found:
            raise ValueError(f"{known} is given twice: give it once")
        try:
            found[known] = json.loads(json.dumps(plain_value(value), allow_nan=False))
        except (TypeError, ValueError, RecursionError) as problem:
            raise ValueError(f"{known} is {shown(value)}: give numbers, names or lists of them") from problem
        field = known.replace("-", "_")
        if field in _FIELDS and found[known] not in (None, *OUTPUTS_DRAWN):
            FitOptions(**{field: found[known]})  # refuses what is out of range
    return found


def settings_as_options(settings: Mapping[str, Any]) -> list[str]:
    """The options of `bayesprune fit` that settings are, to type after the command.

    Args:
        settings: By name, as `checked_settings` returns them; one that is None is left out.
    """
    typed: list[str] = []
    words = {value: word for word, value in OUTPUTS_DRAWN.items()}
    for name, value in settings.items():
        option, point, key = name.partition(".")
        if value is None and not point:
            continue
        if point:
            typed += [f"--{option}", f"{key}={told(value)}"]
        elif option == "local-reparameterisation":
            typed += [f"--{option}", words.get(value, str(value))]
        elif isinstance(value, bool):
            typed += [f"--{option}" if value else f"--no-{option}"] if value or option == "standardise" else []
        else:
            for one in value if isinstance(value, list) else [value]:
                typed += [f"--{option}", told(one)]
    return [shlex.quote(one) for one in typed]


def told(value: Any) -> str:
    """A value as it is typed: JSON, but for texts that JSON would not read as something else."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return value
    return json.dumps(value)


def digest_of(settings: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of settings, whatever their order.

    Args:
        settings: What JSON holds, by name.
    """
    text = json.dumps(settings, sort_keys=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=_DIGITS // 2).hexdigest()
