"""Damaged binary files, and things that are no file in a file's place."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Harm = Callable[[Path, random.Random], None]


def _bytes(change: Callable[[bytes, random.Random], bytes]) -> Harm:
    return lambda file, rng: file.write_bytes(change(file.read_bytes(), rng)) and None


def _flip(first: float, last: float, count: int) -> Callable[[bytes, random.Random], bytes]:
    """Flips bits between two shares of the length."""

    def change(raw: bytes, rng: random.Random) -> bytes:
        found = bytearray(raw)
        low, high = int(first * len(raw)), max(int(first * len(raw)) + 1, int(last * len(raw)))
        for _ in range(count):
            found[rng.randrange(low, high)] ^= 1 << rng.randrange(8)
        return bytes(found)

    return change


BYTES: dict[str, Harm] = {
    "empty": _bytes(lambda raw, rng: b""),
    "one byte": _bytes(lambda raw, rng: raw[:1]),
    "cut at a random place": _bytes(lambda raw, rng: raw[: rng.randrange(2, len(raw))]),
    "its last byte missing": _bytes(lambda raw, rng: raw[:-1]),
    "flipped bits in its head": _bytes(_flip(0.0, 0.05, 4)),
    "flipped bits in its first half": _bytes(_flip(0.0, 0.5, 40)),
    "flipped bits anywhere": _bytes(_flip(0.0, 1.0, 10)),
    "one flipped bit": _bytes(_flip(0.0, 1.0, 1)),
    "a page of zeros": _bytes(lambda raw, rng: raw[: len(raw) // 3] + bytes(len(raw) // 3) + raw[2 * len(raw) // 3 :]),
    "a page of 255": _bytes(lambda raw, rng: raw[: len(raw) // 3] + b"\xff" * (len(raw) - len(raw) // 3)),
    "zeros": _bytes(lambda raw, rng: bytes(len(raw))),
    "noise": _bytes(lambda raw, rng: rng.randbytes(len(raw))),
    "text": _bytes(lambda raw, rng: b"this is a text\n" * 20),
    "an empty zip archive": _bytes(lambda raw, rng: b"PK\x05\x06" + bytes(18)),
    "JSON": _bytes(lambda raw, rng: b'{"a": 1}'),
    "an HDF5 head alone": _bytes(lambda raw, rng: b"\x89HDF\r\n\x1a\n" + bytes(40)),
    "a NetCDF 3 head alone": _bytes(lambda raw, rng: b"CDF\x01"),
    "a header as long as 2^63": _bytes(lambda raw, rng: struct.pack("<Q", 2**63 - 1) + raw[8:]),
    "a header as long as 2^40": _bytes(lambda raw, rng: struct.pack("<Q", 2**40) + raw[8:]),
    "twice itself": _bytes(lambda raw, rng: raw + raw),
}
"""What may happen to any binary file."""


# ---------------------------------------------------------------------------------------------------- safetensors


def _tensors(change: Callable[[dict[str, Any], bytes, random.Random], tuple[dict[str, Any], bytes]]) -> Harm:
    """Changes the header and the data of a safetensors file."""

    def harm(file: Path, rng: random.Random) -> None:
        raw = file.read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        header, data = change(json.loads(raw[8 : 8 + size]), raw[8 + size :], rng)
        text = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + data)

    return harm


def _pick(header: dict[str, Any], rng: random.Random, dtype: str = "F32") -> str:
    names = sorted(name for name, one in header.items() if name != "__metadata__" and one["dtype"] == dtype)
    return rng.choice(names or sorted(name for name in header if name != "__metadata__"))


def _with(text: str) -> Callable[[dict[str, Any], bytes, random.Random], tuple[dict[str, Any], bytes]]:
    """A number put into one tensor."""
    value = struct.pack("<f", float(text))

    def change(header: dict[str, Any], data: bytes, rng: random.Random) -> tuple[dict[str, Any], bytes]:
        begin, end = header[_pick(header, rng)]["data_offsets"]
        place = begin + 4 * rng.randrange(max(1, (end - begin) // 4))
        return header, data[:place] + value + data[place + 4 :]

    return change


def _renamed(header: dict[str, Any], data: bytes, rng: random.Random) -> tuple[dict[str, Any], bytes]:
    name = _pick(header, rng)
    return {("\x1b[31mother" if key == name else key): one for key, one in header.items()}, data


def _reshaped(header: dict[str, Any], data: bytes, rng: random.Random) -> tuple[dict[str, Any], bytes]:
    one = header[_pick(header, rng)]
    one["shape"] = [1, *reversed(one["shape"])]
    return header, data


def _retyped(header: dict[str, Any], data: bytes, rng: random.Random) -> tuple[dict[str, Any], bytes]:
    header[_pick(header, rng)]["dtype"] = "I32"
    return header, data


def _of_unknown_type(header: dict[str, Any], data: bytes, rng: random.Random) -> tuple[dict[str, Any], bytes]:
    header[_pick(header, rng)]["dtype"] = "F999"
    return header, data


def _overlapping(header: dict[str, Any], data: bytes, rng: random.Random) -> tuple[dict[str, Any], bytes]:
    header[_pick(header, rng)]["data_offsets"] = [0, 10**12]
    return header, data


def _without_one(header: dict[str, Any], data: bytes, rng: random.Random) -> tuple[dict[str, Any], bytes]:
    """Without its last tensor, so that what is left is a valid file."""
    last = max((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    begin = header.pop(last)["data_offsets"][0]
    return header, data[:begin]


def _with_another(header: dict[str, Any], data: bytes, rng: random.Random) -> tuple[dict[str, Any], bytes]:
    header["another"] = {"dtype": "F32", "shape": [2], "data_offsets": [len(data), len(data) + 8]}
    return header, data + bytes(8)


TENSORS: dict[str, Harm] = {
    "NaN in it": _tensors(_with("nan")),
    "infinity in it": _tensors(_with("inf")),
    "1e38 in it": _tensors(_with("3e38")),
    "a tensor of another name": _tensors(_renamed),
    "a tensor of another shape": _tensors(_reshaped),
    "a tensor of integers": _tensors(_retyped),
    "a tensor of an unknown type": _tensors(_of_unknown_type),
    "offsets beyond its end": _tensors(_overlapping),
    "a tensor less": _tensors(_without_one),
    "a tensor more": _tensors(_with_another),
    "no tensor": _tensors(lambda header, data, rng: ({}, b"")),
}
"""What may happen to a safetensors file besides."""

REFUSED_TENSORS = tuple(name for name in TENSORS if name != "1e38 in it")


# ------------------------------------------------------------------------------------------------------- data files


def _npz(**arrays: Any) -> Harm:
    """A `.npz` file with these arrays; functions are called with those of the file."""

    def harm(file: Path, rng: random.Random) -> None:
        with np.load(file) as found:
            old = dict(found)
        new = {key: value(old) if callable(value) else value for key, value in arrays.items()}
        np.savez(file, **{key: value for key, value in {**old, **new}.items() if value is not None})

    return harm


def _spike(value: float) -> Callable[[dict[str, Any]], Any]:
    def change(old: dict[str, Any]) -> Any:
        x = old["x"].copy()
        x[3, 1] = value
        return x

    return change


def _bomb(file: Path, rng: random.Random) -> None:
    """A member whose header says that it has 2^40 numbers."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 6), }"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", head + bytes(64))
        archive.writestr("y.npy", head + bytes(64))


