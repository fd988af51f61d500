"""The pruning trace: how loss, scores, sparsity and inclusion moved during training, as an xarray data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from bayesprune.inference.guides.finite_parameters import check_finite_parameters
from bayesprune.inference.guides.guide import Guide
from bayesprune.models.bayesian_network import BayesianNetwork

BINS = 20
"""Bins of the histogram of inclusion probabilities."""
RELATIVE = 0.1
"""Share of a layer's root mean square below which a weight counts as zero where the prior has no atom."""


@torch.no_grad()
def inclusion_record(guide: Guide) -> dict[str, Any]:
    """Sparsity (fraction of zeros) of every tensor with a prior, and of the network, as the guide stands.

    For a prior with an atom and a gate it is the share of weights whose inclusion probability is at most 1/2 (the
    median-probability model), with a histogram of the probabilities; for any other the share of weights below a
    tenth of their layer's root mean square, at the guide's centre. Weights of units whose gate is closed, or that have
    been removed, are zeros.

    Returns:
        ``sparsity`` by tensor, ``network_sparsity``, and ``histogram`` (counts, `BINS`) by tensor with gates.

    Raises:
        NonFiniteLossError: If a parameter of the guide is not finite.
    """
    check_finite_parameters(guide)
    model = guide.model
    probabilities = guide.inclusion()
    centre = guide.means()
    if guide.gates is not None:
        centre |= {site: (theta > 0.5).to(theta.dtype) for site, theta in guide.gates.probabilities().items()}
    weights = model.weights_at(centre)
    sparsity, histogram = dict.fromkeys(model.declared_sizes, 1.0), {}
    units, left = guide.open_units(0.5), 0
    for name, prior in model.priors.items():
        event = prior.hierarchy.included
        gate = probabilities.get(prior.sites[event.gate].name) if event is not None and event.gate else None
        if gate is not None:
            inclusion = prior.spread(str(event.gate), gate)  # type: ignore[union-attr]
            kept = inclusion > 0.5
            histogram[name] = torch.histc(inclusion.float(), BINS, 0.0, 1.0).cpu().numpy()
        else:
            weight = weights[name]
            kept = weight.abs() > (
                RELATIVE * weight.square().mean().sqrt() if event is None or event.kind != "atom" else 0.0
            )
        kept = kept & units[name] if name in units else kept
        sparsity[name] = 1.0 - int(kept.sum()) / model.declared_sizes[name]  # weights of removed units are zeros
        left += int(kept.sum())
    total = sum(model.declared_sizes.values())
    return {"sparsity": sparsity, "network_sparsity": 1.0 - left / total, "histogram": histogram}


@torch.no_grad()
def scale_record(guide: Guide) -> dict[str, float]:
    """The guide's small sites entry by entry and its large ones by their means: what convergence is judged on.

    Positive sites by the logarithm, unit-interval sites by the logit, gates by their mean probability, real
    sites of many entries by their root mean square.
    """
    record: dict[str, float] = {}
    for family in guide.families:
        record |= family.summaries()  # type: ignore[operator]
    return record


def kl_by_tensor(model: BayesianNetwork, kl_of: Mapping[str, Tensor]) -> dict[str, float]:
    """Each tensor's share of the KL term in nats.

    Args:
        model: The model.
        kl_of: The parts of the KL term by site, as `Terms` has them; none make zeros.
    """
    parts = dict.fromkeys(model.declared_sizes, 0.0)
    owners = {site.name: name for name, prior in model.priors.items() for site in prior.sites.values()}
    for site, term in kl_of.items():
        owner = owners.get(site, site.removesuffix(".factor"))
        if owner in parts:  # gates of units belong to no tensor
            parts[owner] += float(term.detach())
    return parts


