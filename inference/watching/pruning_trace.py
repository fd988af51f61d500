"""The pruning trace: how loss, scores, sparsity and inclusion moved during training, as an xarray data set."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from bayesprune.inference.guides.finite_parameters import check_finite_parameters
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.left_in import left_in, nearly_zero
from bayesprune.inference.rules.padding import padded
from bayesprune.models.bayesian_network import BayesianNetwork

BINS = 20
"""Bins of the histogram of inclusion probabilities."""
OWN = ("sparsity", "near_zero", "kl_of", "histogram")
"""What a row of the history says by name itself; rules may add more."""


@torch.no_grad()
def inclusion_record(guide: Guide) -> dict[str, Any]:
    """How sparse each tensor is, by what the guide says now.

    Sparsity is the fraction of zeros, by the rule of `left_in`: for gates of the median-probability model. Under a
    prior without an atom no weight is a zero; there `nearly_zero` says how many are small. Weights of units whose gate
    is closed, or that have been removed, are zeros.

    Returns:
        ``sparsity`` by tensor and ``network_sparsity``; ``near_zero`` by tensor whose prior has no atom (the share of
        weights that are zero or nearly so), and ``network_near_zero``, NaN where there is no such tensor; ``histogram``
        (of inclusion probabilities, counts, `BINS`) by tensor with gates.

    Raises:
        NonFiniteLossError: If a parameter of the guide is not finite.
    """
    check_finite_parameters(guide)
    model, probabilities = guide.model, guide.inclusion()
    sizes, total = model.declared_sizes, sum(model.declared_sizes.values())
    left = {name: int(there.sum()) for name, there in left_in(guide).items()}
    large = {name: small.numel() - int(small.sum()) for name, small in nearly_zero(guide).items()}
    histogram = {}
    for name, prior in model.priors.items():
        event = prior.hierarchy.included
        gate = probabilities.get(prior.sites[event.gate].name) if event is not None and event.gate else None
        if gate is not None:
            inclusion = prior.spread(str(event.gate), gate)  # type: ignore[union-attr]
            histogram[name] = torch.histc(inclusion.float(), BINS, 0.0, 1.0).cpu().numpy()
    # Weights of removed units are zeros: sizes are those that were declared.
    return {
        "sparsity": {name: 1.0 - left.get(name, 0) / size for name, size in sizes.items()},
        "network_sparsity": 1.0 - sum(left.values()) / total,
        "near_zero": {name: 1.0 - count / sizes[name] for name, count in large.items()},
        "network_near_zero": 1.0 - sum({**left, **large}.values()) / total if large else math.nan,
        "histogram": histogram,
    }


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
        ``kl_of`` over `(restart, epoch, tensor)`, and ``near_zero``, with NaN for tensors whose prior has an atom, and
        ``network_near_zero`` (see `inclusion_record`); ``inclusion_histogram`` over `(..., bin)`; ``negative_elbo`` and
        ``scales`` over `(restart, iterate[, quantity])`. What rules say of an epoch comes by its own name, over
        `(restart, epoch)`, or by names over `(restart, epoch, KEY_name)`. Restarts that were stopped early are padded
        with NaN.
    """
    histories = [[_of_today(row) for row in history] for history in histories]
    tensors = list(histories[0][0]["sparsity"])
    epochs = max(len(h) for h in histories)
    data: dict[str, Any] = {}
    scalars = [k for k, v in histories[0][0].items() if isinstance(v, (int, float))]
    for key in scalars:
        data[key] = (("restart", "epoch"), padded([[row[key] for row in h] for h in histories], epochs))
    for key in ("sparsity", "near_zero", "kl_of"):
        rows = [[[row[key].get(t, math.nan) for t in tensors] for row in h] for h in histories]
        data[key] = (("restart", "epoch", "tensor"), padded(rows, epochs))
    named = {k: list(v) for k, v in histories[0][0].items() if isinstance(v, Mapping) and k not in OWN}
    for key, names in named.items():  # of rules
        rows = [[[row.get(key, {}).get(n, math.nan) for n in names] for row in h] for h in histories]
        data[key] = (("restart", "epoch", f"{key}_name"), padded(rows, epochs))
    gated = list(histories[0][0]["histogram"])
    if gated:
        gone = np.full(BINS, np.nan)
        rows = [[[row["histogram"].get(t, gone) for t in gated] for row in h] for h in histories]
        data["inclusion_histogram"] = (("restart", "epoch", "gated_tensor", "bin"), padded(rows, epochs))
    length = max(len(i) for i in iterates)
    quantities = [  # but for those of branches that were removed
        k for k in iterates[0][0] if k not in ("negative_elbo", "step") and all(k in i[-1] for i in iterates)
    ]
    for key in ("negative_elbo", "step"):
        data["iterate_step" if key == "step" else key] = (
            ("restart", "iterate"),
            padded([[row[key] for row in i] for i in iterates], length),
        )
    rows = [[[row[q] for q in quantities] for row in i] for i in iterates]
    data["scales"] = (("restart", "iterate", "quantity"), padded(rows, length))
    coords: dict[str, Any] = {
        "restart": np.arange(len(histories)),
        "epoch": np.arange(1, epochs + 1),
        "tensor": tensors,
        "iterate": np.arange(length),
        "quantity": quantities,
        **{f"{key}_name": names for key, names in named.items()},
    }
    if gated:
        coords |= {"gated_tensor": gated, "bin": (np.arange(BINS) + 0.5) / BINS}
    return xr.Dataset(data, coords=coords, attrs=attrs)


def _of_today(row: dict[str, Any]) -> dict[str, Any]:
    """A row that an earlier version recorded: what was sparsity there is `near_zero` for tensors without gates.

    Of these no weight is exactly zero, but for units that left; whose share nobody counted.
    """
    if "near_zero" in row:
        return row
    near = {name: value for name, value in row["sparsity"].items() if name not in row["histogram"]}
    whole = row["network_sparsity"]
    return {
        **row,
        "near_zero": near,
        "sparsity": {**row["sparsity"], **dict.fromkeys(near, 0.0)},
        "network_sparsity": whole if not near else 0.0 if len(near) == len(row["sparsity"]) else math.nan,
        "network_near_zero": whole if near else math.nan,
    }


def trace_of_today(trace: xr.Dataset, exact: Collection[str] = ()) -> xr.Dataset:
    """The same of a trace that an earlier version wrote; one of today's, or of gates of units, comes back as it is.

    Args:
        trace: What `trace_dataset` made, in whatever version.
        exact: Names of tensors whose prior has an atom; those with gates are known.
    """
    if "near_zero" in trace or "theta" in trace or not {"sparsity", "network_sparsity"} <= set(trace.data_vars):
        return trace
    gated = trace["gated_tensor"].values.tolist() if "gated_tensor" in trace.coords else []
    has_atom = trace["tensor"].isin([*gated, *exact])
    whole, known = trace["network_sparsity"], trace["sparsity"].notnull()
    network = whole if bool(has_atom.all()) else 0.0 * whole if not bool(has_atom.any()) else math.nan * whole
    return trace.assign(
        sparsity=trace["sparsity"].where(has_atom | ~known, 0.0),
        near_zero=trace["sparsity"].where(~has_atom),
        network_sparsity=network,
        network_near_zero=math.nan * whole if bool(has_atom.all()) else whole,
    )
