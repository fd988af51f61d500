"""Data sets by name: where they are looked for, how they are downloaded, and what is in them."""

from __future__ import annotations

import contextlib
import http.client
import io
import itertools
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from torchvision import datasets as torchvision_datasets

from bayesprune.data.files import DataSource, read_idx, validate_arrays
from bayesprune.data.reber import reber_strings, tokens_of
from bayesprune.models.files.places import expanded

__all__ = ["DATASETS", "DATA_VARIABLE", "TOKENS", "is_here", "load_named"]

DATASETS: dict[str, str] = {
    "digits": "1,797 grey images of digits, 8 x 8, 10 classes; comes with scikit-learn",
    "fashion-mnist": "70,000 grey images of clothes, 28 x 28, 10 classes; Debian: dataset-fashion-mnist",
    "mnist": "70,000 grey images of digits, 28 x 28, 10 classes; downloaded on first use",
    "cifar10": "60,000 colour images of things and animals, 32 x 32, 10 classes; downloaded on first use",
    "cifar100": "60,000 colour images of things and animals, 32 x 32, 100 classes; downloaded on first use",
    "reber": "5,000 strings, up to 39 tokens, valid or invalid by the Reber grammar, 2 classes; drawn on use",
    "embedded-reber": "5,000 strings, up to 43 tokens, of the embedded Reber grammar, 2 classes; drawn on use",
}
"""Data sets that `load_data` knows by name, with one line on each."""

TOKENS = ("reber", "embedded-reber")
"""Those whose inputs are tokens."""

DATA_VARIABLE = "BAYESPRUNE_DATA"
"""Environment variable with a folder where data sets are looked for."""

_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_IDX_PARTS = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")}
_IDX_PARTS["test"] = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_IDX_SETS = {"mnist": torchvision_datasets.MNIST, "fashion-mnist": torchvision_datasets.FashionMNIST}
# MNIST and Fashion-MNIST come in files of the same names; the first test labels tell them apart.
_FIRST_TEST_LABELS = {
    "mnist": [7, 2, 1, 0, 4, 1, 4, 9, 5, 9],
    "fashion-mnist": [9, 2, 1, 1, 6, 1, 4, 6, 5, 7],
}
_CIFAR_SETS = {"cifar10": torchvision_datasets.CIFAR10, "cifar100": torchvision_datasets.CIFAR100}
_STRINGS = 5000
_DOWNLOAD_PATIENCE = 30.0  # seconds without a byte
_DOWNLOAD_ERRORS = (OSError, RuntimeError, http.client.HTTPException)