def _objects(file: Path, rng: random.Random) -> None:
    """Pickled objects, which would run code if they were read."""
    np.savez(file, x=np.array([_Executed()], dtype=object), y=np.array([0]))


class _Executed:
    def __reduce__(self) -> Any:
        return (open, ("PWNED", "w"))


def _huge_label(old: dict[str, Any]) -> Any:
    y = old["y"].copy()
    y[5] = 2**31
    return y


NPZ: dict[str, Harm] = {
    "NaN in x": _npz(x=_spike(float("nan"))),
    "infinity in x": _npz(x=_spike(float("inf"))),
    "1e300 in x": _npz(x=_spike(1e300)),
    "1e38 in x": _npz(x=_spike(1e38)),
    "1e-320 in x": _npz(x=lambda old: old["x"] * 0 + 1e-320),
    "x constant": _npz(x=lambda old: old["x"] * 0),
    "x of texts": _npz(x=lambda old: old["x"].astype(str)),
    "x complex": _npz(x=lambda old: old["x"].astype(complex)),
    "x of dates": _npz(x=lambda old: np.zeros((60, 6), dtype="datetime64[s]")),
    "x of long doubles": _npz(x=lambda old: old["x"].astype(np.longdouble)),
    "x of half precision": _npz(x=lambda old: old["x"].astype(np.float16)),
    "x big-endian": _npz(x=lambda old: old["x"].astype(">f8")),
    "x structured": _npz(x=lambda old: np.zeros(60, dtype=[("a", "f8"), ("b", "i4")])),
    "x without examples": _npz(x=lambda old: old["x"][:0], y=lambda old: old["y"][:0]),
    "x without features": _npz(x=lambda old: old["x"][:, :0]),
    "x a number": _npz(x=np.float64(3.0)),
    "x of seven dimensions": _npz(x=lambda old: old["x"].reshape(60, 1, 1, 1, 1, 2, 3)),
    "one example": _npz(x=lambda old: old["x"][:1], y=lambda old: old["y"][:1]),
    "two examples": _npz(x=lambda old: old["x"][:2], y=lambda old: old["y"][:2]),
    "another length of y": _npz(y=lambda old: old["y"][:7]),
    "no y": _npz(y=None),
    "no x": _npz(x=None),
    "a label of -1": _npz(y=lambda old: old["y"].astype(np.int64) - 1),
    "a label of -100": _npz(y=lambda old: old["y"].astype(np.int64) - 100),
    "a label of 2^31": _npz(y=_huge_label),
    "unsigned labels of 2^64 - 1": _npz(y=lambda old: np.full(60, 2**64 - 1, dtype=np.uint64)),
    "labels in floating point": _npz(y=lambda old: old["y"] + 0.5),
    "NaN in y": _npz(y=lambda old: np.where(old["y"] > 1, np.nan, old["y"])),
    "9.97e36 in y": _npz(y=lambda old: np.where(old["y"] > 1, 9.97e36, old["y"])),
    "truth values as labels": _npz(y=lambda old: old["y"] > 0),
    "y of texts": _npz(y=lambda old: old["y"].astype(str)),
    "y of two dimensions": _npz(y=lambda old: np.eye(3)[old["y"].astype(int) % 3]),
    "only x_test": _npz(x_test=lambda old: old["x"]),
    "x_test of other features": _npz(x_test=lambda old: old["x"][:, :2], y_test=lambda old: old["y"]),
    "x_test of one example": _npz(x_test=lambda old: old["x"][:1], y_test=lambda old: old["y"][:1]),
    "unseen labels in y_test": _npz(x_test=lambda old: old["x"], y_test=lambda old: old["y"].astype(int) + 7),
    "pickled objects": _objects,
    "a header of 2^40 examples": _bomb,
    "one class": _npz(y=lambda old: (old["y"] * 0).astype(int)),
    "bytes as images": _npz(x=lambda old: np.zeros((60, 3, 3), dtype=np.uint8)),
}
"""What may happen to a `.npz` file besides."""


