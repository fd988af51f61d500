"""A fit in the form that ArviZ takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from pyro import poutine
from torch import Tensor

from bayesprune.analysis.arviz.draw_summaries import Draw, DrawSummaries
from bayesprune.analysis.arviz.pointwise import Pointwise
from bayesprune.analysis.arviz.shim import arviz, for_top_level
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.fast_distributions import fast_distributions
from bayesprune.inference.guides.registry import has_density
from bayesprune.inference.predictions.predictive import draw_statistics
from bayesprune.inference.restart import Restart
from bayesprune.models.checks.given_numbers import restart_number

CHAIN, SAMPLE = ("chain", "draw"), ("sample",)
DIAGNOSTICS = (
    "the draws are independent draws of a guide, in one chain: r_hat is undefined (NaN), ess counts the draws, and "
    "neither says anything about the fit; bayesprune.convergence(fit) looks at the optimiser's iterates"
)


def to_arviz(
    fit: Fit,
    draws: int = 500,
    weights: str | None = None,
    restart: int | None = None,
    data: tuple[Tensor, Tensor] | None = None,
    pointwise: bool | None = None,
    sample_dims: str | Sequence[str] = CHAIN,
) -> Any:
    """Converts a fit to what the installed ArviZ takes, so that ``az.summary(bp.to_arviz(fit))`` works as typed.

    That is a data tree for ArviZ 1 (Python 3.12 and later) and an `arviz.InferenceData` for ArviZ 0.23 (Python 3.11).
    See docs/arviz.md for what can be asked of it.

    Draws lie over ``chain``, of one, and ``draw``. They are independent draws of a guide: their R-hat is undefined,
    their effective sample size is their number, and neither says anything about the fit; the attribute ``diagnostics``
    says so. `bayesprune.analysis.diagnostics.convergence.convergence` looks at the optimiser's iterates instead.

    Groups:

    * ``posterior``: latents of up to 512 entries in full (gates as 0 and 1); of larger ones ``.mean_log``
      (positive), ``.rms`` (real) or ``.mean``; weights of tensors of up to 512 entries, and of those that `weights`
      asks for (1,000 draws of LeNet-300-100 take a gigabyte); of every tensor ``.rms`` of its weights, ``.included``
      (number of included weights), ``.output_included`` (share of each output's weights) and, for scale mixtures,
      ``.effective`` (sum of one minus the shrinkage factor); of gates of units, how many are ``.open``. Weights are
      not identified across restarts, so draws are of one restart; of a standardised regression they are those of the
      standardised problem.
    * ``sample_stats``: ``log_prior`` and ``log_q`` in nats, and with `data` ``log_likelihood_sum`` and ``log_p``,
      their joint, where the guide has a density everywhere (left out as soon as one site is a point).
    * ``log_likelihood`` (with `data`): of every example at every draw, in nats.
    * ``posterior_predictive`` (with `data`): an observation of every example at every draw, noise and all.
    * ``observed_data`` (with `data`): the targets.
    * ``training``: the pruning trace of all restarts, over restart, epoch and iterate.
    * ``inclusion``: inclusion probabilities of every weight, each with its ``kind``, where the fit has them.

    A MAP gives one draw, the point, whose log-likelihoods are left out (leaving one out needs draws), and `draws`
    observations of the noise around it. Attributes hold settings as JSON, and ``left_out``, as JSON, why something is
    not there, by its name; names with ``/`` get ``_``.

    Args:
        fit: The fit.
        draws: Number of draws; default 500.
        weights: Pattern, as in a shell, of the tensors whose weights are kept in full whatever their size; default
            None: only those of up to 512 entries are.
        restart: Whose posterior; default the first.
        data: All training data, `(x, y)`; default None leaves out what needs them. Batch normalisation has the
            statistics of each draw there, estimated on at most 2,000 of them.
        pointwise: Whether ``log_likelihood`` and ``posterior_predictive`` are kept, 8 bytes a draw and
            log-likelihood and 4 a number drawn (8 in double precision); default None: each where it has at most 10
            million numbers, 500 draws of 20,000 examples.
        sample_dims: Default ``("chain", "draw")``. ``"sample"`` for draws along that one dimension, as ArviZ has them
            for variational inference, always in a data tree, which `arviz.preview` takes on Python 3.11; functions need
            the dimension named then, as in ``summary(tree, sample_dims="sample", kind="stats")``.

    Returns:
        The fit for ArviZ; its ``to_netcdf(path, engine="h5netcdf")`` writes it, and ArviZ's ``from_netcdf`` reads that.

    Raises:
        ValueError: If there is no such restart, the pattern matches nothing, `data` are not all the data,
            `pointwise` is asked for without them or of a MAP whose likelihood draws no observations, or `sample_dims`
            is unknown.
    """
    along = (sample_dims,) if isinstance(sample_dims, str) else tuple(sample_dims)
    if along not in (CHAIN, SAMPLE):
        raise ValueError(f"sample_dims takes ('chain', 'draw') or 'sample', not {sample_dims!r}: leave it out")
    tree = data_tree(fit, draws, weights, restart, data, pointwise, along)
    return for_top_level(tree) if along == CHAIN else tree


def data_tree(
    fit: Fit,
    draws: int = 500,
    weights: str | None = None,
    restart: int | None = None,
    data: tuple[Tensor, Tensor] | None = None,
    pointwise: bool | None = None,
    along: tuple[str, ...] = CHAIN,
) -> xr.DataTree:
    """As `to_arviz`, always as a data tree: what is written to files, from which either ArviZ reads what it takes."""
    number = restart_number(0 if restart is None else restart, len(fit.restarts))
    one = fit.restarts[number]
    if data is not None and len(data[0]) != one.model.data_size:
        raise ValueError(
            f"data= has {len(data[0])} rows, but the fit had {one.model.data_size}: log_p needs all of them"
        )
    if pointwise and data is None:
        raise ValueError("pointwise=True looks at examples, but there are none: pass data=, all training data")
    all_have_density = all(has_density(family) for family in one.guide.family_of.values())
    summaries = DrawSummaries(fit, number, weights)
    statistics = draw_statistics(fit, number, data if fit.inputs is None else None)
    examples = None if data is None else Pointwise(one, data, draws, statistics, pointwise)

    def row(draw: Draw) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        kept = summaries.of(draw)
        found = _densities(one, draw) if all_have_density else {}
        if examples is not None:
            log_likelihood = examples.at(draw)
            if all_have_density:
                found |= {"log_likelihood_sum": log_likelihood, "log_p": found["log_prior"] + log_likelihood}
        return kept, found

    with fast_distributions():
        rows = fit.map_draws(row, 1 if one.guide.is_map else draws, number)
    names = _safe_names(summaries.dims)
    groups = {"posterior": {names[name]: _stacked([kept[name] for kept, _ in rows]) for name in summaries.dims}}
    if all_have_density:
        groups["sample_stats"] = {name: np.array([stats[name] for _, stats in rows]) for name in rows[0][1]}
    if along == CHAIN:
        groups = {group: {name: values[None] for name, values in own.items()} for group, own in groups.items()}
    dims = {names[name]: [_safe(dim) for dim in own] for name, own in summaries.dims.items()}
    attrs = {
        "inference_library": "bayesprune",
        "restart": number,
        "settings": json.dumps(fit.settings, default=str),
        "guide": json.dumps(one.guide.family_of),
        "model": str(one.model),
        "diagnostics": DIAGNOSTICS,
    }
    coords = {_safe(dim): values for dim, values in summaries.coords.items()}
    tree = arviz().from_dict(groups, sample_dims=list(along), dims=dims, coords=coords, attrs={"/": attrs})
    if examples is not None:
        for group, dataset in examples.groups(along).items():
            tree[group] = xr.DataTree(dataset)
    tree["training"] = xr.DataTree(_clean(fit.trace))
    try:
        tree["inclusion"] = xr.DataTree(_clean(fit.inclusion_probabilities(number)))
    except ValueError as reason:  # the fit's own sentence: a MAP, or a prior without an event
        tree.attrs["no_inclusion"] = str(reason)
    left_out = summaries.left_out | ({} if examples is None else examples.left_out)
    if not all_have_density:
        left_out["sample_stats"] = "the guide holds a site as a point, where it has no density"
    if left_out:
        tree.attrs["left_out"] = json.dumps(left_out)
    return tree


def _densities(one: Restart, draw: Draw) -> dict[str, float]:
    """Log densities of one draw in nats: prior and guide."""
    sites = {name: draw[name] for name in one.model.sites}
    guide = poutine.trace(poutine.condition(one.guide, data=sites)).get_trace()
    prior = poutine.trace(poutine.condition(one.model.sample_weights, data=sites)).get_trace()
    return {"log_prior": float(prior.log_prob_sum()), "log_q": float(guide.log_prob_sum())}


def _stacked(values: list[np.ndarray]) -> np.ndarray:
    """A variable, `(draws, ...)`; integers that never change as floats: ArviZ 1.3 dies of a histogram of them."""
    stacked = np.stack(values)
    never_change = stacked.dtype.kind == "i" and bool((stacked == stacked[0]).all())
    return stacked.astype(np.float64) if never_change else stacked


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
