"""The files that data come in: `.npz` files, folders of images and IDX files, as checked arrays."""

from __future__ import annotations

import gzip
import math
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

__all__ = [
    "ARRAY_ERRORS",
    "DataSource",
    "are_no_classes",
    "read_folder",
    "read_idx",
    "read_npz",
    "reason_of",
    "validate_arrays",
]

_IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm")
# What a file is, its content says, not its name, and there are formats that Pillow gives to another program: PostScript
# in a file x.png would be run by Ghostscript. These it decodes itself.
_IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "PPM", "GIF", "WEBP", "TIFF")

ARRAY_ERRORS = (
    OSError, EOFError, ValueError, TypeError, SyntaxError, tokenize.TokenError, RuntimeError, MemoryError, OverflowError
)  # fmt: skip
"""What NumPy raises for a damaged `.npy` file: its header is parsed as Python, and may ask for any size."""
# AttributeError: a .npy file under the name .npz opens as an array, which is no archive.
_NPZ_ERRORS = (*ARRAY_ERRORS, AttributeError, LookupError, struct.error, zipfile.BadZipFile, zlib.error)
_IMAGE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, MemoryError, OverflowError,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip

_MOST_CLASSES_UNSEEN = 100
"""With so many classes or fewer, any of them may be absent from a file."""
_MOST_LABEL = 2**63 - 1

_Array = NDArray[Any]


@dataclass(frozen=True)
class DataSource:
    """Arrays as a source has them, before splitting and standardising.

    Attributes:
        x: Inputs, `(N, channels, height, width)` if `images`, else `(N, ...)`.
        y: Targets, `(N,)` or `(N, d)`.
        x_test: Like `x`; None where the source has no test set.
        y_test: Like `y`; None where the source has no test set.
        classes: Number of classes; None for a regression.
        images: Whether inputs are images.
        peak: The byte that stands for 1.0; None where inputs are no bytes of images.
        class_names: Names of the classes in the order of the labels; empty where there are none.
        tokens: Whether inputs are tokens, whole numbers `(N, steps)` that nothing is subtracted from.
    """

    x: _Array
    y: _Array
    x_test: _Array | None
    y_test: _Array | None
    classes: int | None
    images: bool
    peak: int | None = None
    class_names: tuple[str, ...] = ()
    tokens: bool = False


def validate_arrays(x: Any, y: Any, classes: int | None = None, what: str = "FILE.npz") -> None:
    """Refuses inputs and targets that would only fail, or spoil the result, once training has started.

    Args:
        x: Inputs `(N, ...)`, array or tensor.
        y: Integer labels `(N,)`; or numbers `(N,)` or `(N, d)` in floating point for a regression.
        classes: Number of classes that labels may have; None where it is not known or there are none.
        what: What the arrays came from, for the message.

    Raises:
        ValueError: In one sentence, if there is nothing, lengths differ, something is not a number, NaN or
            infinite, or labels are not whole numbers in 0..classes-1.
    """
    x, y = _as_array(x), _as_array(y)
    for key, array in (("x", x), ("y", y)):
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{what}: {key} has dtype {array.dtype}, but real numbers are expected")
        if array.ndim == 0 or array.size == 0:
            raise ValueError(f"{what}: {key} has shape {array.shape}, but at least one example is expected")
    if len(x) != len(y):
        raise ValueError(f"{what}: x has {len(x)} examples and y has {len(y)}, but one target each is expected")
    for key, array in (("x", x), ("y", y)):
        _require_finite(array, key, what)
    if classes is None and y.dtype.kind == "f":
        if y.ndim > 2:
            raise ValueError(f"{what}: y has shape {y.shape}, but targets (N,) or (N, d) are expected")
        return
    if y.ndim != 1:
        raise ValueError(f"{what}: y has shape {y.shape}, but labels (N,) are expected: use y.reshape(-1)")
    wrong = np.zeros(y.shape, dtype=bool) if y.dtype.kind != "f" else y != np.round(y)
    if wrong.any():
        raise ValueError(
            f"{what}: {wrong.sum()} labels in y are not whole numbers, the first ({y[wrong][0]}) at index "
            f"{np.flatnonzero(wrong)[0]}, but integers are expected"
        )
    wrong = y < 0 if classes is None else (y < 0) | (y >= classes)
    if wrong.any():
        span = "from 0 up" if classes is None else f"in 0..{classes - 1}"
        raise ValueError(
            f"{what}: {wrong.sum()} labels in y are out of range, the first ({y[wrong][0]}) at index "
            f"{np.flatnonzero(wrong)[0]}, but labels {span} are expected: for a regression store y as floats"
        )


