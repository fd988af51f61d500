"""A fit as an ArviZ data tree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import xarray as xr
from pyro import poutine
from torch import Tensor

from bayesprune.analysis.arviz_shim import arviz
from bayesprune.analysis.draw_summaries import Draw, DrawSummaries
from bayesprune.inference.draw_statistics import DrawStatistics
from bayesprune.inference.guides import WITHOUT_DENSITY
from bayesprune.inference.objective import fast_distributions
from bayesprune.inference.outputs_at import BATCH, like, outputs_at
from bayesprune.inference.predictive import draw_statistics
from bayesprune.inference.result import Fit, Restart


def to_arviz(
    fit: Fit,
    draws: int = 500,
    weights: str | None = None,
    restart: int | None = None,
    data: tuple[Tensor, Tensor] | None = None,
) -> xr.DataTree:
    """Converts a fit to the form that ArviZ's summaries and plots take.

    Draws lie along one dimension ``sample``, as ArviZ has it for variational inference, not along chain and
    draw: they are independent draws from the guide, so R-hat, rank plots and autocorrelations would say that
    all is well whatever the fit is like. None is computed here; `bayesprune.analysis.convergence.convergence`
    looks at the optimiser's iterates instead. Statistics and plots need the dimension named, the more so after a
    tree was read from a file: ``summary(tree, sample_dims="sample", kind="stats")``,
    ``plot_dist(tree, sample_dims="sample")``.

    Groups:

    * ``posterior``: latents of up to 512 entries in full (gates as 0 and 1); of larger ones ``.mean_log``
      (positive), ``.rms`` (real) or ``.mean``; of every tensor ``.rms`` of its weights, ``.included`` (number
      of included weights), ``.output_included`` (share of each output's weights) and, for scale mixtures,
      ``.effective`` (sum of one minus the shrinkage factor). Weights themselves only where `weights` asks for
      them: 1,000 draws of LeNet-300-100 take a gigabyte. Weights are not identified across restarts, so draws
      are of one restart.
    * ``sample_stats``: ``log_prior`` and ``log_q`` in nats, and with `data` ``log_likelihood`` and ``log_p``,
      their joint, where the guide has a density everywhere (left out as soon as one site is a point).
    * ``training``: the pruning trace of all restarts, over restart, epoch and iterate.
    * ``inclusion``: inclusion probabilities of every weight, each with its ``kind``, where the fit has them.

    A MAP gives one sample, the point. Attributes hold settings as JSON; names with ``/`` get ``_``.

    Args:
        fit: The fit.
        draws: Number of draws; default 500.
        weights: Pattern, as in a shell, of the tensors whose weights are kept in full; default None keeps
            none.
        restart: Whose posterior; default the first.
        data: All training data, `(x, y)`, for ``log_p``; default None leaves it out. Batch normalisation has the
            statistics of each draw there, estimated on at most 2,000 of them.

    Returns:
        A data tree; ``tree.to_netcdf(path, engine="h5netcdf")`` writes it.

    Raises:
        ValueError: If there is no such restart, the pattern matches nothing, or `data` is not all the data.
    """
    number = 0 if restart is None else restart
    if not 0 <= number < len(fit.restarts):
        raise ValueError(f"there is no restart {number}: this fit has {len(fit.restarts)}, counted from 0")
    one = fit.restarts[number]
    if data is not None and len(data[0]) != one.model.data_size:
        raise ValueError(
            f"data= has {len(data[0])} rows, but the fit had {one.model.data_size}: log_p needs all of them"
        )
    has_density = all(family not in WITHOUT_DENSITY for family in one.guide.family_of.values())
    summaries = DrawSummaries(fit, number, weights)
    statistics = draw_statistics(fit, number, data if fit.inputs is None else None)

    def row(draw: Draw) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        return summaries.of(draw), _densities(one, draw, data, statistics) if has_density else {}

    with fast_distributions():
        rows = fit.map_draws(row, 1 if one.guide.is_map else draws, number)
    names = _safe_names(summaries.dims)
    groups = {"posterior": {names[name]: np.stack([kept[name] for kept, _ in rows]) for name in summaries.dims}}
    if has_density:
        groups["sample_stats"] = {name: np.array([stats[name] for _, stats in rows]) for name in rows[0][1]}
    dims = {names[name]: [_safe(dim) for dim in own] for name, own in summaries.dims.items()}
    attrs = {
        "inference_library": "bayesprune",
        "restart": number,
        "settings": json.dumps(fit.settings, default=str),
        "guide": json.dumps(one.guide.family_of),
        "model": str(one.model),
    }
    tree = arviz().from_dict(groups, sample_dims=["sample"], dims=dims, attrs={"/": attrs})
    tree["training"] = xr.DataTree(_clean(fit.trace))
    try:
        tree["inclusion"] = xr.DataTree(_clean(fit.inclusion_probabilities(number)))
    except ValueError as reason:  # the fit's own sentence: a MAP, or a prior without an event
        tree.attrs["no_inclusion"] = str(reason)
    return tree


def _densities(
    one: Restart, draw: Draw, data: tuple[Tensor, Tensor] | None, statistics: DrawStatistics
) -> dict[str, float]:
    """Log densities of one draw in nats: prior, guide and, with data, likelihood and joint."""
    sites = {name: draw[name] for name in one.model.sites}
    guide = poutine.trace(poutine.condition(one.guide, data=sites)).get_trace()
    prior = poutine.trace(poutine.condition(one.model.sample_weights, data=sites)).get_trace()
    found = {"log_prior": float(prior.log_prob_sum()), "log_q": float(guide.log_prob_sum())}
    if data is not None:
        found["log_likelihood"] = _log_likelihood(one, draw, *data, statistics)
        found["log_p"] = found["log_prior"] + found["log_likelihood"]
    return found


def _log_likelihood(one: Restart, draw: Draw, x: Tensor, y: Tensor, statistics: DrawStatistics) -> float:
    network, likelihood = one.model.network, cast(Any, one.model.likelihood)
    reference = next(network.parameters())
    weights = {name: draw[name] for name in one.model.priors}
    buffers = statistics.at(weights)
    total = 0.0
    for part_x, part_y in zip(x.split(BATCH), y.split(BATCH), strict=True):
        outputs = outputs_at(network, weights, part_x, BATCH, buffers)
        total += float(likelihood.log_prob(outputs, like(part_y, reference)).sum())
    return total


def _safe(name: str) -> str:
    """A name without the ``/`` that would mean a group."""
    return name.replace("/", "_")


def _safe_names(names: Mapping[str, Any]) -> dict[str, str]:
    """Safe names, told apart by further underscores where two become the same."""
    safe: dict[str, str] = {}
    for name in names:
        new = _safe(name)
        while new in safe.values():
            new += "_"
        safe[name] = new
    return safe


def _clean(dataset: xr.Dataset) -> xr.Dataset:
    """Names and attributes that netCDF can hold."""
    cleaned = dataset.rename({str(name): _safe(str(name)) for name in (*dataset.variables, *dataset.dims)})
    cleaned.attrs = {key: _plain(value) for key, value in dataset.attrs.items()}
    for name in cleaned.variables:
        cleaned[name].attrs = {key: _plain(value) for key, value in cleaned[name].attrs.items()}
    return cleaned


def _plain(value: Any) -> Any:
    """A number or a string as it is, anything else as JSON."""
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return value
    return json.dumps(value, default=str)
