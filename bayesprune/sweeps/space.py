"""What a sweep searches: values of settings of a fit, listed or between bounds."""

from __future__ import annotations

import itertools
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayesprune.models.checks.plain_numbers import plain_number
from bayesprune.models.checks.shown_values import shown
from bayesprune.models.files.json_file import damaged, read_regular
from bayesprune.models.files.places import expanded
from bayesprune.sweeps.fit_settings import PAIRS, checked_settings, known_name, told

__all__ = ["Choices", "Range", "SweepSpace", "parsed_seeds"]

_MOST = 1_000_000
"""Settings that a grid may have, and values of a dimension."""
_BOUNDS = ("low", "high", "log", "step")
_REMEDY = "write [NAME] with choices = [...], or with low and high, and log = true or step"


@dataclass(frozen=True)
class Choices:
    """Values that are tried as they are listed.

    Args:
        values: What JSON holds, each once: numbers, names, true and false, None, or lists of them.

    Raises:
        ValueError: If there is none, or one comes twice.
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if isinstance(self.values, (str, bytes, Mapping)) or not isinstance(self.values, Sequence):
            raise ValueError(f"choices are a list of values, not {shown(self.values)}: write [a, b]")
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise ValueError("choices are empty: list one value at least")
        if len({json.dumps(one) for one in self.values}) < len(self.values):
            raise ValueError(f"choices name a value twice, {', '.join(map(told, self.values))}: name each once")

    @property
    def labels(self) -> tuple[Any, ...]:
        """The values as Optuna holds them: numbers and names as they are, lists as text, and all as text if unequal."""
        plain = all(one is None or isinstance(one, (bool, int, float, str)) for one in self.values)
        unequal = plain and len(set(self.values)) == len(self.values)  # 1 and true are equal, and are two choices
        return self.values if unequal else tuple(json.dumps(one) for one in self.values)

    def suggested(self, name: str, trial: Any) -> Any:
        """One of the values, by Optuna's sampler; a single one asks nothing of it."""
        if len(self.values) == 1:
            return self.values[0]
        labels = self.labels
        label = trial.suggest_categorical(name, labels)
        number = next(n for n, one in enumerate(labels) if type(one) is type(label) and one == label)
        return self.values[number]

    def as_json(self) -> dict[str, Any]:
        """As a file of a space has it."""
        return {"choices": list(self.values)}


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds.

    Args:
        low: The lower bound, which is tried too.
        high: The upper bound, likewise. Two whole numbers search whole numbers: write 1.0 for a real one.
        log: Whether ratios count in place of differences; default False.
        step: Distance between values; default None: any real number, or every whole one.

    Raises:
        ValueError: If the bounds are no finite numbers in this order, `log` has a bound that is not positive or a step,
            or the step is not positive.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            value = plain_number(getattr(self, name))
            object.__setattr__(self, name, value)
            if value is None and name == "step":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"{name} of a range is {shown(value)}: give a finite number")
        if type(self.log) is not bool:
            raise ValueError(f"log of a range is {shown(self.log)}: give true or false")
        if self.low > self.high:
            raise ValueError(f"a range goes from low = {self.low} to high = {self.high}: give the smaller one as low")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("a range with log = true has positive bounds and no step: leave out log, or the step")
        if self.step is not None and (self.step <= 0 or (self.is_whole and not isinstance(self.step, int))):
            raise ValueError(f"step of a range is {self.step}: give a positive number, of whole numbers a whole one")

    @property
    def is_whole(self) -> bool:
        """Whether it searches whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggested(self, name: str, trial: Any) -> Any:
        """A number, by Optuna's sampler."""
        if self.is_whole:
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(name, float(self.low), float(self.high), step=self.step, log=self.log)

    def as_json(self) -> dict[str, Any]:
        """As a file of a space has it."""
        found = {"low": self.low, "high": self.high, "log": self.log, "step": self.step}
        return {name: value for name, value in found.items() if value not in (False, None) or name in ("low", "high")}


