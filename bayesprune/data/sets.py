"""Data sets by name, folders of images and `.npz` files, as tensors split and standardised."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayesprune.data.files import DataSource, are_no_classes, read_folder, read_npz
from bayesprune.data.named_sets import DATASETS, is_here, load_named
from bayesprune.models.checks.given_numbers import checked_seed
from bayesprune.models.files.places import expanded

__all__ = ["DataSplits", "available", "load_data"]

_TEST_FRACTION = 0.2
_TEST_SEED = 0  # the test set must not move with the user's seed
_Array = NDArray[Any]
_Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class DataSplits:
    """Training, validation and test data, standardised by the training part; tokens are left as they are.

    Attributes:
        name: Name of the data set, or of the folder or file.
        train: Inputs `(N, *input_shape)` in float32, or tokens in int64; and targets: labels `(N,)` in int64, or for
            a regression numbers `(N,)` or `(N, d)` in float32, in the units of the file.
        validation: Like `train`, taken from the same examples, none in both.
        test: Like `train`.
        classes: Number of classes; None for a regression.
        input_shape: Shape of one input: `(channels, height, width)` for images, `(steps,)` for tokens.
        mean: What was subtracted from the inputs: `(channels,)` for images (bytes are scaled to [0, 1]
            first), else `input_shape`; zeros for tokens.
        sd: What the inputs were then divided by, in the shape of `mean`; ones for tokens.
        class_names: Names of the classes in the order of the labels; empty where there are none.
    """

    name: str
    train: _Pair
    validation: _Pair
    test: _Pair
    classes: int | None
    input_shape: tuple[int, ...]
    mean: Tensor
    sd: Tensor
    class_names: tuple[str, ...] = ()


def load_data(
    name_or_path: str | Path,
    validation_fraction: float = 0.1,
    seed: int = 0,
    root: str | Path | None = None,
) -> DataSplits:
    """Loads a data set by name, a folder of images or a `.npz` file.

    Images are scaled to [0, 1] and standardised by the mean and standard deviation of the training part, one
    number per channel. Other inputs are standardised per feature; features that are constant in the training
    part are left alone. Targets of a regression keep their units. Tokens (reber and embedded-reber) are whole
    numbers, with zeros after the end of a sequence, and stay so. Everything is held in memory.

    Where a source has no test set of its own (digits, reber, a folder without `test`, a file without `x_test`), a
    fifth is split off, the same for every seed. Splits of labelled data are stratified.

    Args:
        name_or_path: A name in `DATASETS`; a folder with images of one size in `train/CLASS/*.png` and
            `test/CLASS/*.png`, or in `CLASS/*.png`; or a file `.npz` with the arrays `x` and `y` and, if it
            has a test set, `x_test` and `y_test`. Arrays `x` of shape `(N, channels, height, width)`, and
            bytes `(N, height, width)`, are images. Integer `y` are labels, float `y` make a regression. Write
            `./digits` for a folder that has the name of a data set.
        validation_fraction: Share of the training examples that is held out for validation, in [0, 1).
        seed: Chooses the validation examples.
        root: Folder where a named data set is looked for first. After it come the folder in the environment
            variable `BAYESPRUNE_DATA`, for fashion-mnist the folder of Debian's package
            dataset-fashion-mnist, and the user's cache. A download goes to the first of root, that variable
            and the cache that is given. Ignored for paths, digits and reber.

    Returns:
        The three parts and what they were standardised by.

    Raises:
        ValueError: In one sentence, if the name is unknown, a file is missing, damaged or of another form,
            the data hold NaN or impossible labels, or a download fails.
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction is {validation_fraction}, but a number in [0, 1) is expected")
    seed = checked_seed(seed, least=0)
    path = expanded(name_or_path)
    what = str(name_or_path)
    if isinstance(name_or_path, str) and name_or_path in DATASETS:
        source = load_named(name_or_path, root)
    elif path.is_dir():
        source = read_folder(path)
    elif path.suffix == ".npz":
        source = read_npz(path)
    else:
        raise ValueError(
            f"unknown data {what!r}: expected one of {', '.join(DATASETS)}, a folder of images or a file .npz"
        )
    return _split_and_standardise(what, source, validation_fraction, seed)


def available(name: str, root: str | Path | None = None) -> bool:
    """Tells whether `load_data` finds the data without a download; files are not read through.

    Args:
        name: A name in `DATASETS` or a path.
        root: As in `load_data`.
    """
    return is_here(name, root) if name in DATASETS else expanded(name).exists()


# Splitting and standardising


