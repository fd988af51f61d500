"""What masks did during a fit: density, dead channels, gradients and movement, a row an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.models.masks.effective_masks import effective_masks
from bayesprune.models.masks.mask_way import Masks

__all__ = ["VARIABLES", "Records"]

BY_MASKS = ("mask_density", "dead_outputs", "dead_inputs")
BY_PATHS = ("effective_density", "effectively_dead_outputs", "effectively_dead_inputs")
BY_GRADIENT = ("gradient_norm", "active_gradient_norm")
VARIABLES = (*BY_MASKS, *BY_PATHS, *BY_GRADIENT)
"""What a row says of each tensor."""


class Records:
    """Watches the masks of one restart; it changes nothing, and waits for a device at the end of an epoch only.

    Of each tensor: ``mask_density``, share of its weights that are active; ``dead_outputs`` and ``dead_inputs``, shares
    of its output channels without an active weight and of its input channels that none reads; ``effective_density``,
    ``effectively_dead_outputs`` and ``effectively_dead_inputs``, the same of the weights that lie on a path from input
    to output (`effective_masks`); ``gradient_norm`` and ``active_gradient_norm``, Euclidean norms of the dense gradient
    that the latest update saw (`Taken.weight_gradient`), over all places and over those that were active then. NaN:
    nothing is known, as of gradients where no score asks for any.

    Of all together, in ``masks``: ``density``; ``effective``, share of the active weights that lie on a path;
    ``collapsed``, number of tensors of which none does; ``weights_per_channel``; ``ever_active``, share of all weights
    that have been active at any time (R_s of Liu et al. 2021); ``overlap`` and ``first_overlap``, weights that are
    active both now and at the end of the epoch before, or at the start, over those that are at either time (Jaccard);
    ``exchanged``, weights exchanged in the epoch.

    Args:
        masks: The masks, as they are before the first step.

    Attributes:
        row: That of the latest epoch: numbers by name, by variable.
    """

    def __init__(self, masks: Masks) -> None:
        self.masks = masks
        self._first, self._before, self._ever = self._copied(), self._copied(), self._copied()
        device = next(iter(self._first.values())).device
        self._norms = torch.full((2, len(masks.masks)), math.nan, device=device)
        self._exchanged = 0
        self._input: tuple[int, ...] | None = None
        self._unfollowed = ""
        self.row: dict[str, dict[str, float]] = {}

    def ran(self, x: Tensor) -> None:
        """Notes what inputs look like, for paths.

        Args:
            x: Inputs of a step, `(batch, ...)`.
        """
        if x.is_floating_point():
            self._input = tuple(x.shape[1:])
        else:
            self._unfollowed = "its inputs are whole numbers, which no path begins at"

    @torch.no_grad()
    def saw(self, gradient: Mapping[str, Tensor]) -> None:
        """Notes the norms of a dense gradient, before masks change.

        Args:
            gradient: Of the loss with respect to the weights, by name, `(out, in, ...)`; none where nobody asks for it.
        """
        if gradient:
            rows = [(gradient[name], gradient[name] * mask) for name, mask in self.masks.masks.items()]
            self._norms = torch.stack([torch.stack([one.float().norm() for one in row]) for row in rows], dim=1)

    @torch.no_grad()
    def changed(self) -> None:
        """Notes which weights are active, after masks have changed."""
        for name, mask in self.masks.masks.items():
            self._ever[name] |= mask

    @torch.no_grad()
    def end_epoch(self, network: nn.Module, exchanged: int) -> None:
        """Makes the row of an epoch.

        Args:
            network: The network, for its paths.
            exchanged: Weights that were exchanged so far.
        """
        masks = dict(self.masks.masks.items())
        paths = self._paths(network, masks)
        counts = self._counts(masks, paths)
        norms = dict(zip(masks, self._norms.t().tolist(), strict=True))
        self.row = {key: {} for key in VARIABLES}
        for name, mask in masks.items():
            sizes = (mask.numel(), mask.shape[0], mask.shape[1])
            for prefix, keys in (("", BY_MASKS), ("path ", BY_PATHS)):
                for key, what, size in zip(keys, _COUNTED, sizes, strict=True):
                    self.row[key][name] = counts[name][prefix + what] / size
            for key, norm in zip(BY_GRADIENT, norms[name], strict=True):
                self.row[key][name] = norm
        whole = {key: sum(found[key] for found in counts.values()) for key in next(iter(counts.values()))}
        size = sum(mask.numel() for mask in masks.values())
        without = sum(found["path active"] == 0.0 for found in counts.values())
        self.row["masks"] = {
            "density": whole["active"] / size,
            "effective": whole["path active"] / whole["active"],
            "collapsed": math.nan if paths is None else float(without),
            "weights_per_channel": whole["active"] / sum(sum(mask.shape) for mask in masks.values()),
            "ever_active": whole["ever"] / size,
            "overlap": whole["stayed"] / whole["either"],
            "first_overlap": whole["stayed first"] / whole["either first"],
            "exchanged": float(exchanged - self._exchanged),
        }
        self._exchanged, self._before = exchanged, self._copied()

    @torch.no_grad()
    def report(self, network: nn.Module) -> dict[str, Any]:
        """Tensors of which no weight lies on a path, and how many output channels of each are effectively dead.

        As the masks are now: ``collapsed``, names; ``dead``, by name of those that have any the number of such channels
        and of all; ``paths``, why none were followed, or nothing.

        Args:
            network: The network, for its paths.
        """
        paths = self._paths(network, dict(self.masks.masks.items())) or {}
        found = {name: {key: int(count) for key, count in _of_mask(mask).items()} for name, mask in paths.items()}
        return {
            "collapsed": [name for name, one in found.items() if not one["active"]],
            "dead": {
                name: [one["dead outputs"], paths[name].shape[0]] for name, one in found.items() if one["dead outputs"]
            },
            "paths": self._unfollowed,
        }

    def state_dict(self) -> dict[str, Any]:
        """Which weights were active when, the norms of the latest gradient, and the latest row."""
        return {
            "first": dict(self._first), "before": dict(self._before), "ever": dict(self._ever), "norms": self._norms,
            "exchanged": self._exchanged, "row": self.row, "paths": self._unfollowed,
            "input": None if self._input is None else list(self._input),
        }  # fmt: skip

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Goes on from there."""
        device = self._norms.device
        self._first, self._before, self._ever = (
            {name: mask.to(device) for name, mask in kept[key].items()} for key in ("first", "before", "ever")
        )
        self._norms, self._exchanged, self.row = kept["norms"].to(device), kept["exchanged"], kept["row"]
        self._unfollowed = kept["paths"]
        self._input = None if kept["input"] is None else tuple(kept["input"])

    # -- inside ----------------------------------------------------------------------------------------------

    def _copied(self) -> dict[str, Tensor]:
        return {name: mask.clone() for name, mask in self.masks.masks.items()}

    def _paths(self, network: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The weights on a path; None where paths cannot be followed, which is no reason to break off a training."""
        if self._unfollowed or self._input is None:
            return None
        try:
            return effective_masks(network, masks, self._input)
        except ValueError as problem:
            self._unfollowed = str(problem)
            return None

    def _counts(self, masks: Mapping[str, Tensor], paths: Mapping[str, Tensor] | None) -> dict[str, dict[str, float]]:
        """What there is to count, of all tensors, read from the device at once."""
        rows, names = [], list(masks)
        for name, mask in masks.items():
            before, first = self._before[name], self._first[name]
            row = {
                **_of_mask(mask),
                "ever": self._ever[name].sum(),
                "stayed": (mask & before).sum(),
                "either": (mask | before).sum(),
                "stayed first": (mask & first).sum(),
                "either first": (mask | first).sum(),
            }
            if paths is not None:
                row |= {f"path {key}": value for key, value in _of_mask(paths[name]).items()}
            rows.append(row)
        read = torch.stack([torch.stack(list(row.values())) for row in rows]).tolist()
        unknown = dict.fromkeys((f"path {key}" for key in _COUNTED), math.nan) if paths is None else {}
        return {
            name: unknown | dict(zip(rows[0], values, strict=True)) for name, values in zip(names, read, strict=True)
        }


_COUNTED = ("active", "dead outputs", "dead inputs")
"""Numbers of a mask, in the order of `BY_MASKS`: weights, and channels without any."""


def _of_mask(mask: Tensor) -> dict[str, Tensor]:
    """How many weights there are, and output channels and input channels without one."""
    by_channel = mask.flatten(2).any(2) if mask.ndim > 2 else mask
    return {
        "active": mask.sum(),
        "dead outputs": (~by_channel.any(1)).sum(),
        "dead inputs": (~by_channel.any(0)).sum(),
    }