def _npy(make: Callable[[Any], Any]) -> Harm:
    return lambda file, rng: np.save(file, make(np.load(file)), allow_pickle=True)


def _npy_header(text: bytes) -> Harm:
    def harm(file: Path, rng: random.Random) -> None:
        file.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n" + bytes(64))

    return harm


NPY: dict[str, Harm] = {
    "NaN in it": _npy(lambda x: np.where(x > 0, np.nan, x)),
    "infinity in it": _npy(lambda x: np.where(x > 0, np.inf, x)),
    "1e300 in it": _npy(lambda x: x * 0 + 1e300),
    "no examples": _npy(lambda x: x[:0]),
    "other features": _npy(lambda x: x[:, :2]),
    "texts": _npy(lambda x: x.astype(str)),
    "complex numbers": _npy(lambda x: x.astype(complex)),
    "bytes": _npy(lambda x: np.zeros(x.shape, np.uint8)),
    "a number": _npy(lambda x: np.float64(1.0)),
    "pickled objects": _npy(lambda x: np.array([_Executed()], dtype=object)),
    "a shape of 2^40": _npy_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 6), }"),
    "a negative shape": _npy_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-5, 6), }"),
    "a shape of 2^70": _npy_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1180591620717411303424, 6), }"),
    "a header that is code": _npy_header(b"__import__('os').system('touch PWNED')"),
    "a header that is cut": _npy_header(b"{'descr': '<f8', 'fortran"),
    "a header of nested brackets": _npy_header(b"(" * 5000 + b")" * 5000),
    "an unknown type": _npy_header(b"{'descr': 'O', 'fortran_order': False, 'shape': (3,), }"),
    "a void type": _npy_header(b"{'descr': '|V8', 'fortran_order': False, 'shape': (5, 6), }"),
}
"""What may happen to a `.npy` file besides."""


# ------------------------------------------------------------------------------------------- in the place of a file


def _instead(make: Callable[[Path], Any]) -> Harm:
    def harm(file: Path, rng: random.Random) -> None:
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink()
        make(file)

    return harm


def _loop(file: Path) -> None:
    other = file.with_name(f"{file.name}-other")
    file.symlink_to(other.name)
    other.symlink_to(file.name)


PLACES: dict[str, Harm] = {
    "missing": _instead(lambda file: None),
    "a folder": _instead(lambda file: file.mkdir()),
    "a FIFO": _instead(os.mkfifo),
    "a dangling link": _instead(lambda file: file.symlink_to("nowhere")),
    "a loop of links": _instead(_loop),
    "a link to itself": _instead(lambda file: file.symlink_to(file.name)),
    "a link to its folder": _instead(lambda file: file.symlink_to(".", target_is_directory=True)),
    "a link to /dev/zero": _instead(lambda file: file.symlink_to("/dev/zero")),
    "a link to /dev/null": _instead(lambda file: file.symlink_to("/dev/null")),
    "a link to a terminal": _instead(lambda file: file.symlink_to("/dev/tty")),
    "a sparse file of 1 TiB": _instead(lambda file: file.touch() or os.truncate(file, 1 << 40)),
}
"""What may stand in the place of a file."""
