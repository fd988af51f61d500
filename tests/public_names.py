"""The index of the public names, docs/index.md: `python -m tests.public_names` writes it, and a test compares the two.

Names and their groups are those of `bayesprune/__init__.py`, what is said of each the first line of its docstring.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import bayesprune as bp

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "index.md"
_HEAD = """# Public names

What `import bayesprune as bp` has, in the groups of `bayesprune/public_homes.py`, with the first line of each
docstring; `help(bp.NAME)` says the rest. Written by `python -m tests.public_names`.
"""


def groups() -> dict[str, list[str]]:
    """Names by the comment above them in `HOMES`."""
    source = (ROOT / "bayesprune" / "public_homes.py").read_text(encoding="utf-8")
    table = source.split("HOMES: dict[str, str] = {\n", 1)[1].split("\n}", 1)[0]
    found: dict[str, list[str]] = {}
    for line in table.splitlines():
        if heading := re.fullmatch(r"\s*# (.+)", line):
            names = found.setdefault(heading[1], [])
        elif name := re.match(r'\s*"(\w+)":', line):
            names.append(name[1])
    return found


def first_line(name: str, owner: Any = bp) -> str:
    """The docstring as far as its first blank line."""
    paragraph = (inspect.getdoc(getattr(owner, name)) or "").split("\n\n", 1)[0]
    return " ".join(paragraph.split()).replace("|", r"\|")


def page() -> str:
    """The page as it should be."""
    parts = [_HEAD]
    for group, names in groups().items():
        rows = [f"| `{name}` | {first_line(name)} |" for name in names]
        parts.append("\n".join([f"## {group[0].upper()}{group[1:]}", "", "| name | |", "|---|---|", *rows]) + "\n")
    # Those of its bases first; dict.fromkeys keeps one of each name, in the order in which they are declared.
    declared = dict.fromkeys(name for kind in reversed(bp.Fit.__mro__[:-1]) for name in vars(kind))
    methods = [name for name in declared if not name.startswith("_") and callable(getattr(bp.Fit, name))]
    static = {name for name in methods if isinstance(inspect.getattr_static(bp.Fit, name), staticmethod | classmethod)}
    rows = [f"| `{'Fit' if name in static else 'fit'}.{name}` | {first_line(name, bp.Fit)} |" for name in methods]
    parts.append("\n".join(["## What a fit answers", "", "| method | |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {sum(map(len, groups().values()))} names")
