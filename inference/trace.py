"""The pruning trace: how loss, scores, sparsity and inclusion moved during training, as an xarray data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from bayesprune.inference.guides import Guide
from bayesprune.inference.hard_concrete import HardConcreteFamily

BINS = 20
"""Bins of the histogram of inclusion probabilities."""
RELATIVE = 0.1
"""Share of a layer's root mean square below which a weight counts as zero where the prior has no atom."""
SMALL_SITE = 4
"""Sites of at most this many entries are recorded entry by entry; larger ones by their mean."""


@torch.no_grad()
def inclusion_record(guide: Guide) -> dict[str, Any]:
    """Sparsity (fraction of zeros) of every tensor with a prior, and of the network, as the guide stands.

    For a prior with an atom and a gate it is the share of weights whose inclusion probability is at most 1/2 (the
    median-probability model), with a histogram of the probabilities; for any other the share of weights below a
    tenth of their layer's root mean square, at the guide's centre.

    Returns:
        ``sparsity`` by tensor, ``network_sparsity``, and ``histogram`` (counts, `BINS`) by tensor with gates.
    """
    model = guide.model
    probabilities = guide.inclusion()
    weights = model.weights_at(guide.means())
    sparsity, histogram = {}, {}
    zeros = total = 0
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
        sparsity[name] = 1.0 - float(kept.float().mean())
        zeros += int(kept.numel() - kept.sum())
        total += kept.numel()
    return {"sparsity": sparsity, "network_sparsity": zeros / total, "histogram": histogram}


@torch.no_grad()
def scale_record(guide: Guide) -> dict[str, float]:
    """The guide's small sites entry by entry and its large ones by their means: what convergence is judged on.

    Positive sites by the logarithm, unit-interval sites by the logit, gates by their mean probability, real
    sites of many entries by their root mean square.
    """
    record: dict[str, float] = {}
    for family in guide.families:
        for name, value in _summaries(family).items():
            record[name] = value
    return record


def _summaries(family: Any) -> dict[str, float]:
    record: dict[str, float] = {}
    if hasattr(family, "logit"):
        gates = [pair.gate for pair in family.pairs] if hasattr(family, "pairs") else family.sites
        sizes = family.gate_sizes if hasattr(family, "pairs") else family.sizes
        for site, part in zip(gates, family.logit.sigmoid().split(sizes), strict=True):
            record[f"mean {site.name}"] = float(part.mean())
    if isinstance(family, HardConcreteFamily):
        record |= {f"mean {name}": float(odds.sigmoid().mean()) for name, odds in family.log_odds().items()}
    if hasattr(family, "location"):
        for site, part in zip(family.sites, family.location.split(family.sizes), strict=True):
            prefix = {"positive": "log ", "interval": "log ", "unit": "logit "}.get(site.support, "")
            if part.numel() <= SMALL_SITE:
                for index, value in enumerate(part.tolist()):
                    record[f"{prefix}{site.name}[{index}]" if part.numel() > 1 else f"{prefix}{site.name}"] = value
            elif site.support == "real":
                record[f"rms {site.name}"] = float(_rms(part))
            else:
                record[f"mean {prefix}{site.name}"] = float(part.mean())
    return record


def _rms(value: Tensor) -> Tensor:
    return value.square().mean().sqrt()


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
        rows = [[[row["histogram"][t] for t in gated] for row in h] for h in histories]
        data["inclusion_histogram"] = (("restart", "epoch", "gated_tensor", "bin"), _padded(rows, epochs))
    length = max(len(i) for i in iterates)
    quantities = [k for k in iterates[0][0] if k not in ("negative_elbo", "step")]
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


def _padded(rows: Sequence[Sequence[Any]], length: int) -> np.ndarray[Any, Any]:
    arrays = [np.asarray(r, dtype=np.float64) for r in rows]
    return np.stack([np.concatenate([a, np.full((length - len(a), *a.shape[1:]), np.nan)]) for a in arrays])