@dataclass(frozen=True)
class SweepSpace:
    """What a sweep searches, by the names of `bayesprune fit`.

    Names are options of `bayesprune fit` by their long names, such as ``"learning-rate"``, ``"kl-weight"``,
    ``"prior"`` and ``"recipe"``, or one of their KEY=VALUE settings, ``"set.kappa"`` of the prior,
    ``"budget.density"``, ``"gating.NAME"``, ``"network-set.NAME"`` and ``"recipe-set.NAME"``.

    Args:
        dimensions: By name a `Range`, `Choices`, or a list of values; a single value is the same in all trials.

    Raises:
        ValueError: If there is no dimension, a name is unknown, a value is none that the option takes, or the seed is
            among them.
    """

    dimensions: Mapping[str, Choices | Range]

    def __post_init__(self) -> None:
        if not isinstance(self.dimensions, Mapping) or not self.dimensions:
            raise ValueError("a sweep searches nothing: give --set NAME=A,B,... or --space FILE.toml")
        found: dict[str, Choices | Range] = {}
        for given, values in self.dimensions.items():
            name = known_name(str(given))
            if name in found:
                raise ValueError(f"{name} is searched twice: give it once")
            if name == "seed":
                raise ValueError("seed is no dimension, as all settings are fitted with the same: give --seeds 0-4")
            try:
                dimension = _dimension(values)
                ends = dimension.values if isinstance(dimension, Choices) else (dimension.low, dimension.high)
                checked = tuple(checked_settings({name: one})[name] for one in ends)
                found[name] = Choices(checked) if isinstance(dimension, Choices) else dimension
            except ValueError as problem:
                about = "" if str(problem).startswith(name) else f"{name}: "
                raise ValueError(f"{about}{problem}") from problem
        object.__setattr__(self, "dimensions", found)

    @classmethod
    def read(cls, file: str | Path, sets: Sequence[str] = ()) -> SweepSpace:
        """Reads a TOML file with a table ``[NAME]`` for each dimension.

        A table has ``choices = [...]``, or ``low`` and ``high`` with ``log = true`` or ``step`` where wanted; ``NAME =
        [...]`` is short for choices. ``[set.kappa]`` and ``["set.kappa"]`` are the same.

        Args:
            file: The file.
            sets: Further dimensions, as `parsed` takes them, in place of the file's of that name; default none.

        Raises:
            ValueError: In one sentence, if it cannot be read, a table is something else, or as the class.
        """
        place = expanded(file)
        try:
            tables = tomllib.loads(read_regular(place, "give another --space").decode("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise damaged(place, problem, "write it as TOML") from problem
        try:
            return cls({**cls._tables(tables), **_sets(sets)})
        except ValueError as problem:
            raise ValueError(f"{place}: {problem}") from problem

    @classmethod
    def parsed(cls, sets: Sequence[str]) -> SweepSpace:
        """What texts ``NAME=A,B,...`` say; values are JSON where they can be, else texts.

        Raises:
            ValueError: If one has no equals sign or a name comes twice, or as the class.
        """
        return cls(_sets(sets))

    @classmethod
    def of(cls, as_json: Mapping[str, Any]) -> SweepSpace:
        """The space that `as_json` wrote.

        Raises:
            ValueError: As the class.
        """
        return cls({name: _table(name, table) for name, table in as_json.items()})

    @staticmethod
    def _tables(tables: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, table in tables.items():
            inner = name in PAIRS and isinstance(table, Mapping) and not {"choices", *_BOUNDS} & set(table)
            for key, one in {f"{name}.{key}": one for key, one in table.items()}.items() if inner else [(name, table)]:
                if key in found:
                    raise ValueError(f"{key} is searched twice: give it once")
                found[key] = _table(key, one)
        return found

    @property
    def is_grid(self) -> bool:
        """Whether all dimensions are listed, so that all settings can be tried."""
        return all(isinstance(one, Choices) for one in self.dimensions.values())

    @property
    def size(self) -> float:
        """How many settings there are; infinity where a dimension has bounds."""
        if not self.is_grid:
            return math.inf
        return math.prod(len(one.values) for one in self.dimensions.values() if isinstance(one, Choices))

    @property
    def searched(self) -> tuple[str, ...]:
        """Names of the dimensions that have more than one value."""
        return tuple(n for n, one in self.dimensions.items() if isinstance(one, Range) or len(one.values) > 1)

    def grid(self) -> Iterator[dict[str, Any]]:
        """All settings, the last dimension changing first.

        Raises:
            ValueError: If a dimension has bounds, or there are more than a million.
        """
        if not self.is_grid:
            bounded = next(name for name, one in self.dimensions.items() if isinstance(one, Range))
            raise ValueError(f"{bounded} has bounds and no list of values, so not all can be tried: give --trials N")
        if self.size > _MOST:
            raise ValueError(f"the grid has {self.size:,} settings, which is more than {_MOST:,}: give --trials N")
        values = [one.values for one in self.dimensions.values() if isinstance(one, Choices)]
        return (dict(zip(self.dimensions, row, strict=True)) for row in itertools.product(*values))

    def corners(self) -> list[dict[str, Any]]:
        """The settings of all first values and lower bounds, and those of all last and upper ones."""
        values = [one.values if isinstance(one, Choices) else (one.low, one.high) for one in self.dimensions.values()]
        return [dict(zip(self.dimensions, [row[place] for row in values], strict=True)) for place in (0, -1)]

    def suggested(self, trial: Any) -> dict[str, Any]:
        """Settings that Optuna's sampler suggests for a trial.

        Args:
            trial: An `optuna.Trial`.
        """
        return {name: one.suggested(name, trial) for name, one in self.dimensions.items()}

    def parameters(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings as Optuna's parameters, to be given to a trial: those that are searched, lists as text.

        Args:
            settings: One of `grid`.
        """
        found = {}
        for name in self.searched:
            one = self.dimensions[name]
            if isinstance(one, Choices):
                written = json.dumps(settings[name])
                number = next(n for n, value in enumerate(one.values) if json.dumps(value) == written)
                found[name] = one.labels[number]
            else:
                found[name] = settings[name]
        return found

    def as_json(self) -> dict[str, Any]:
        """As JSON and a file of a space hold it."""
        return {name: one.as_json() for name, one in self.dimensions.items()}


def parsed_seeds(text: str) -> tuple[int, ...]:
    """Seeds of a text, ``"0-4"``, ``"7"`` or ``"0,2,5-8"``.

    Raises:
        ValueError: If it is something else, or a seed comes twice.
    """
    found: list[int] = []
    for part in text.split(","):
        first, hyphen, last = part.strip().partition("-")
        if not first.isdecimal() or (hyphen and not last.isdecimal()) or len(part) > 40:
            raise ValueError(f"--seeds {text[:40]} is no list of seeds: write 0-4 or 0,3,7")
        low, high = int(first), int(last or first)
        if high - low >= _MOST or high >= 2**62:
            raise ValueError(f"--seeds {text[:40]} has too many or too large seeds: give a few below 2^62")
        found += range(low, high + 1)
        if high < low:
            raise ValueError(f"--seeds {text[:40]} goes down from {low} to {high}: give the smaller one first")
    if len(set(found)) < len(found):
        raise ValueError(f"--seeds {text[:40]} names a seed twice: name each once")
    return tuple(found)


def _dimension(given: Any) -> Choices | Range:
    if isinstance(given, (Choices, Range)):
        return given
    if isinstance(given, (list, tuple)):
        return Choices(tuple(given))
    return Choices((given,))


def _table(name: str, table: Any) -> Choices | Range:
    """A dimension of a file."""
    if not isinstance(table, Mapping):
        return _dimension(table)
    others = [key for key in table if key not in ("choices", *_BOUNDS)]
    listed, bounded = set(table) == {"choices"}, "choices" not in table and {"low", "high"} <= set(table)
    if others or not (listed or bounded):
        what = f"has {others[0]!r}" if others else f"has {', '.join(table) or 'nothing'}"
        raise ValueError(f"{name} {what}: {_REMEDY}")
    try:
        return Choices(table["choices"]) if listed else Range(**table)
    except ValueError as problem:
        raise ValueError(f"{name}: {problem}") from problem


def _sets(sets: Sequence[str]) -> dict[str, Choices]:
    """Dimensions of texts ``NAME=A,B,...``."""
    found: dict[str, Choices] = {}
    for text in sets:
        name, equals, values = text.partition("=")
        if not equals or not name or not values:
            raise ValueError(f"--set takes NAME=A,B,... in a sweep, not {text!r}")
        if name in found:
            raise ValueError(f"--set gives {name} twice: list its values once, {name}=A,B")
        found[name] = Choices(tuple(_values(values)))
    return found


def _values(text: str) -> list[Any]:
    """Values between commas: JSON where all of it can be, and else each by itself."""
    try:
        return list(json.loads(f"[{text}]"))
    except (ValueError, RecursionError):
        return [_value(one) for one in text.split(",")]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
