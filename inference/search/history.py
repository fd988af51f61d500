"""Trainings of a search, one after the other, and the folder that keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayesprune.models.files.json_file import damaged, need, read_json, write_json
from bayesprune.models.files.places import expanded
from bayesprune.models.files.unwritable import Unwritable, permitted
from bayesprune.models.genomes.genome import Genome

__all__ = ["SEARCH_FILE", "Training", "best_of", "found_genome", "open_history", "read_search", "write_history"]

FORMAT = 1
SEARCH_FILE = "search.json"
REMEDY = "begin the search anew in another folder"
_NUMBER = (float, type(None))
_ROW: dict[str, Any] = {
    "number": int, "genome": dict, "hash": str, "score": _NUMBER, "parents": list, "operator": str, "parameters": int,
    "seconds": float, "predicted": _NUMBER, "predicted_sd": _NUMBER, "rank_correlation": _NUMBER,
    "problem": (str, type(None)),
}  # fmt: skip


@dataclass(frozen=True)
class Training:
    """A training of a search.

    Attributes:
        number: Its number, from 0.
        genome: What was trained, pruned.
        score: Its validation score, more is better; None where the training failed.
        parents: Numbers of the trainings whose genomes it was made of; none of a random one.
        operator: What made it: the name of a mutation or a crossover, or ``"random"``.
        parameters: Parameters of its network.
        seconds: How long the training took.
        predicted: What the surrogate had predicted; None without one.
        predicted_sd: The standard deviation of that.
        rank_correlation: Spearman's, of all predictions up to the round before this one with what was measured; None
            of fewer than three.
        problem: Why it failed, in words; None where it did not.
    """

    number: int
    genome: Genome
    score: float | None
    parents: tuple[int, ...]
    operator: str
    parameters: int
    seconds: float
    predicted: float | None = None
    predicted_sd: float | None = None
    rank_correlation: float | None = None
    problem: str | None = None

    @property
    def hash(self) -> str:
        """That of its genome."""
        return self.genome.hash

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON holds it."""
        own = {name: getattr(self, name) for name in _ROW if name != "genome"}
        return {**own, "genome": self.genome.as_dict(), "parents": list(self.parents)}


def open_history(folder: Path, asked: Mapping[str, Any]) -> list[Training]:
    """Makes the folder of a search, or takes up one of the same arguments.

    Args:
        folder: It must not exist, be empty, or be that of a search.
        asked: What is asked for, as JSON holds it; ``trainings`` may be another number than then.

    Returns:
        The trainings that it keeps.

    Raises:
        ValueError: In one sentence, if something else stands there, other arguments were asked for then, a file is
            damaged, or it cannot be written.
    """
    now = json.loads(json.dumps(asked))  # as it is read back: tuples are lists there
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / SEARCH_FILE).exists():
            if any(one for one in folder.iterdir() if not one.name.startswith(f".{SEARCH_FILE}-")):
                raise ValueError(f"{folder} exists and is no search: choose another folder")
            before, kept = now, list[Training]()
        else:
            before, kept = read_search(folder)
        for stale in folder.glob(f".{SEARCH_FILE}-*"):  # what a process that was killed was writing
            stale.unlink()
        for name in {**now, **before}:
            if name != "trainings" and before.get(name) != now.get(name):
                what, then, here = _first_difference(name, before.get(name), now.get(name))
                raise ValueError(
                    f"{folder} keeps a search with {what} {_told(then)}, but now it is {_told(here)}: call it with the "
                    "arguments of then to go on, or choose another folder"
                )
        with permitted():
            write_history(folder, now, kept)
    except Unwritable:
        raise
    except OSError as problem:
        raise ValueError(
            f"{folder} cannot be written ({problem.strerror}): choose a folder that you may write to"
        ) from problem
    return kept


def write_history(folder: Path, asked: Mapping[str, Any], trainings: list[Training]) -> None:
    """Writes all of a search, whole or not at all.

    Args:
        folder: Its folder.
        asked: What was asked for.
        trainings: The trainings so far.

    Raises:
        Unwritable: If it cannot be written.
    """
    rows = [training.as_dict() for training in trainings]
    write_json(folder / SEARCH_FILE, {"format": FORMAT, "asked": asked, "trainings": rows})


def read_search(folder: Path) -> tuple[dict[str, Any], list[Training]]:
    """Reads what was asked for and the trainings of a search.

    Args:
        folder: Its folder.

    Raises:
        ValueError: In one sentence, if there is none, or it is damaged.
    """
    file = folder / SEARCH_FILE
    if not file.is_file():
        raise ValueError(f"{folder} is no search: it has no {SEARCH_FILE}")
    found = read_json(file, REMEDY, {"format": int})
    if found["format"] != FORMAT:
        raise damaged(file, f"it was written in format {found['format']}, but this version reads {FORMAT}", REMEDY)
    need(file, found, {"asked": dict, "trainings": list}, REMEDY)
    rows: list[Training] = []
    for number, row in enumerate(found["trainings"]):
        if not isinstance(row, dict) or set(row) != set(_ROW):
            raise damaged(file, "its trainings have other keys", REMEDY)
        need(file, row, _ROW, REMEDY)
        parents = row["parents"]
        if row["number"] != number or not all(type(one) is int and 0 <= one < number for one in parents):
            raise damaged(file, "its trainings are in another order", REMEDY)
        if (row["score"] is None) != (row["problem"] is not None):
            raise damaged(file, f"training {number} has neither a score nor a problem", REMEDY)
        try:
            genome = Genome.from_dict(row["genome"])
        except ValueError as problem:
            raise damaged(file, problem, REMEDY) from problem
        if genome.hash != row["hash"]:
            raise damaged(file, f"the genome of training {number} has another hash", REMEDY)
        rest = {name: value for name, value in row.items() if name not in ("genome", "hash", "parents")}
        rows.append(Training(genome=genome, parents=tuple(parents), **rest))
    return found["asked"], rows


def best_of(trainings: list[Training]) -> Training | None:
    """The training of the best score, of equal ones the first; None where all have failed."""
    scored = [training for training in trainings if training.score is not None]
    return max(scored, key=lambda training: (training.score, -training.number)) if scored else None


def found_genome(path: str | Path) -> Genome:
    """The best genome that a search has found, or the one in a file.

    Args:
        path: The folder of a search, or a JSON file of a genome (`Genome.as_dict`).

    Raises:
        ValueError: In one sentence, if it is neither, or damaged, or no training of the search has a score.
    """
    place = expanded(path)
    if not place.is_dir():
        found = read_json(place, "give the folder of a search, or a file with a genome")
        try:
            return Genome.from_dict(found)
        except ValueError as problem:
            raise ValueError(f"{place} holds no genome: {problem}") from problem
    best = best_of(read_search(place)[1])
    if best is None:
        raise ValueError(f"no training of the search in {place} has a score: go on with it")
    return best.genome


def _first_difference(name: str, then: Any, now: Any) -> tuple[str, Any, Any]:
    """The name of an argument that differs, or of what differs inside of it, and both values."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in {**now, **then}:
            if then.get(key) != now.get(key):
                return _first_difference(f"{name} {key}", then.get(key), now.get(key))
    return name, then, now


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
