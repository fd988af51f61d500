"""Damaged JSON: a value taken out or replaced anywhere in a document, or the text itself spoilt."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DEEP = 100_000
DROP = "drop"

VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "zero": 0,
    "minus one": -1,
    "a fraction": 2.5,
    "a huge integer": 10**30,
    "64 bits": 2**63,
    "a million": 10**6,
    "1e308": 1e308,
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "-Infinity": float("-inf"),
    "an empty text": "",
    "a text": "x",
    "a number as text": "3",
    "a long text": "long " * 20_000,
    "control characters": "\x1b[31mred\x07\x00\r",
    "a C1 control character": "\x9b31m",
    "half a surrogate": "\ud800",
    "own code": "evil:f",
    "a function of the standard library": "subprocess:call",
    "a path": "../../../etc/passwd",
    "an empty list": [],
    "a list": [1, "two", None],
    "a list of lists": [[[1]]],
    "an empty object": {},
    "an object": {"name": {"name": 1}},
    "a thousand numbers": list(range(1000)),
}
"""What a value is replaced by."""


def paths(document: Any, depth: int = 5) -> Iterator[tuple[str | int, ...]]:
    """Where values stand in a document; of a list the first two elements."""
    items: Iterator[tuple[Any, Any]]
    if isinstance(document, dict):
        items = iter(document.items())
    elif isinstance(document, list):
        items = iter(enumerate(document[:2]))
    else:
        return
    for key, value in items:
        yield (key,)
        if depth > 1:
            yield from ((key, *more) for more in paths(value, depth - 1))


def replace(file: Path, where: tuple[str | int, ...], kind: str) -> None:
    """Puts the value of that kind in the place of another, or takes it out (``"drop"``)."""
    document = json.loads(file.read_text())
    holder = document
    for key in where[:-1]:
        holder = holder[key]
    if kind == DROP:
        del holder[where[-1]]
    else:
        holder[where[-1]] = VALUES[kind]
    file.write_text(json.dumps(document))


def spoilt(kind: str, text: str, rng: random.Random) -> bytes:
    """The text of a JSON file, spoilt in one of the ways of `TEXTS`."""
    return TEXTS[kind](text, rng)


def _flip(text: str, rng: random.Random) -> bytes:
    raw = bytearray(text.encode())
    for _ in range(3):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(raw)


TEXTS: dict[str, Callable[[str, random.Random], bytes]] = {
    "truncated": lambda text, rng: text.encode()[: rng.randrange(1, len(text) - 2)],
    "one byte short of its brace": lambda text, rng: text.rstrip().encode()[:-1],
    "empty": lambda text, rng: b"",
    "blank": lambda text, rng: b"  \n",
    "not UTF-8": lambda text, rng: text.encode().replace(b'"', b'"\xff\xfe', 1),
    "latin-1": lambda text, rng: text.replace('"', '"\xe9', 1).encode("latin-1"),
    "UTF-16": lambda text, rng: text.encode("utf-16"),
    "a byte order mark": lambda text, rng: b"\xef\xbb\xbf" + text.encode(),
    "nested lists": lambda text, rng: b"[" * DEEP + b"]" * DEEP,
    "nested objects": lambda text, rng: b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "nesting inside": lambda text, rng: text.encode().replace(b"{", b'{"a": ' + b"[" * DEEP + b"]" * DEEP + b", ", 1),
    "an integer of 10,000 digits": lambda text, rng: text.encode().replace(b"{", b'{"a": ' + b"9" * 10_000 + b", ", 1),
    "duplicate keys": lambda text, rng: text.encode().replace(b"{", b"{" + _first_pair(text) + b", ", 1),
    "a list": lambda text, rng: b"[" + text.encode() + b"]",
    "null": lambda text, rng: b"null",
    "a number": lambda text, rng: b"3",
    "a text": lambda text, rng: b'"summary"',
    "an empty object": lambda text, rng: b"{}",
    "zero bytes": lambda text, rng: bytes(len(text)),
    "two documents": lambda text, rng: text.encode() * 2,
    "flipped bits": _flip,
    "an ELF file": lambda text, rng: b"\x7fELF\x02\x01\x01" + bytes(200),
}


def _first_pair(text: str) -> bytes:
    key = next(iter(json.loads(text)))
    return json.dumps({key: [None]}).encode()[1:-1]
