"""Names that fit into a figure: long ones are cut where it costs least, and stay apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
LEAST = 3
"""Letters that a cut part keeps at least, the ellipsis among them."""


def short_names(names: Iterable[str], letters: int) -> dict[str, str]:
    """Cuts the names that are longer than there is room for.

    Of the parts between dots the longest lose their middle first, so that ``backbone_of_all.second_layer.bias``
    becomes ``ba…ll.se…er.bias``. Names that would then be the same get a number.

    Args:
        names: Names of parameters, sites or quantities, each once.
        letters: Most letters of a name, the ellipses among them.

    Returns:
        What to write for each name; names that fit stay as they are.
    """
    cut = {name: name if len(name) <= letters else _cut(name, letters) for name in names}
    seen = Counter(cut.values())
    for short in [short for short, times in seen.items() if times > 1]:
        alike = [name for name, own in cut.items() if own == short and name != short]
        for number, name in enumerate(alike, start=1):
            cut[name] = f"{_middle(short, letters - len(f' #{number}'))} #{number}"
    return cut


def _cut(name: str, letters: int) -> str:
    """The parts of a name, each at most as long as lets the whole fit."""
    parts = name.split(".")
    for most in range(max(map(len, parts)), LEAST - 1, -1):
        short = ".".join(_middle(part, most) for part in parts)
        if len(short) <= letters:
            return short
    return _middle(name, letters)


def _middle(text: str, letters: int) -> str:
    """A text without its middle, where it is too long."""
    if len(text) <= letters:
        return text
    tail = (letters - 1) // 2
    return text[: letters - 1 - tail] + ELLIPSIS + (text[-tail:] if tail else "")
