"""A path on disk: the fit of every finished point, and an index of what was asked for and measured.

    FOLDER/path.json     the index; replaced after every point: a run that is killed loses only the point in work
    FOLDER/point-000     the fit of the first value (of `Fit.save`), and so on

Keys of path.json:

    format               number of this format
    knob, values         name of the prior's knob; its values, in the order in which they are fitted
    declarations         fingerprint of the model at each value: priors, shapes, likelihood, data_size; types of modules
    data                 fingerprints of the training data and of the splits to score on
    arguments            everything else that was asked for: epochs, first_epochs, restarts, kl_warmup, latency,
                         prunings (null: the default), fit (further arguments of `fit`; callables by their names)
    declaration          what the caller said of how the models are made, or null
    prunings             how the networks of every point are pruned; null before the first point
    points               one object a finished point: seconds, fits, networks, notes (of `point.measure`)
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayesprune.inference.data.fingerprints import as_then, names_of_today
from bayesprune.inference.fit_result import Fit
from bayesprune.models.checks.renamed_arguments import by_new_names
from bayesprune.models.files.json_file import damaged, need, read_json, write_json
from bayesprune.models.files.staging import OWNER_FILE, clear_leftovers
from bayesprune.models.files.unwritable import Unwritable, permitted

__all__ = [
    "INDEX_FILE",
    "add_point",
    "open_index",
    "point_folder",
    "read_index",
]

FORMAT = 1
INDEX_FILE = "path.json"
REMEDY = "begin the path anew in another folder"
_KEYS: dict[str, Any] = {
    "format": int, "knob": str, "values": list, "declarations": list, "arguments": dict,
    "prunings": (list, type(None)), "points": list,
}  # fmt: skip


def point_folder(folder: Path, number: int) -> Path:
    """The folder of a point's fit, counted from 0."""
    return folder / f"point-{number:03d}"


_THEN = {"kl_weight": (None, 1.0), "particles": (1,), "kl_warmup": (0.2, 0.0)}
"""What stands for arguments that a path of an earlier version, which kept no rules, does not name."""


def open_index(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Makes the folder of a path, or takes up one whose arguments are the same.

    Args:
        folder: The folder; it must not exist, be empty, or be that of a path.
        asked: What is asked for, the keys of path.json less ``format``, ``prunings`` and ``points``. The values may go
            on from those of the folder.

    Returns:
        The index.

    Raises:
        ValueError: If something else stands in the folder, other arguments were asked for then, or it cannot be
            written to.
        OSError: If the disk is full.
    """
    try:
        asked = json.loads(json.dumps(asked, allow_nan=False))  # as it is read back: tuples are lists there
    except (TypeError, ValueError) as problem:
        raise ValueError(
            f"an argument cannot be written to {folder} as JSON ({problem}): give numbers, names and lists of them"
        ) from problem
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / INDEX_FILE).exists():
            if any(folder.iterdir()):
                raise ValueError(f"{folder} exists and is no path: choose another folder")
            index = {"format": FORMAT, **asked, "prunings": None, "points": []}
        else:
            index = read_index(folder)
            _compare(folder, index, asked)
            index |= asked
        for stale in folder.glob(".point-*"):  # what a run that was killed was writing
            if not re.fullmatch(r"\.point-\d{3}-\w{8}", stale.name):
                continue  # somebody's own
            clear_leftovers(folder.absolute() / stale.name[1:].rpartition("-")[0])
            if stale.is_dir() and not (stale / OWNER_FILE).exists():  # of earlier versions
                shutil.rmtree(stale)
        for stale in folder.glob(f".{INDEX_FILE}-*"):
            stale.unlink()
        with permitted():
            write_json(folder / INDEX_FILE, index)
    except Unwritable:
        raise
    except OSError as problem:
        raise ValueError(
            f"{folder} cannot be written ({problem.strerror}): choose a folder that you may write to"
        ) from problem
    return index


def add_point(folder: Path, index: dict[str, Any], fit: Fit, point: dict[str, Any]) -> None:
    """Writes a finished point: first its fit, then the index that names it."""
    fit.save(point_folder(folder, len(index["points"])), overwrite=True)
    index["points"].append(point)
    write_json(folder / INDEX_FILE, index)


def read_index(folder: Path) -> dict[str, Any]:
    """Reads path.json.

    Raises:
        ValueError: If there is none, it is damaged, or of another format.
    """
    file = folder / INDEX_FILE
    if not file.is_file():
        raise ValueError(f"{folder} is no path: it has no {INDEX_FILE}")
    index = read_json(file, REMEDY)
    need(file, index, {"format": int}, REMEDY)
    if index["format"] != FORMAT:
        raise damaged(file, f"it was written in format {index['format']}, but this version reads {FORMAT}", REMEDY)
    need(file, index, _KEYS, REMEDY)
    for group in ("declaration", "data"):
        if not isinstance(index.get(group), (dict, type(None))):
            raise damaged(file, f"{group} is no object", REMEDY)
    if len(index["points"]) > min(len(index["values"]), len(index["declarations"])):
        raise damaged(file, "it has more points than values", REMEDY)
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in index["values"]):
        raise damaged(file, "its values are not all numbers", REMEDY)
    return index


def _compare(folder: Path, index: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuses to go on with other arguments; further values are welcome."""
    done = len(index["points"])
    models = index.get("declarations", [])[:done]
    now_models = [as_then(*each) for each in zip(asked["declarations"], models, strict=False)]
    pairs: list[tuple[str, Any, Any]] = [
        ("knob", index.get("knob"), asked["knob"]),
        ("values", index["values"][:done], asked["values"][:done]),
        ("the model's fingerprints", models, now_models),
    ]
    for group in ("declaration", "arguments", "data"):
        before, now = index.get(group) or {}, asked[group] or {}
        if group == "arguments" and isinstance(before.get("fit"), Mapping):
            before = {**before, "fit": names_of_today(by_new_names(before["fit"]))}
        if group == "arguments" and "rules" not in before:
            now = _as_told(before, now)
        pairs += [(key, before.get(key), now.get(key)) for key in {**before, **now}]
    for name, before, now in pairs:
        if name == "rules" and before != now and now:
            raise ValueError(
                f"{folder} holds a path of an earlier version, whose fits had other defaults of {' and '.join(now)}: "
                "give these as they were then (1, and 0.2 or for points 0), or choose another folder"
            )
        if before != now and name not in ("rules", "notes"):  # notes are said of what was asked for
            raise ValueError(
                f"{folder} holds a path with {name} {before}, but now it is {now}: call it with the arguments of "
                "then to go on, or choose another folder"
            )


def _as_told(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments without those that only say what a path of an earlier version took by default."""
    told, fit = {**now}, {**now["fit"]}
    told["fit"] = fit
    then = before.get("fit") or {}
    for name in ("kl_weight", "particles"):
        if name not in then and name in fit and fit[name] in _THEN[name]:
            del fit[name]
    if before.get("kl_warmup") is None and told["kl_warmup"] in _THEN["kl_warmup"]:
        told["kl_warmup"] = None
    return told
