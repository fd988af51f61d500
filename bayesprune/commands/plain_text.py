"""Text that a terminal shows and does not obey: names out of files may hold its control sequences."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

__all__ = ["neutral", "plain_warnings"]

# C0 with the escape character, DEL, C1 (its 0x9b begins a sequence by itself), marks and overrides of the direction of
# writing, separators of lines, and halves of surrogates, which no encoding takes.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def neutral(text: str, keep: str = "") -> str:
    """The text with every character that a terminal would obey written out, an escape as backslash, x, 1, b.

    Args:
        text: Any text.
        keep: Characters that are one's own and stay, such as a line break; default none.
    """
    return _OBEYED.sub(lambda found: found[0] if found[0] in keep else _written_out(found[0]), text)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Writes the same out in warnings that are printed while the block runs."""
    before = warnings.formatwarning

    def formatted(*given: Any, **how: Any) -> str:
        return neutral(before(*given, **how), keep="\n")

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = before


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
