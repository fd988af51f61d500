"""A value of the wrong type, as a sentence repeats it."""

from __future__ import annotations

from typing import Any

__all__ = ["shown"]


def shown(value: Any) -> str:
    """Texts and numbers as they are typed; of all else the type alone.

    Args:
        value: What was given.
    """
    return repr(value) if isinstance(value, (str, int, float)) else f"an object of type {type(value).__name__}"
