"""`bayesprune reference`: a run of a linear model beside its posterior without a guide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import bayesprune
from bayesprune.analysis.plots.reference import figure_of
from bayesprune.analysis.reference.against_reference import AgainstReference, against_reference
from bayesprune.analysis.reference.reference import Reference, reference
from bayesprune.commands.console import print_lines, stdout
from bayesprune.models.checks.given_numbers import restart_number
from bayesprune.models.files.json_file import write_json
from bayesprune.models.files.netcdf_file import write_netcdf
from bayesprune.models.files.new_folder import check_new_folder, new_folder
from bayesprune.models.files.places import expanded
from bayesprune.runs.finite_numbers import finite_numbers
from bayesprune.runs.run_folder import load_run, run_data

__all__ = ["print_reference", "refer_run"]

SUMMARY_FILE, DRAWS_FILE, PLOT_FILE = "reference.json", "reference.nc", "reference.png"


def refer_run(
    run: str | Path,
    out: str | Path,
    method: str | None = None,
    draws: int | None = None,
    warmup: int = 500,
    chains: int = 4,
    seed: int = 0,
    points: str = "flat",
    kl_weight: float = 1.0,
    restart: int = 0,
    data_root: str | Path | None = None,
    trust_code: bool = False,
    network: str | None = None,
    prior: str | None = None,
) -> tuple[Reference, AgainstReference]:
    """Makes the reference of a run's model on its training data, and writes a folder with both side by side.

    ``reference.json`` has, besides what was asked: method, reason, seconds, log_evidence, r_hat, ess, divergences,
    has_mixed, notes; ``against``, what a comparison comes to; and ``weights``, one object each with its name and
    inclusion, mean and sd in the fit and in the reference. Null where something does not apply.

    Args:
        run: The run folder.
        out: The folder to make.
        method: As `bp.reference` has it.
        draws: The same.
        warmup: The same.
        chains: The same.
        seed: The same.
        points: The same.
        kl_weight: The same.
        restart: Which restart is compared.
        data_root: Folder where a named data set is looked for.
        trust_code: Whether to run whatever code the folder names; default False.
        network: Its network, repeated to allow it; default None.
        prior: Its prior, repeated to allow it; default None.

    Returns:
        The reference, and the fit beside it.

    Raises:
        CodeNotTrusted: If the folder names code that is neither repeated nor trusted.
        ValueError: If the folder exists, the model has no reference, or the data are gone or have changed.
        OSError: If the folder cannot be written.
    """
    run, out = expanded(run), expanded(out)
    check_new_folder(out)
    fit = load_run(run, trust_code, network, prior)
    number = restart_number(restart, len(fit.restarts))
    data = run_data(run, data_root).train
    found = reference(
        fit, data, method, draws=draws, warmup=warmup, chains=chains, seed=seed, points=points, kl_weight=kl_weight,
        restart=number,
    )  # fmt: skip
    beside = against_reference(fit, found, number)
    summary = finite_numbers(_summary(found, beside) | {"run": str(run), "restart": number})
    with new_folder(out) as staged:
        write_json(staged / SUMMARY_FILE, summary)
        tree = xr.DataTree.from_dict({"posterior": _named(found.posterior)})
        tree.attrs = {"inference_library": "bayesprune", "method": found.method, "reason": found.reason}
        write_netcdf(tree, staged / DRAWS_FILE)
        figure_of(beside, found, path=staged / PLOT_FILE)
    return found, beside


def print_reference(out: str | Path, found: Reference, beside: AgainstReference) -> None:
    """Prints how the reference came about, and the fit beside it."""
    console = stdout()
    print_lines(console, str(found).split("\nweight")[0])
    print_lines(console, str(beside))
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True)
    console.print(f"written to {out}: {SUMMARY_FILE}, {DRAWS_FILE}, {PLOT_FILE}", soft_wrap=True)


def _summary(found: Reference, beside: AgainstReference) -> dict[str, Any]:
    """What reference.json has."""
    rows = beside.weights
    columns = {str(name): np.asarray(rows[name].values, dtype=float).tolist() for name in rows}
    sizes = found.posterior.sizes
    return {
        "version": bayesprune.__version__,
        "method": found.method,
        "reason": found.reason,
        "points": found.points,
        "kl_weight": found.kl_weight,
        "data_size": found.data_size,
        "standardised": found.standardised,
        "chains": int(sizes["chain"]),
        "draws": int(sizes["draw"]),
        "seed": found.seed,
        "seconds": found.seconds,
        "log_evidence": found.log_evidence,
        "r_hat": None if found.is_exact else found.r_hat,
        "ess": None if found.is_exact else found.ess,
        "divergences": found.divergences,
        "has_mixed": bool(found.has_mixed),
        "against": {
            "largest": beside.largest,
            "mean_difference": beside.mean_difference,
            "log_score": beside.log_score,
            "best_log_score": beside.best_log_score,
            "sd_ratio": beside.sd_ratio,
            "mean_error": beside.mean_error,
        },
        "weights": [
            {"name": str(label)} | {column: values[place] for column, values in columns.items()}
            for place, label in enumerate(rows.weight.values)
        ],
        "notes": [*found.notes, *beside.notes],
    }


def _named(draws: xr.Dataset) -> xr.Dataset:
    """Draws under names that netCDF holds: a slash would be a group."""
    return draws.rename({str(name): str(name).replace("/", "_") for name in (*draws.variables, *draws.dims)})
