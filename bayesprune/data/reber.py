"""Strings of the Reber grammar (Reber 1967) and of the embedded one (Hochreiter & Schmidhuber 1997), and invalid ones.

A valid string is a walk through an automaton of eight states. The embedded grammar puts one in between two equal
letters, B T [string] T E or B P [string] P E, so that the first of them has to be remembered until the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayesprune.models.checks.given_numbers import checked_seed

__all__ = [
    "NEGATIVES",
    "Leakage",
    "ReberStrings",
    "accepts",
    "letters_of",
    "n_gram_leakage",
    "reber_strings",
    "tokens_of",
]

NEGATIVES = ("foreign", "permuted-edges", "swapped-first", "substituted", "mismatched-ends")
"""Kinds of invalid strings; the last one is of the embedded grammar alone."""

# (from, letter, to); a walk starts in state 0 and ends in 7, and takes either way where there are two.
_EDGES = (
    (0, "B", 1), (1, "T", 2), (1, "P", 3), (2, "S", 2), (2, "X", 4), (3, "T", 3), (3, "V", 5), (4, "X", 3), (4, "S", 6),
    (5, "P", 4), (5, "V", 6), (6, "E", 7),
)  # fmt: skip
_END = 7
_STEP = {(state, letter): number for number, (state, letter, _) in enumerate(_EDGES)}
_INNER = "".join(letter for _, letter, _ in _EDGES[1:-1])
_LEGAL = "BEPSTVX"
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FRAME = 4  # letters that the embedded grammar puts around a string
_SHORTEST = 5
_AT_ONCE, _MOST_DRAWS, _MOST_TRIES = 50_000, 50_000_000, 1000
_Array = NDArray[np.int64]


@dataclass(frozen=True)
class ReberStrings:
    """Strings, valid and invalid ones in random order.

    Attributes:
        strings: The strings, of letters from A to Z.
        labels: 1 for a valid one, 0 for an invalid one.
        kinds: ``"valid"``, or the kind of invalid string.
    """

    strings: tuple[str, ...]
    labels: tuple[int, ...]
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.strings)

    def __getitem__(self, part: slice) -> ReberStrings:
        return ReberStrings(self.strings[part], self.labels[part], self.kinds[part])


@dataclass(frozen=True)
class Leakage:
    """How well strings are told apart without a memory: accuracies on test strings of rules read off training strings.

    Attributes:
        n_grams: By n: a string counts as valid if each n letters in a row stand in some valid training string. That of
            1 is the test for illegal letters.
        length: By the length alone, longer or shorter than the best threshold.
        majority: Always the commoner label.
    """

    n_grams: dict[int, float]
    length: float
    majority: float

    def __str__(self) -> str:
        rows = [("majority", self.majority), ("length", self.length)]
        rows += [(f"legal {n}-grams", found) for n, found in self.n_grams.items()]
        return "\n".join(f"{name:<14} {found:7.2%}" for name, found in rows)


def accepts(string: str, embedded: bool = False) -> bool:
    """Whether a string is one of the grammar.

    Args:
        string: The string.
        embedded: Whether the embedded grammar is meant; default False.
    """
    if embedded:
        framed = len(string) > _FRAME and string[0] == "B" and string[-1] == "E"
        return framed and string[1] in "TP" and string[1] == string[-2] and accepts(string[2:-2])
    return _walk(string) is not None


def reber_strings(
    n: int,
    embedded: bool = False,
    min_length: int = 11,
    max_length: int | None = None,
    unique: bool = True,
    negatives: Sequence[str] | None = None,
    length_matched: bool = True,
    seed: int = 0,
) -> ReberStrings:
    """Draws strings, half of them valid, by a fair coin wherever the automaton has two ways.

    An invalid string is made of a valid one, its base, and always begins with B and ends with E; the kinds take turns.
    ``"foreign"``: the walk of the base through the automaton with other letters on its edges, some of which the grammar
    does not have. ``"permuted-edges"``: that with the grammar's own letters on other edges. ``"swapped-first"``: T in
    place of P as the first choice, or P in place of T. ``"substituted"``: another of the grammar's letters at one
    place. ``"mismatched-ends"``, of the embedded grammar: the letter before the end is not that after the beginning.
    Three letters in a row tell all but the last from valid ones (`n_gram_leakage`); only the last needs a memory.

    Args:
        n: How many strings.
        embedded: Whether strings are of the embedded grammar; default False. Lengths count its four letters, too.
        min_length: Of a string; default 11, as published.
        max_length: Of a string; default None: no bound.
        unique: Whether no string comes twice, which makes them longer, as the short ones are soon used up; default
            True.
        negatives: Kinds of invalid strings of `NEGATIVES`; default None: all that the plain grammar has, and
            ``"mismatched-ends"`` alone for the embedded one.
        length_matched: Whether the bases are the valid strings themselves (default True), so that lengths say nothing.
            False: others as they are drawn, which come more than once where their changes differ, and so are shorter,
            as in the published data.
        seed: Of the draws; default 0.

    Returns:
        The strings, in random order; with an odd `n` one more valid one.

    Raises:
        ValueError: If `n` is below 2, a kind is unknown or none is given, or there are too few strings of such lengths.
    """
    if n < 2:
        raise ValueError(f"n is {n}, but 2 strings at least are expected, a valid one and an invalid one")
    kinds = _checked_kinds(negatives, embedded)
    frame = _FRAME if embedded else 0
    least, most = max(min_length - frame, _SHORTEST), None if max_length is None else max_length - frame
    if most is not None and most < least:
        raise ValueError(
            f"max_length is {max_length}, but strings have at least {least + frame} letters: give more, or a smaller "
            "min_length"
        )
    generator = np.random.default_rng(checked_seed(seed, least=0))
    count = n - n // 2
    valid = _valid(count, embedded, least, most, unique, generator)
    others = _others(valid, generator) if length_matched else _strings(embedded, least, most, generator)
    seen = set[str](valid) if unique else None
    invalid = []
    for number, base in enumerate(valid[: n // 2]):
        kind = kinds[number % len(kinds)]
        bases = itertools.chain([base], others) if length_matched else others
        invalid.append((_invalid(kind, bases, embedded, seen, generator), 0, kind))
    everything = [(string, 1, "valid") for string in valid] + invalid
    order = generator.permutation(len(everything))
    strings, labels, names = zip(*(everything[place] for place in order), strict=True)
    return ReberStrings(strings, labels, names)


def n_gram_leakage(train: ReberStrings, test: ReberStrings, most: int = 4) -> Leakage:
    """How well strings are told apart by a few letters in a row, or by their lengths.

    Args:
        train: Strings that the rules are read off.
        test: Strings that they are tried on.
        most: Letters in a row, up to which; default 4.
    """
    truth = np.array(test.labels)
    found = {}
    for n in range(1, most + 1):
        legal = {gram for string, label in zip(train.strings, train.labels, strict=True) if label
                 for gram in _grams(string, n)}  # fmt: skip
        passed = np.array([all(gram in legal for gram in _grams(string, n)) for string in test.strings])
        found[n] = float((passed == truth).mean())
    lengths, labels = np.array([len(string) for string in train.strings]), np.array(train.labels)
    above = {cut: float(((lengths > cut) == labels).mean()) for cut in range(lengths.max() + 1)}
    cut = max(above, key=lambda cut: max(above[cut], 1.0 - above[cut]))
    longer = np.array([len(string) for string in test.strings]) > cut
    by_length = float((longer == truth).mean())
    commoner = int(labels.mean() >= 0.5)
    return Leakage(found, by_length if above[cut] >= 0.5 else 1.0 - by_length, float((truth == commoner).mean()))


def tokens_of(strings: Sequence[str], steps: int | None = None) -> _Array:
    """Strings as tokens: the ASCII code of each letter, and zeros after the end.

    Args:
        strings: The strings.
        steps: Tokens in a row; default None: as many as the longest string has letters.

    Returns:
        `(N, steps)`.

    Raises:
        ValueError: If a string is longer than that.
    """
    longest = max(map(len, strings), default=0)
    steps = longest if steps is None else steps
    if longest > steps:
        raise ValueError(f"a string has {longest} letters, but there are {steps} steps: give more")
    found = np.zeros((len(strings), steps), dtype=np.int64)
    for row, string in zip(found, strings, strict=True):
        row[: len(string)] = np.frombuffer(string.encode("ascii"), dtype=np.uint8)
    return found


def letters_of(tokens: _Array) -> tuple[str, ...]:
    """The strings that `tokens_of` made tokens of.

    Args:
        tokens: `(N, steps)`.
    """
    return tuple(bytes(row[row != 0].astype(np.uint8)).decode("ascii") for row in np.asarray(tokens))


# ------------------------------------------------------------------------------------------------------------- drawing


def _checked_kinds(negatives: Sequence[str] | None, embedded: bool) -> tuple[str, ...]:
    known = NEGATIVES if embedded else NEGATIVES[:-1]
    kinds = tuple(NEGATIVES[-1:] if embedded else known) if negatives is None else tuple(negatives)
    wrong = [kind for kind in kinds if kind not in known]
    if isinstance(negatives, str) or not kinds or wrong:
        grammar = "embedded" if embedded else "plain"
        raise ValueError(
            f"negatives={negatives!r} are no kinds of invalid strings of the {grammar} grammar: give some of "
            f"{', '.join(known)}, in a tuple"
        )
    return kinds


def _walk(string: str) -> list[int] | None:
    """The edges that a string goes along, or None if it does not come to the end."""
    state, edges = 0, []
    for letter in string:
        edge = _STEP.get((state, letter))
        if edge is None:
            return None
        edges.append(edge)
        state = _EDGES[edge][2]
    return edges if state == _END else None


def _valid(
    count: int, embedded: bool, least: int, most: int | None, unique: bool, generator: np.random.Generator
) -> list[str]:
    """Valid strings whose inner part has a length between these."""
    found: dict[str, None] | list[str] = {} if unique else []
    for string in _strings(embedded, least, most, generator):
        if isinstance(found, dict):
            found[string] = None
        else:
            found.append(string)
        if len(found) == count:
            return list(found)
    raise ValueError(
        f"{len(found)} valid strings of these lengths came out of {_MOST_DRAWS:,} draws, but {count} are asked for: "
        "ask for fewer, allow longer ones, or give unique=False"
    )


def _strings(embedded: bool, least: int, most: int | None, generator: np.random.Generator) -> Iterator[str]:
    """Valid strings as they are drawn, framed where they are embedded."""
    for string in _walks(least, most, generator):
        end = "TP"[generator.integers(2)] if embedded else ""
        yield f"B{end}{string}{end}E" if embedded else string


def _others(valid: Sequence[str], generator: np.random.Generator) -> Iterator[str]:
    """Some of these strings again and again."""
    while True:
        yield valid[int(generator.integers(len(valid)))]


def _walks(least: int, most: int | None, generator: np.random.Generator) -> Iterator[str]:
    """Valid strings of the plain grammar between two lengths, many walks side by side."""
    letters, following = np.zeros((2, _END, 2), dtype=np.uint8)
    for state in range(_END):
        ways = [(ord(letter), to) for begin, letter, to in _EDGES if begin == state]
        letters[state], following[state] = zip(ways[0], ways[-1], strict=True)
    for _ in range(_MOST_DRAWS // _AT_ONCE):
        states = np.zeros(_AT_ONCE, dtype=np.int64)
        ended = np.zeros(_AT_ONCE, dtype=np.int64)
        columns: list[NDArray[np.uint8]] = []
        while (alive := states != _END).any() and (most is None or len(columns) <= most):
            chosen = generator.integers(2, size=_AT_ONCE)
            at = np.where(alive, states, 0)
            columns.append(np.where(alive, letters[at, chosen], 0).astype(np.uint8))
            states = np.where(alive, following[at, chosen], _END)
            ended[alive & (states == _END)] = len(columns)
        rows = np.stack(columns, 1)
        for place in np.flatnonzero((ended >= least) & (ended <= (most or len(columns)))):
            yield rows[place, : ended[place]].tobytes().decode("ascii")


def _invalid(
    kind: str, bases: Iterator[str], embedded: bool, seen: set[str] | None, generator: np.random.Generator
) -> str:
    """An invalid string of the first base of which something new comes; it is noted among those seen."""
    for base in itertools.islice(bases, _MOST_TRIES):
        string = _changed(kind, base, embedded, generator)
        if accepts(string, embedded) or (seen is not None and string in seen):
            continue
        if seen is not None:
            seen.add(string)
        return string
    raise ValueError(
        f"there are too few invalid strings of the kind {kind!r} of such lengths: ask for fewer, or longer"
    )


def _changed(kind: str, base: str, embedded: bool, generator: np.random.Generator) -> str:
    """A string with one change of this kind; it may be valid still."""
    before, inner, after = (base[:2], base[2:-2], base[-2:]) if embedded else ("", base, "")
    if kind == "mismatched-ends":
        after = {"T": "P", "P": "T"}[base[1]] + "E"
    elif kind == "swapped-first":
        inner = f"B{'P' if inner[1] == 'T' else 'T'}{inner[2:]}"
    elif kind == "substituted":
        place = int(generator.integers(1, len(inner) - 1))
        others = [letter for letter in _LEGAL if letter != inner[place]]
        inner = inner[:place] + others[generator.integers(len(others))] + inner[place + 1 :]
    else:
        edges = _walk(inner)
        assert edges is not None
        letters = list(_INNER)
        if kind == "foreign":
            letters = [_ALPHABET[place] for place in generator.choice(len(_ALPHABET), len(letters))]
            used = sorted({edge for edge in edges[1:-1]})
            foreign = [letter for letter in _ALPHABET if letter not in _LEGAL]
            letters[used[generator.integers(len(used))] - 1] = foreign[generator.integers(len(foreign))]
        else:
            letters = [letters[place] for place in generator.permutation(len(letters))]
        inner = "B" + "".join(letters[edge - 1] for edge in edges[1:-1]) + "E"
    return before + inner + after


def _grams(string: str, n: int) -> Iterator[str]:
    return (string[at : at + n] for at in range(len(string) - n + 1))
