"""A path on disk: the fit of every finished point, and an index of what was asked for and measured.

    FOLDER/path.json     the index; replaced after every point: a run that is killed loses only the point in work
    FOLDER/point-000     the fit of the first value (of `Fit.save`), and so on

Keys of path.json:

    format               number of this format
    knob, values         name of the prior's knob; its values, in the order in which they are fitted
    declarations         fingerprint of the model at each value: priors, shapes of parameters, likelihood, data_size
    data                 fingerprints of the training data and of the splits to score on
    arguments            everything else that was asked for: epochs, first_epochs, restarts, kl_warmup, latency,
                         prunings (null: the default), fit (further arguments of `fit`; callables by their names)
    declaration          what the caller said of how the models are made, or null
    prunings             how the networks of every point are pruned; null before the first point
    points               one object a finished point: seconds, fits, networks, notes (of `path_point.measure`)
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import torch

from bayesprune.inference.batches import Data
from bayesprune.inference.result import Fit
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.files.json_file import damaged, need, read_json, write_json
from bayesprune.models.files.staging import OWNER_FILE, clear_leftovers
from bayesprune.models.files.unwritable import Unwritable, permitted

__all__ = [
    "INDEX_FILE",
    "add_point",
    "data_fingerprint",
    "model_fingerprint",
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


def model_fingerprint(model: BayesianNetwork) -> str:
    """Sixteen hexadecimal digits that change when what is declared changes; starting weights do not count."""
    declared = {
        "priors": {pattern: hierarchy.fingerprint() for pattern, hierarchy in model.patterns.items()},
        "shapes": {name: list(value.shape) for name, value in model.network.state_dict().items()},
        "likelihood": model.likelihood.config(),
        "data_size": model.data_size,
    }
    return _digest(json.dumps(declared).encode())


def data_fingerprint(data: Data) -> str:
    """Sixteen hexadecimal digits of tensors; of a `Dataset` or a loader, whose content is not read, type and size."""
    if isinstance(data, (tuple, list)) and all(torch.is_tensor(part) for part in data):
        heads = [f"{part.dtype} {tuple(part.shape)}".encode() for part in data]
        return _digest(*heads, *(part.detach().cpu().contiguous().view(torch.uint8).numpy() for part in data))
    return f"{type(data).__name__} of {len(data) if isinstance(data, Sized) else 'unknown'} elements"


def point_folder(folder: Path, number: int) -> Path:
    """The folder of a point's fit, counted from 0."""
    return folder / f"point-{number:03d}"


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
    pairs: list[tuple[str, Any, Any]] = [
        ("knob", index.get("knob"), asked["knob"]),
        ("values", index["values"][:done], asked["values"][:done]),
        ("the model's fingerprints", index.get("declarations", [])[:done], asked["declarations"][:done]),
    ]
    for group in ("declaration", "arguments", "data"):
        before, now = index.get(group) or {}, asked[group] or {}
        pairs += [(key, before.get(key), now.get(key)) for key in {**before, **now}]
    for name, before, now in pairs:
        if before != now:
            raise ValueError(
                f"{folder} holds a path with {name} {before}, but now it is {now}: call it with the arguments of "
                "then to go on, or choose another folder"
            )


def _digest(*parts: Any) -> str:
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def described(value: Any) -> Any:
    """A value as JSON holds it; callables and other objects by the names of their code."""
    if isinstance(value, Mapping):
        return {str(key): described(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [described(one) for one in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