def _as_array(values: Any) -> _Array:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)


def _require_finite(array: _Array, key: str, what: str) -> None:
    if array.dtype.kind != "f":
        return
    wrong = ~np.isfinite(array)
    count = int(np.count_nonzero(wrong))
    if count:
        first = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
        raise ValueError(
            f"{what}: {key} holds {count} NaN or infinite values, the first at index {first}: remove or fill them"
        )


def read_npz(path: Path) -> DataSource:
    """Reads the arrays `x`, `y` and, where there, `x_test`, `y_test` of a `.npz` file.

    Args:
        path: The file. Bytes `(N, height, width)` become images of one channel, `(N,)` one feature, and
            targets `(N, 1)` become `(N,)`. There are as many classes as the largest label and one; whether whole
            numbers are labels at all (`are_no_classes`) is asked where the likelihood is known.

    Raises:
        ValueError: In one sentence, if the file is missing, damaged, lacks an array or does not pass
            `validate_arrays`.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}: check the path")
    try:
        # Opened here, because NumPy leaves the file open when it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("x", "y", "x_test", "y_test") if key in archive}
    except _NPZ_ERRORS as error:
        raise ValueError(
            f"{path} cannot be read as a .npz file of number arrays ({reason_of(error)}): it is damaged or of another "
            "format, so write it again with numpy.savez"
        ) from error
    for key in ("x", "y"):
        if key not in arrays:
            raise ValueError(f"{path} has no array {key!r}: save it with numpy.savez(file, x=..., y=...)")
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise ValueError(f"{path} has only one of x_test and y_test: save both or none")
    x, y = arrays["x"], arrays["y"]
    validate_arrays(x, y, what=str(path))
    regression = y.dtype.kind == "f"
    classes = None if regression else _count_classes(y, path)
    images = x.ndim == 4 or (x.ndim == 3 and x.dtype == np.uint8)
    has_test = "x_test" in arrays
    if has_test:
        x_test, y_test = arrays["x_test"], arrays["y_test"]
        if regression and y_test.dtype.kind in "iu":
            y_test = y_test.astype(np.float64)
        test_name = f"{path} (x_test, y_test)"
        most = _MOST_LABEL if classes is not None and are_no_classes(y, classes) else classes  # counts have no largest
        validate_arrays(x_test, y_test, classes=most, what=test_name)
        for key, one, other in (("x", x, x_test), ("y", y, y_test)):
            if other.shape[1:] != one.shape[1:]:
                raise ValueError(
                    f"{path}: one example of {key}_test has shape {other.shape[1:]}, but {one.shape[1:]} "
                    f"as in {key} is expected"
                )
        if (x.dtype == np.uint8) != (x_test.dtype == np.uint8):
            raise ValueError(f"{path}: x_test has dtype {x_test.dtype}, but {x.dtype} as in x is expected")
    inputs = [_with_channels(array) for array in ([x, x_test] if has_test else [x])]
    targets = [array[:, 0] if array.shape[1:] == (1,) else array for array in ([y, y_test] if has_test else [y])]
    return DataSource(
        x=inputs[0],
        y=targets[0],
        x_test=inputs[1] if has_test else None,
        y_test=targets[1] if has_test else None,
        classes=classes,
        images=images,
        peak=255 if images and x.dtype == np.uint8 else None,
    )


def _count_classes(labels: _Array, path: Path) -> int:
    """The largest label plus one."""
    largest = int(labels.max())
    if largest > _MOST_LABEL:
        raise ValueError(f"{path}: the largest number in y is {largest}, but numbers below 2**63 are expected")
    return largest + 1


def are_no_classes(labels: _Array, classes: int) -> bool:
    """Whether whole numbers are plainly no numbers of classes, such as 0, 1 and 3000; they may be counts.

    A few classes may be absent, even most: only where there would be more than `_MOST_CLASSES_UNSEEN` classes and not a
    tenth of them has an example is a label taken for an error, for a mark of its own such as 255, or for a count.

    Args:
        labels: Whole numbers from 0 up, `(N,)`.
        classes: How many classes there would be.
    """
    return classes > max(_MOST_CLASSES_UNSEEN, 10 * len(np.unique(labels)))


def reason_of(problem: Exception) -> str:
    """What a library says of a damaged file, in one short line."""
    if isinstance(problem, MemoryError):
        return "it asks for more memory than there is"
    text = str(problem.args[0]) if isinstance(problem, tokenize.TokenError) else str(problem)
    return text.strip().splitlines()[0][:200] if text.strip() else "it ends too early"


def _with_channels(x: _Array) -> _Array:
    """Bytes `(N, height, width)` as images of one channel, `(N,)` as one feature."""
    if x.ndim == 3 and x.dtype == np.uint8:
        return x[:, None]
    return x[:, None] if x.ndim == 1 else x


def _subfolders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def read_folder(path: Path) -> DataSource:
    """Reads images of one size, each class in a folder of its name; classes are numbered in sorted order.

    Args:
        path: Folder with `train/CLASS/*.png` and, where there, `test/CLASS/*.png`; or with `CLASS/*.png`.
            JPEG, BMP, PGM and PPM are read too. One channel if all images are grey, else three.

    Raises:
        ValueError: In one sentence, if there are no images, one is damaged or of another size or depth, or
            the test part has a class that the training part has not.
    """
    has_train = (path / "train").is_dir()
    train = _list_images(path / "train" if has_train else path)
    names = tuple(sorted({name for name, _ in train}))
    test = _list_images(path / "test") if has_train and (path / "test").is_dir() else []
    unseen = sorted({name for name, _ in test} - set(names))
    if unseen:
        raise ValueError(f"{path / 'test'} has the class {unseen[0]!r}, which {path / 'train'} has not: add it there")
    files = [file for _, file in train + test]
    images = [_read_image(file) for file in files]
    width, height = images[0].size
    for file, image in zip(files, images, strict=True):
        if image.size != (width, height):
            raise ValueError(
                f"{file} has {image.width} x {image.height} pixels, but {width} x {height} "
                f"as in {files[0]} is expected: bring all images to one size"
            )
    mode = "L" if all(image.mode == "L" for image in images) else "RGB"
    x = np.stack([np.asarray(image.convert(mode)) for image in images])
    x = x[:, None] if mode == "L" else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    y = np.array([names.index(name) for name, _ in train + test], dtype=np.int64)
    n = len(train)
    return DataSource(
        x=x[:n],
        y=y[:n],
        x_test=x[n:] if test else None,
        y_test=y[n:] if test else None,
        classes=len(names),
        images=True,
        peak=255,
        class_names=names,
    )


def _list_images(path: Path) -> list[tuple[str, Path]]:
    """Pairs of class name and file, sorted."""
    found = []
    for folder in _subfolders(path):
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _IMAGE_ENDINGS)
        if not files:
            raise ValueError(f"{folder} has no images, but a folder of one class with *.png is expected")
        found += [(folder.name, file) for file in files]
    if not found:
        raise ValueError(f"{path} has no images, but folders CLASS/*.png, or train/CLASS/*.png, are expected")
    return found


def _read_image(file: Path) -> Image.Image:
    """An image in mode L or RGB; transparency is dropped."""
    if not file.is_file():  # a pipe would be waited for
        raise ValueError(f"{file} is no file, but an image is expected: remove it")
    Image.init()
    known = [name for name in _IMAGE_FORMATS if name in Image.OPEN]  # Pillow may be built without WEBP
    try:
        with Image.open(file, formats=known) as image:
            image.load()
            if image.mode in ("1", "L", "LA"):
                return image.convert("L")
            if image.mode in ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
                return image.convert("RGB")
            mode = image.mode
    except _IMAGE_ERRORS as error:
        raise ValueError(
            f"{file} cannot be read as an image ({reason_of(error)}): it is damaged or of another format"
        ) from error
    raise ValueError(f"{file} has pixels of mode {mode}, but 8 bits per channel are expected: convert it")


def read_idx(file: Path, dimensions: int) -> _Array:
    """Reads an IDX file of bytes: 0, 0, 8, number of dimensions, sizes in big-endian 32 bits, then the bytes.

    Args:
        file: The file, compressed if its name ends in `.gz`.
        dimensions: 3 for images, 1 for labels.

    Raises:
        ValueError: In one sentence, if the file is damaged or of another form.
    """
    start = 4 + 4 * dimensions
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            head = stream.read(start)
            shape = struct.unpack(f">{dimensions}I", head[4:]) if len(head) == start else ()
            whole = head[:4] == bytes([0, 0, 8, dimensions])
            raw = stream.read(math.prod(shape) + 1) if whole else b""  # a byte more, should there be one
    except (OSError, EOFError, zlib.error, MemoryError, OverflowError) as error:
        raise ValueError(
            f"{file} cannot be read ({reason_of(error)}): it is truncated or damaged, so fetch it again"
        ) from error
    if not shape or not whole or len(raw) != math.prod(shape):
        raise ValueError(
            f"{file} is no IDX file of bytes in {dimensions} dimensions, as long as it states: it is "
            "truncated or damaged, so fetch it again"
        )
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape)
