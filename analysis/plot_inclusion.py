"""Figure: how inclusion probabilities are spread, and where in the first layer they lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from bayesprune.analysis.style import POSTERIOR, SEQUENTIAL, check_path, finished, new_figure, styled
from bayesprune.inference.result import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 40
ACROSS = 4
"""Panels in a row."""


def plot_inclusion(
    fit: Fit,
    tensor: str | None = None,
    restart: int = 0,
    image_shape: Sequence[int] | None = None,
    path: str | Path | None = None,
) -> Figure:
    """Draws histograms of the inclusion probabilities and the picture of the first layer.

    One histogram a tensor (logarithmic counts), with the share of probabilities strictly between 0.05 and
    0.95, about which the fit is undecided. The first layer is drawn too: for a Linear layer on images the
    mean inclusion probability of each pixel's weights, for a convolution the probabilities of each filter,
    averaged over its input channels.

    Args:
        fit: The fit.
        tensor: Name of one tensor; default None: all with a prior, and the picture of the first layer.
        restart: Which restart; default the first.
        image_shape: Shape of an input image, `(height, width)` or `(channels, height, width)`; default None:
            a square where the number of inputs is one.
        path: File to write, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: For a MAP, which has no probabilities; an unknown tensor; an `image_shape` that does not
            fit the inputs; or a path whose format is unknown.
    """
    check_path(path)
    probabilities = fit.inclusion_probabilities(restart)
    names = [str(name) for name in probabilities.data_vars]
    if tensor is not None and tensor not in names:
        raise ValueError(f"there is no tensor {tensor!r} with a prior: there are {', '.join(names)}")
    shown = [tensor] if tensor is not None else names
    pictured = shown[0] if tensor is not None else _first_layer(fit, names)
    picture = _picture(probabilities[pictured], image_shape, pictured == _first_layer(fit, names)) if pictured else None
    events = {probabilities[name].attrs["event"] for name in shown}
    title = f"Inclusion probabilities: {events.pop()}" if len(events) == 1 else "Inclusion probabilities"
    panels = len(shown) + (picture is not None)
    columns = min(ACROSS, panels)
    with styled():
        figure, axes = new_figure(math.ceil(panels / columns), columns, title, (2.9, 2.5))
        for axis, name in zip(axes, shown, strict=False):
            _histogram(axis, probabilities[name], names_event=bool(events))
        if picture is not None:
            _show(figure, axes[len(shown)], str(pictured), *picture)
        for axis in axes[panels:]:
            axis.remove()
        return finished(figure, path)


def _histogram(axis: Any, values: xr.DataArray, names_event: bool) -> None:
    """One tensor's probabilities."""
    flat = values.values.ravel()
    counts, _, _ = axis.hist(flat, bins=np.linspace(0.0, 1.0, BINS + 1), color=POSTERIOR, log=True)
    axis.set_xlim(0.0, 1.0)
    axis.set_ylim(0.7, counts.max() * (6.0 if names_event else 1.5))
    axis.set_xlabel("inclusion probability")
    axis.set_ylabel("weights")
    undecided = float(((flat > 0.05) & (flat < 0.95)).mean())
    axis.set_title(f"{values.name}, {undecided:.0%} undecided")
    if names_event:
        axis.text(0.98, 0.95, values.attrs["event"], ha="right", va="top", fontsize=7, transform=axis.transAxes)


def _first_layer(fit: Fit, names: Sequence[str]) -> str | None:
    """The network's first weight matrix or filter bank, if it has a prior."""
    for name, parameter in fit.model.network.named_parameters():
        if parameter.ndim >= 2:
            return name if name in names else None
    return None


def _picture(values: xr.DataArray, image_shape: Sequence[int] | None, first: bool) -> tuple[np.ndarray, str] | None:
    """The image to draw and what it shows, or None where there is nothing to draw as an image."""
    array = values.values
    if array.ndim == 4:
        if min(array.shape[2:]) == 1 and max(array.shape[2:]) == 1:
            return None
        return _mosaic(array.mean(axis=1)), "each filter"
    if array.ndim != 2 or (image_shape is None and not first):
        return None
    inputs = array.shape[1]
    if image_shape is None:
        side = math.isqrt(inputs)
        if side * side != inputs or side < 4:
            return None
        image_shape = (side, side)
    if len(image_shape) not in (2, 3) or math.prod(image_shape) != inputs:
        raise ValueError(
            f"image_shape={tuple(image_shape)} has {math.prod(image_shape)} pixels, but {values.name} takes "
            f"{inputs} inputs: give (height, width) or (channels, height, width)"
        )
    image = array.mean(axis=0).reshape(image_shape)
    return (image.mean(axis=0) if image.ndim == 3 else image), "mean of each pixel"


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


def _show(figure: Any, axis: Any, name: str, image: np.ndarray, what: str) -> None:
    """Draws an image whose colours run over the probabilities in it."""
    drawn = axis.imshow(image, cmap=SEQUENTIAL, interpolation="nearest")
    axis.set_title(f"{name}, {what}")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=axis, shrink=0.85, label="inclusion probability")
