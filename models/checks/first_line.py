"""The first line of an error's message, for a sentence that says why something failed."""

from __future__ import annotations

__all__ = ["first_line"]


def first_line(problem: BaseException) -> str:
    """The first line that an error says; the name of its type where it says nothing.

    Args:
        problem: The error, raised by a library or by a user's code.
    """
    text = str(problem).strip()
    return text.splitlines()[0].rstrip() if text else type(problem).__name__
