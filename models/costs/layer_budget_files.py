"""Files of budgets by layer: JSON or CSV, a row a tensor, ``tensor``, ``density``, ``weights`` and ``macs``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bayesprune.models.files.json_file import damaged, need, read_json, read_regular
from bayesprune.models.files.new_file import written_over
from bayesprune.models.files.places import expanded

__all__ = ["COLUMNS", "REMEDY", "is_budget_file", "read_rows", "write_rows"]

COLUMNS = ("tensor", "density", "weights", "macs")
"""Of a row; of a CSV file the first two are needed, and empty cells of the others are numbers that are not known."""
REMEDY = "write it again, as LayerBudget.write does"
_ENDS = (".json", ".csv")
_LARGEST = 1 << 26
"""Bytes of a CSV file: a row takes less than a hundred, and no network has so many tensors."""


def is_budget_file(name: str | Path) -> bool:
    """Whether a name ends as the files of budgets do: in .json or .csv."""
    return str(name).lower().endswith(_ENDS)


def write_rows(file: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows, all of them or nothing; an earlier file of a budget is replaced, and no other.

    Args:
        file: A name that ends in .json or .csv; its folder exists.
        rows: One object a tensor, with the keys of `COLUMNS`.

    Raises:
        ValueError: If the name ends otherwise, or something else stands in the place.
        Unwritable: If it cannot be written.
    """
    place, rows = _named(file), [{key: row[key] for key in COLUMNS} for row in rows]
    text = io.StringIO()
    if place.suffix.lower() == ".json":
        text.write(json.dumps({"layers": rows}, indent=2, allow_nan=False) + "\n")
    else:
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    if not place.parent.is_dir():
        raise ValueError(f"there is no folder {place.parent} for {place.name}: make it, or choose another file")
    with written_over(place, _is_ours, "a budget by layer") as staged:
        staged.write_text(text.getvalue(), encoding="utf-8")


def _is_ours(file: Path) -> bool:
    try:
        read_rows(file)
    except ValueError:
        return False
    return True


def read_rows(file: str | Path) -> list[dict[str, Any]]:
    """Reads what `write_rows` has written, or a table written by hand; numbers are numbers, None where not given.

    Args:
        file: A name that ends in .json or .csv.

    Raises:
        ValueError: If it ends otherwise, is missing or damaged, or lacks a column.
    """
    place = _named(file)
    if place.suffix.lower() == ".json":
        rows = read_json(place, REMEDY, {"layers": list})["layers"]
        for row in rows:
            if not isinstance(row, dict):
                raise damaged(place, "layers holds what is no object", REMEDY)
            need(place, row, {"tensor": str, "density": float}, REMEDY)
        return [{key: row.get(key) for key in COLUMNS} for row in rows]
    return _table(place, read_regular(place, REMEDY))


def _named(file: str | Path) -> Path:
    if not is_budget_file(file):
        raise ValueError(f"a budget by layer is a file .json or .csv, not {str(file)!r}: choose such a name")
    return expanded(file)


def _table(place: Path, stored: bytes) -> list[dict[str, Any]]:
    try:
        if len(stored) > _LARGEST:
            raise ValueError("it is too large for a table of layers")
        lines = csv.reader(io.StringIO(stored.decode("utf-8-sig"), newline=""), strict=True)
        table = [[cell.strip() for cell in line] for line in lines if any(cell.strip() for cell in line)]
        header = table[0] if table else []
        lacking = [name for name in COLUMNS[:2] if name not in header]
        if lacking:
            raise ValueError(f"it has no column {' and no column '.join(lacking)}")
        if len(set(header)) < len(header):
            raise ValueError("a column comes twice")
        short = next((line for line in table if len(line) != len(header)), None)
        if short is not None:
            raise ValueError(f"a row has {len(short)} cells, where the header has {len(header)}")
        rows = [dict(zip(header, line, strict=True)) for line in table[1:]]
        return [
            {"tensor": row["tensor"], "density": _number(row["density"], "density"),
             **{key: _whole(row.get(key, ""), key) for key in COLUMNS[2:]}}
            for row in rows
        ]  # fmt: skip
    except (csv.Error, ValueError) as problem:  # those of Unicode are ValueErrors
        raise damaged(place, problem, REMEDY) from problem


def _number(cell: str, column: str) -> float:
    try:
        return float(cell)
    except ValueError as problem:
        raise ValueError(f"{cell[:20]!r} in the column {column} is no number") from problem


def _whole(cell: str, column: str) -> int | None:
    if not cell:
        return None
    number = _number(cell, column)
    if not (number.is_integer() and abs(number) < 2**53):
        raise ValueError(f"{cell[:20]!r} in the column {column} is no whole number")
    return int(number)