def trace_dataset(
    histories: Sequence[Sequence[dict[str, Any]]],
    iterates: Sequence[Sequence[dict[str, float]]],
    attrs: dict[str, Any],
) -> xr.Dataset:
    """Joins the records of all restarts.

    Args:
        histories: One list a restart, one dict an epoch.
        iterates: One list a restart, one dict a recorded step.
        attrs: Numbers and strings to store with the data set.

    Returns:
        Variables over `(restart, epoch)`: ``loss``, ``expected_log_likelihood``, ``kl`` (full-data nats),
        ``kl_weight``, ``learning_rate``, ``seconds``, ``network_sparsity`` and ``validation_*``; ``sparsity`` and
        ``kl_of`` over `(restart, epoch, tensor)`; ``inclusion_histogram`` over `(..., bin)`; ``negative_elbo`` and
        ``scales`` over `(restart, iterate[, quantity])`. Restarts that were stopped early are padded with NaN.
    """
    tensors = list(histories[0][0]["sparsity"])
    epochs = max(len(h) for h in histories)
    data: dict[str, Any] = {}
    scalars = [k for k, v in histories[0][0].items() if isinstance(v, (int, float))]
    for key in scalars:
        data[key] = (("restart", "epoch"), _padded([[row[key] for row in h] for h in histories], epochs))
    for key in ("sparsity", "kl_of"):
        rows = [[[row[key][t] for t in tensors] for row in h] for h in histories]
        data[key] = (("restart", "epoch", "tensor"), _padded(rows, epochs))
    gated = list(histories[0][0]["histogram"])
    if gated:
        gone = np.full(BINS, np.nan)
        rows = [[[row["histogram"].get(t, gone) for t in gated] for row in h] for h in histories]
        data["inclusion_histogram"] = (("restart", "epoch", "gated_tensor", "bin"), _padded(rows, epochs))
    length = max(len(i) for i in iterates)
    quantities = [  # but for those of branches that were removed
        k for k in iterates[0][0] if k not in ("negative_elbo", "step") and all(k in i[-1] for i in iterates)
    ]
    for key in ("negative_elbo", "step"):
        data["iterate_step" if key == "step" else key] = (
            ("restart", "iterate"),
            _padded([[row[key] for row in i] for i in iterates], length),
        )
    rows = [[[row[q] for q in quantities] for row in i] for i in iterates]
    data["scales"] = (("restart", "iterate", "quantity"), _padded(rows, length))
    coords: dict[str, Any] = {
        "restart": np.arange(len(histories)),
        "epoch": np.arange(1, epochs + 1),
        "tensor": tensors,
        "iterate": np.arange(length),
        "quantity": quantities,
    }
    if gated:
        coords |= {"gated_tensor": gated, "bin": (np.arange(BINS) + 0.5) / BINS}
    return xr.Dataset(data, coords=coords, attrs=attrs)


def gate_variables(
    trace: xr.Dataset,
    units: Sequence[tuple[str, int, bool]],
    records: Sequence[Sequence[dict[str, Any]]],
    report: dict[str, Any],
) -> xr.Dataset:
    """Adds what gates of units did to a trace.

    Args:
        trace: The trace.
        units: Set, number and whether it is a layer's gate, of every gate that was declared.
        records: One list a restart, one dict a record.
        report: Of the first restart; see `bayesprune.inference.rules.gate_training.GateTraining`.

    Returns:
        The trace with ``theta`` over `(restart, gate_record, unit)`, ``units_left`` and ``attracted`` (how many) over
        `(restart, gate_record, unit_group)`, ``gate_step``, ``expected_macs`` and ``realised_macs`` over `(restart,
        gate_record)`.
    """
    length = max(len(each) for each in records)
    groups = list(records[0][0]["units_left"])
    over = ("restart", "gate_record")
    data: dict[str, Any] = {
        "gate_step": (over, _padded([[row["step"] for row in each] for each in records], length)),
        "theta": ((*over, "unit"), _padded([[row["theta"] for row in each] for each in records], length)),
    }
    for key in ("units_left", "attracted"):
        rows = [[[row[key].get(group, 0) for group in groups] for row in each] for each in records]
        data[key] = ((*over, "unit_group"), _padded(rows, length))
    for key in ("expected_macs", "realised_macs"):
        data[key] = (over, _padded([[row[key] for row in each] for each in records], length))
    coords = {
        "unit_group": groups,
        "unit_set": ("unit", [owner for owner, _, _ in units]),
        "unit_number": ("unit", [number for _, number, _ in units]),
        "is_layer": ("unit", [is_layer for _, _, is_layer in units]),
    }
    added = trace.assign(data).assign_coords(coords)
    added["theta"] = added["theta"].astype(np.float32)
    return added.assign_attrs(
        dense_macs=report["dense_macs"],
        gate_rounding_step=report["rounding_step"],
        evaluations_a_step=report["evaluations_a_step"],
    )


def _padded(rows: Sequence[Sequence[Any]], length: int) -> np.ndarray[Any, Any]:
    arrays = [np.asarray(r, dtype=np.float64) for r in rows]
    return np.stack([np.concatenate([a, np.full((length - len(a), *a.shape[1:]), np.nan)]) for a in arrays])
