"""Figure: how inclusion probabilities are spread, and where in the layers they lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from bayesprune.analysis.plots.short_names import short_names
from bayesprune.analysis.plots.style import POSTERIOR, SEQUENTIAL, check_path, finished, new_figure, of_name, styled
from bayesprune.inference.fit_result import Fit
from bayesprune.models.language.inclusion import is_undecided

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 40
ACROSS = 4
"""Panels in a row."""
MAPS = ("first", "all", "none")
SCALES = ("own", "shared")
LETTERS, TITLE = 24, 33
"""Of a tensor's name in a title, and of a title on one line."""
FLAT = 1e-4
"""A map whose probabilities differ by less has no colours of its own."""
BLOCKS = 64
"""Most blocks along a side of a map of outputs by inputs."""


def plot_inclusion(
    fit: Fit,
    tensor: str | None = None,
    restart: int = 0,
    image_shape: Sequence[int] | None = None,
    maps: str = "first",
    path: str | Path | None = None,
    colours: str = "own",
) -> Figure:
    """Draws histograms of the inclusion probabilities, and maps of where in a layer they lie.

    One histogram a tensor (logarithmic counts), with the share of probabilities strictly between 0.05 and
    0.95, about which the fit is undecided. A map shows, of a first Linear layer on images, the mean inclusion
    probability of each pixel's weights; of a convolution the probabilities of each filter, averaged over its
    input channels; of any other layer outputs by inputs, in at most 64 x 64 blocks, each with its mean. The colours of
    a map run over the probabilities in it, and its bar says from where to where; ``colours="shared"`` lets those of all
    maps run from 0 to 1, to compare layers.

    Args:
        fit: The fit.
        tensor: Name of one tensor, drawn with its map; default None: all with a prior.
        restart: Which restart; default the first.
        image_shape: Shape of an input image, `(height, width)` or `(channels, height, width)`; default None:
            a square where the number of inputs is one.
        maps: Without `tensor`, which layers get a map: ``"first"`` (default), ``"all"`` or ``"none"``.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.
        colours: ``"own"`` (default) or ``"shared"``.

    Returns:
        The figure.

    Raises:
        ValueError: For a MAP, which has no probabilities; an unknown tensor or choice of maps or colours; an
            `image_shape` that does not fit the inputs; or a path whose format is unknown.
    """
    check_path(path)
    if maps not in MAPS:
        raise ValueError(f"maps={maps!r} is unknown: expected one of {', '.join(MAPS)}")
    if colours not in SCALES:
        raise ValueError(f"colours={colours!r} is unknown: expected one of {', '.join(SCALES)}")
    probabilities = fit.inclusion_probabilities(restart)
    names = [str(name) for name in probabilities.data_vars]
    if tensor is not None and tensor not in names:
        raise ValueError(f"there is no tensor {tensor!r} with a prior: there are {', '.join(names)}")
    shown = [tensor] if tensor is not None else names
    first = _first_layer(fit, names)
    short = short_names(shown if first is None else {*shown, first}, LETTERS)
    mapped = shown if tensor is not None or maps == "all" else [first] if maps == "first" and first else []
    pictures = [
        found for name in mapped
        if (found := _picture(probabilities[name], short[name], image_shape, name == first, tensor is not None))
    ]  # fmt: skip
    events = {probabilities[name].attrs["event"] for name in shown}
    title = f"Inclusion probabilities: {events.pop()}" if len(events) == 1 else "Inclusion probabilities"
    if len(pictures) > 1:
        title += ", maps in the same colours" if colours == "shared" else ", each map in colours of its own"
    panels = len(shown) + len(pictures)
    columns = min(ACROSS, panels)
    with styled():
        figure, axes = new_figure(math.ceil(panels / columns), columns, title, (2.9, 2.5))
        for axis, name in zip(axes, shown, strict=False):
            _histogram(axis, probabilities[name], short[name], names_event=bool(events))
        for axis, picture in zip(axes[len(shown) :], pictures, strict=False):
            _show(figure, axis, picture, shared=colours == "shared")
        for axis in axes[panels:]:
            axis.remove()
        return finished(figure, path)


def _histogram(axis: Any, values: xr.DataArray, name: str, names_event: bool) -> None:
    """One tensor's probabilities."""
    flat = values.values.ravel()
    counts, _, _ = axis.hist(flat, bins=np.linspace(0.0, 1.0, BINS + 1), color=POSTERIOR, log=True)
    axis.set_xlim(0.0, 1.0)
    axis.set_ylim(0.7, max(counts.max() * (6.0 if names_event else 1.5), 11.0))  # a decade at least has numbers
    axis.set_xlabel("inclusion probability")
    axis.set_ylabel(f"weights (of {flat.size:,})")
    undecided = float(is_undecided(flat).mean())
    axis.set_title(of_name(name, f"{undecided:.0%} undecided", TITLE))
    if names_event:
        axis.text(0.98, 0.95, values.attrs["event"], ha="right", va="top", fontsize=7, transform=axis.transAxes)