def _hold_out(y: _Array, stratified: bool, fraction: float, seed: int, what: str) -> tuple[_Array, _Array]:
    """Sorted indices to keep and to hold out; a class always keeps one example.

    Every class gives its share rounded down, and the classes with the largest remainders give one more each,
    so that the total is the rounded share of all.
    """
    everything = np.arange(len(y))
    if fraction == 0:
        return everything, everything[:0]
    groups = np.unique(y, return_inverse=True)[1] if stratified else np.zeros(len(y), dtype=np.int64)
    sizes = np.bincount(groups)
    quota = sizes * fraction
    give = np.floor(quota).astype(np.int64)
    remainder = np.where(give < sizes - 1, quota - give, -1.0)
    more = max(1, round(len(y) * fraction)) - int(give.sum())
    order = np.argsort(-remainder, kind="stable")
    order = order[remainder[order] >= 0][:more]
    give[order] += 1
    give = np.minimum(give, sizes - 1)
    if give.sum() == 0:
        raise ValueError(f"{what}: {len(y)} examples are too few to hold some out: add examples")
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(np.flatnonzero(groups == group))[:n] for group, n in enumerate(give)]
    held = np.sort(np.concatenate(drawn))
    return np.setdiff1d(everything, held), held


def _split_and_standardise(what: str, source: DataSource, fraction: float, seed: int) -> DataSplits:
    labels = source.classes is not None
    stratified = source.classes is not None and not are_no_classes(source.y, source.classes)  # counts
    x, y = source.x, source.y
    if source.x_test is None or source.y_test is None:
        rest, held = _hold_out(y, stratified, _TEST_FRACTION, _TEST_SEED, what)
        x, y, x_test, y_test = x[rest], y[rest], x[held], y[held]
    else:
        x_test, y_test = source.x_test, source.y_test
    train, validation = _hold_out(y, stratified, fraction, seed, what)
    parts = [(x[train], y[train]), (x[validation], y[validation]), (x_test, y_test)]
    if source.tokens:
        mean, sd = np.zeros(x.shape[1:]), np.ones(x.shape[1:])
    elif source.peak is not None:
        mean, sd = _byte_moments(parts[0][0], source.peak)
    else:
        mean, sd = _moments(parts[0][0], axes=(0, 2, 3) if source.images else (0,))
        if max(np.abs(mean).max(), sd.max()) > np.finfo(np.float32).max:  # what is not finite is larger, too
            raise ValueError(f"{what}: x has values too large for float32: rescale them")
    pairs: list[_Pair] = []
    for inputs, targets in parts:
        if source.tokens:
            inputs = inputs.astype(np.int64)
        elif source.peak is not None:
            inputs = _standardise_bytes(inputs, mean, sd, source.peak)
        else:
            inputs = _standardise(inputs, mean, sd, source.images)
        with np.errstate(over="ignore"):
            targets = targets.astype(np.int64 if labels else np.float32)
        for key, array in (("x", inputs), ("y", targets)):
            if not np.isfinite(array).all():
                raise ValueError(f"{what}: {key} has values too large for float32: rescale them")
        pairs.append((torch.from_numpy(inputs), torch.from_numpy(targets)))
    return DataSplits(
        name=what,
        train=pairs[0],
        validation=pairs[1],
        test=pairs[2],
        classes=source.classes,
        input_shape=tuple(x.shape[1:]),
        mean=torch.from_numpy(mean.astype(np.float32)),
        sd=torch.from_numpy(sd.astype(np.float32)),
        class_names=source.class_names,
    )


def _byte_moments(x: _Array, peak: int) -> tuple[_Array, _Array]:
    """Mean and standard deviation per channel of bytes over `peak`, summed in integers, not rounded."""
    n = x.size // x.shape[1]
    total = x.sum(axis=(0, 2, 3), dtype=np.int64)
    squares = np.square(x, dtype=np.uint16).sum(axis=(0, 2, 3), dtype=np.int64)
    mean = [int(t) / n / peak for t in total]
    sd = [math.sqrt(n * int(s) - int(t) ** 2) / n / peak for t, s in zip(total, squares, strict=True)]
    return np.array(mean), np.array([value or 1.0 for value in sd])


def _standardise_bytes(x: _Array, mean: _Array, sd: _Array, peak: int) -> _Array:
    """Looks every byte up in a table of 256 standardised values, which needs no copy in float64."""
    out = np.empty(x.shape, dtype=np.float32)
    for channel in range(x.shape[1]):
        table = ((np.arange(256) / peak - mean[channel]) / sd[channel]).astype(np.float32)
        out[:, channel] = table[x[:, channel]]
    return out


def _moments(x: _Array, axes: tuple[int, ...]) -> tuple[_Array, _Array]:
    """Mean and standard deviation in float64; 0 and 1 leave a constant feature alone."""
    constant = x.min(axis=axes) == x.max(axis=axes)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, sd = x.mean(axis=axes, dtype=np.float64), x.std(axis=axes, dtype=np.float64)
    return np.where(constant, 0.0, mean), np.where(constant, 1.0, sd)


def _standardise(x: _Array, mean: _Array, sd: _Array, images: bool) -> _Array:
    shape = (-1, 1, 1) if images else mean.shape
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (x.astype(np.float64) - mean.reshape(shape)) / sd.reshape(shape)
        return scaled.astype(np.float32)