def _bases(root: str | Path | None) -> list[Path]:
    """Folders where named data sets are looked for; the first is where they are downloaded to."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bayesprune"
    return [expanded(base) for base in (root, os.environ.get(DATA_VARIABLE), cache) if base]


def is_here(name: str, root: str | Path | None) -> bool:
    """Whether a data set is found without a download; files are not read through.

    Args:
        name: A name in `DATASETS`.
        root: As in `load_data`.
    """
    if name == "digits" or name in TOKENS:
        return True
    return (_find_idx(name, root) if name in _IDX_SETS else _find_cifar(name, root)) is not None


def load_named(name: str, root: str | Path | None) -> DataSource:
    """Reads a data set, after a download where it is not found.

    Args:
        name: A name in `DATASETS`.
        root: As in `load_data`.

    Raises:
        ValueError: In one sentence, if files are missing or damaged, or a download fails.
    """
    if name == "digits":
        bunch = load_digits()
        x = bunch.images.astype(np.uint8)[:, None]
        digits = tuple(str(digit) for digit in range(10))
        return DataSource(x, bunch.target, None, None, classes=10, images=True, peak=16, class_names=digits)
    if name in TOKENS:
        drawn = reber_strings(_STRINGS, embedded=name != "reber")
        labels = np.array(drawn.labels)
        return DataSource(
            tokens_of(drawn.strings), labels, None, None, 2, images=False, class_names=("invalid", "valid"), tokens=True
        )
    return _load_idx(name, root) if name in _IDX_SETS else _load_cifar(name, root)


def _idx_file(folder: Path, stem: str) -> Path | None:
    return next((file for file in (folder / f"{stem}.gz", folder / stem) if file.is_file()), None)


def _find_idx(name: str, root: str | Path | None) -> Path | None:
    """The first folder that has the four files of MNIST or Fashion-MNIST, and not those of the other one."""
    places = (f"{_IDX_SETS[name].__name__}/raw", name, ".")
    *given, cache = [[base / place for place in places] for base in _bases(root)]
    system = [_DEBIAN_FASHION_MNIST] if name == "fashion-mnist" else []
    folders = [*itertools.chain.from_iterable(given), *system, *cache]
    for folder in folders:
        files = [_idx_file(folder, stem) for stems in _IDX_PARTS.values() for stem in stems]
        if None in files or _holds_the_other(name, folder):
            continue
        return folder
    return None


def _holds_the_other(name: str, folder: Path) -> bool:
    file = _idx_file(folder, _IDX_PARTS["test"][1])
    assert file is not None
    try:
        first = read_idx(file, dimensions=1)[:10].tolist()
    except ValueError:
        return False  # loading it will say what is wrong
    return any(first == labels for other, labels in _FIRST_TEST_LABELS.items() if other != name)


def _load_idx(name: str, root: str | Path | None) -> DataSource:
    kind = _IDX_SETS[name]
    folder = _find_idx(name, root)
    if folder is None:
        base = _bases(root)[0]
        old = base / kind.__name__ / "processed"
        if old.exists():  # torchvision would unpickle what is there
            raise ValueError(f"{old} holds {name} in a form of earlier torchvisions, which is not read: remove it")
        debian = "install Debian's package dataset-fashion-mnist, or " if name == "fashion-mnist" else ""
        with _downloading(name, base / kind.__name__ / "raw", debian):
            kind(str(base), train=True, download=True)
        folder = base / kind.__name__ / "raw"
    arrays = {}
    for part, (images_stem, labels_stem) in _IDX_PARTS.items():
        images_file, labels_file = _idx_file(folder, images_stem), _idx_file(folder, labels_stem)
        if images_file is None or labels_file is None:
            raise ValueError(f"{folder} lacks the {part} files of {name}: delete the folder and load it again")
        x, y = read_idx(images_file, dimensions=3), read_idx(labels_file, dimensions=1)
        validate_arrays(x, y, classes=10, what=f"{images_file} and {labels_file.name}")
        arrays[part] = (x[:, None], y)
    names = tuple(str(label) for label in kind.classes)
    return DataSource(*arrays["train"], *arrays["test"], classes=10, images=True, peak=255, class_names=names)


def _find_cifar(name: str, root: str | Path | None) -> Path | None:
    kind = _CIFAR_SETS[name]
    return next((base for base in _bases(root) if (base / kind.base_folder).is_dir()), None)


def _load_cifar(name: str, root: str | Path | None) -> DataSource:
    kind = _CIFAR_SETS[name]
    base = _find_cifar(name, root)
    if base is None:
        base = _bases(root)[0]
        with _downloading(name, base / kind.base_folder):
            kind(str(base), download=True)
    with warnings.catch_warnings():
        # The published pickles spell the alignment of a dtype in a way that NumPy 2.4 warns of.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        try:
            parts = [kind(str(base), train=train) for train in (True, False)]
        except RuntimeError as error:  # torchvision checks sums before it unpickles
            raise ValueError(
                f"the files of {name} in {base / kind.base_folder} are incomplete or damaged: delete the "
                "folder and load it again"
            ) from error
    train, test = parts
    names = tuple(str(label) for label in train.classes)
    return DataSource(
        x=np.ascontiguousarray(train.data.transpose(0, 3, 1, 2)),
        y=np.array(train.targets),
        x_test=np.ascontiguousarray(test.data.transpose(0, 3, 1, 2)),
        y_test=np.array(test.targets),
        classes=len(names),
        images=True,
        peak=255,
        class_names=names,
    )


@contextlib.contextmanager
def _downloading(name: str, folder: Path, remedy: str = "") -> Iterator[None]:
    """Turns whatever goes wrong in a download into one sentence, does not wait for ever, and leaves no empty folders.

    Args:
        name: The data set.
        folder: Where its files come to.
        remedy: What else helps.
    """
    made = [above for above in (folder, *folder.absolute().parents) if not above.exists()]
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_PATIENCE)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except _DOWNLOAD_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{name} is not on this machine and could not be downloaded to {folder} ({reason}): "
            f"{remedy}give the folder that holds its files as root or in ${DATA_VARIABLE}"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
        with contextlib.suppress(OSError):  # a folder that is not empty stays, with those above it
            for empty in made:
                empty.rmdir()