def _first_layer(fit: Fit, names: Sequence[str]) -> str | None:
    """The network's first weight matrix or filter bank, if it has a prior."""
    for name, parameter in fit.model.network.named_parameters():
        if parameter.ndim >= 2:
            return name if name in names else None
    return None


@dataclass(frozen=True)
class _Picture:
    """An image of a layer; `sizes` are outputs and inputs where it shows blocks of them."""

    title: str
    image: np.ndarray
    sizes: tuple[int, int] | None = None


def _picture(
    values: xr.DataArray, name: str, image_shape: Sequence[int] | None, first: bool, alone: bool
) -> _Picture | None:
    """The map of a layer, or None for a vector; `image_shape` is of the first layer, or of the only one asked for."""
    array = values.values
    if array.ndim < 2:
        return None
    if array.ndim == 4 and max(array.shape[2:]) > 1:
        return _Picture(of_name(name, "each filter", TITLE), _mosaic(array.mean(axis=1)))
    if array.ndim == 2 and (first or (alone and image_shape is not None)):
        inputs = array.shape[1]
        side = math.isqrt(inputs)
        shape = image_shape or ((side, side) if side * side == inputs and side >= 4 else None)
        if shape is not None:
            if len(shape) not in (2, 3) or math.prod(shape) != inputs:
                raise ValueError(
                    f"image_shape={tuple(shape)} has {math.prod(shape)} pixels, but {values.name} takes "
                    f"{inputs} inputs: give (height, width) or (channels, height, width)"
                )
            image = array.mean(axis=0).reshape(shape)
            return _Picture(
                of_name(name, "mean of each pixel", TITLE), image.mean(axis=0) if image.ndim == 3 else image
            )
    matrix = array.reshape(*array.shape[:2], -1).mean(axis=2)
    return _Picture(of_name(name, "outputs by inputs", TITLE), _blocks(matrix), matrix.shape)


def _blocks(matrix: np.ndarray) -> np.ndarray:
    """Means of blocks of a matrix, as equal as its size allows, at most `BLOCKS` along each side."""
    for axis in (0, 1):
        size = matrix.shape[axis]
        edges = np.linspace(0, size, min(size, BLOCKS) + 1).round().astype(int)
        lengths = np.expand_dims(np.diff(edges), 1 - axis)
        matrix = np.add.reduceat(matrix, edges[:-1], axis=axis) / lengths
    return matrix


def _mosaic(filters: np.ndarray) -> np.ndarray:
    """Filters `(n, height, width)` side by side with a gap of one pixel."""
    count, height, width = filters.shape
    columns = math.ceil(math.sqrt(count * 1.2))
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for number, values in enumerate(filters):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        canvas[top : top + height, left : left + width] = values
    return canvas


def _show(figure: Any, axis: Any, picture: _Picture, shared: bool) -> None:
    """Draws an image whose colours run over the probabilities in it, or from 0 to 1 where all maps share them."""
    how: dict[str, Any] = {}
    if picture.sizes is not None:
        outputs, inputs = picture.sizes
        how = {"extent": (-0.5, inputs - 0.5, outputs - 0.5, -0.5), "aspect": "auto"}
    low, high = float(np.nanmin(picture.image)), float(np.nanmax(picture.image))
    span = f"{low:.3g} to {high:.3g}" if f"{low:.3g}" != f"{high:.3g}" else f"{low:.3g} everywhere"
    ends = (0.0, 1.0) if shared or high - low < FLAT else (low, high)
    drawn = axis.imshow(picture.image, cmap=SEQUENTIAL, interpolation="nearest", vmin=ends[0], vmax=ends[1], **how)
    axis.set_title(picture.title)
    if picture.sizes is None:
        axis.set_xticks([])
        axis.set_yticks([])
    else:
        axis.set_xlabel("input")
        axis.set_ylabel("output")
        axis.locator_params(integer=True, min_n_ticks=1)
    axis.spines[:].set_visible(False)
    shrink = 0.65 if picture.sizes is None else 0.85  # an image of square pixels does not fill its panel
    figure.colorbar(drawn, ax=axis, shrink=shrink, label=f"inclusion probability,\n{span}")
