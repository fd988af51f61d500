"""What training cost where units were removed on the way, and how early they went."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr

from bayesprune.analysis.tables.gate_records import gate_records
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.watching.endings import endings_of

EARLY = 0.25
"""Share of the steps at which is counted how much of the removal was done."""
PASSES = 3
"""A step in forward passes: the backward pass has two products of matrices for each one of the forward pass."""


@dataclass(frozen=True)
class TrainingCosts:
    """What `training_costs` counts; print it.

    Attributes:
        steps: Optimizer steps that were done.
        units: Units in the network by set, `(start, end)`.
        branches: Residual branches with a gate, and how many of them have a gate probability above zero in the end;
            (0, 0) without layer gates.
        decided_early: Of the units whose gate probability is zero in the end, the share for which it was zero from a
            quarter of the steps on; NaN where there are none.
        removed_early: Of the units that were removed physically, the share that was at a quarter of the steps; NaN
            where there are none.
        training_macs: Multiply-accumulate operations (MACs) of all steps, without the estimator's.
        estimator_macs: Those of the evaluations that estimate the gradient of the gate probabilities.
        dense_macs: Those of the whole network in the same steps without gates.
    """

    steps: int
    units: dict[str, tuple[int, int]]
    branches: tuple[int, int]
    decided_early: float
    removed_early: float
    training_macs: float
    estimator_macs: float
    dense_macs: float

    @property
    def architecture(self) -> str:
        """Units of the sets at the start and in the end, such as ``"300-100 -> 112-49"``."""
        return " -> ".join("-".join(str(pair[end]) for pair in self.units.values()) for end in (0, 1))

    @property
    def ratio(self) -> float:
        """MACs of all that was computed as a share of `dense_macs`."""
        return (self.training_macs + self.estimator_macs) / self.dense_macs

    def __str__(self) -> str:
        branches = f", residual branches {self.branches[0]} -> {self.branches[1]}" if self.branches[0] else ""
        return "\n".join(
            [
                f"units {self.architecture}{branches}",
                f"of the removal at {EARLY:.0%} of the steps: decided {_percent(self.decided_early)}, "
                f"done {_percent(self.removed_early)}",
                f"{self.training_macs + self.estimator_macs:.4g} MACs in {self.steps:,} steps, "
                f"{self.estimator_macs:.4g} of them for the gates' gradient; "
                f"without gates {self.dense_macs:.4g}, ratio {self.ratio:.3f}",
            ]
        )


def training_costs(fit: Fit, restart: int = 0) -> TrainingCosts:
    """Counts what the training of a network with unit gates cost, beside the whole network without gates.

    A step counts as three forward passes (forward, and backward of twice the cost) on the examples of its batch, of the
    network as it was at that step; the estimator's evaluations are forward passes on the same examples, until the gates
    are rounded. A record of the trace holds until the next one. The last batch of an epoch is as small as it is; a
    `DataLoader` that has batches of its own is counted as if they had `batch_size` examples.

    Args:
        fit: A fit with unit gates.
        restart: Which restart; default the first.

    Returns:
        The counts; exact for the network's MACs, as `costs` counts them.

    Raises:
        ValueError: If the fit has no unit gates, or no such restart.
    """
    records = gate_records(fit, restart)
    step, settings = records["gate_step"].values, fit.settings
    stopped = any(ending["restart"] == restart for ending in endings_of(settings))
    steps = int(step[-1]) if stopped else int(settings["steps"])
    edges = np.append(step, steps).astype(np.int64)
    rounding = int(records.attrs["gate_rounding_step"])
    with_gates = np.minimum(edges, rounding) if rounding >= 0 else edges
    size, batch = int(records.attrs["data_size"]), int(settings["batch_size"])
    examples, gated_examples = (np.diff(_examples_seen(ends, size, batch)) for ends in (edges, with_gates))
    macs = records["realised_macs"].values
    theta = records["theta"].values
    of_layers = records["is_layer"].values
    left = records["units_left"].values.astype(int)
    early = int(np.searchsorted(step, EARLY * steps, side="right")) - 1  # the record that holds then
    gone = theta[:, ~of_layers] == 0.0
    return TrainingCosts(
        steps=steps,
        units=_ends(records, left),
        branches=(int(of_layers.sum()), int((theta[-1, of_layers] > 0.0).sum())),
        decided_early=_share(gone[early:].all(axis=0).sum(), gone[-1].sum()),
        removed_early=_share((left[0] - left[early]).sum(), (left[0] - left[-1]).sum()),
        training_macs=PASSES * float(macs @ examples),
        estimator_macs=float(records.attrs["evaluations_a_step"]) * float(macs @ gated_examples),
        dense_macs=PASSES * float(records.attrs["dense_macs"]) * float(examples.sum()),
    )


def _examples_seen(steps: np.ndarray, size: int, batch: int) -> np.ndarray:
    """Examples in the first so many steps, where each epoch has all `size` examples in batches of `batch`."""
    epochs, rest = np.divmod(steps, math.ceil(size / batch))
    return epochs * size + rest * batch


def _ends(records: xr.Dataset, left: np.ndarray) -> dict[str, tuple[int, int]]:
    names = map(str, records["unit_group"].values)
    return {name: (int(start), int(end)) for name, start, end in zip(names, left[0], left[-1], strict=True)}


def _share(part: int, whole: int) -> float:
    return float(part) / float(whole) if whole else math.nan


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.1%}"
