"""How restarts ended that did not run to their last step: an object each in ``settings["stopped_early"]``.

Its keys: ``restart`` (from 0), ``step`` (the last one that was done), ``steps`` (how many were asked for), ``reason``
(in words; empty where nobody said).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bayesprune.inference.watching.callbacks import FitState

__all__ = ["ending_in_words", "ending_of", "endings_of"]

_SENTENCE = re.compile(r"restart (\d+) at step (\d+) of (\d+)(?:: (.*))?", re.DOTALL)


def ending_of(state: FitState) -> dict[str, Any]:
    """How a restart ended that was stopped early."""
    return {"restart": state.restart, "step": state.step, "steps": state.steps, "reason": state.stop_reason}


def ending_in_words(ending: Mapping[str, Any]) -> str:
    """One of them in a sentence, such as ``"restart 0 at step 15 of 30: 7 iterates were averaged"``."""
    reason = f": {ending['reason']}" if ending["reason"] else ""
    return f"restart {ending['restart']} at step {ending['step']} of {ending['steps']}{reason}"


def endings_of(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The endings that a fit's settings hold, those of earlier versions too, which were sentences.

    Raises:
        ValueError: If they are neither objects nor such sentences.
    """
    found: list[dict[str, Any]] = []
    for one in settings.get("stopped_early") or []:
        if isinstance(one, Mapping) and {"restart", "step", "steps", "reason"} <= set(one):
            found.append(dict(one))
            continue
        match = _SENTENCE.fullmatch(one) if isinstance(one, str) else None
        if match is None:
            raise ValueError(
                f"stopped_early holds {one!r}, but objects with restart, step, steps and reason are expected"
            )
        restart, step, steps = map(int, match.group(1, 2, 3))
        found.append({"restart": restart, "step": step, "steps": steps, "reason": match.group(4) or ""})
    return found
