"""`bayesprune show`: what a run came to, and its plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bayesprune.analysis.tables.layer_table import layer_table
from bayesprune.commands.console import figure, percent, print_lines, stdout
from bayesprune.commands.fitting import objective_line, remarks, scores_line
from bayesprune.commands.searching import is_search, show_search
from bayesprune.commands.showing_gates import gate_lines, what_is_left
from bayesprune.commands.showing_progress import show_progress
from bayesprune.inference.execution.execution_report import ExecutionReport
from bayesprune.inference.fit_result import Fit
from bayesprune.models.files.json_file import damaged
from bayesprune.models.files.places import expanded
from bayesprune.models.language.inclusion import ShrinkageBelow
from bayesprune.models.likelihoods.labels import Categorical
from bayesprune.runs.code_trust import CodeNotTrusted
from bayesprune.runs.part_folder import find_part
from bayesprune.runs.run_folder import PLOTS_FOLDER, SUMMARY_FILE, load_run, read_summary, run_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["show_run", "write_plots"]

FEW_TENSORS = 8
"""With at most this many tensors each gets a map of its inclusion probabilities."""
_KNOBS = 3
"""Knobs of a budget whose way is shown."""
PRIOR_DRAWS = 100
"""Draws behind the plot of prior and posterior: each takes as long as a few steps."""


def show_run(
    run: str | Path,
    plots: bool = False,
    trust_code: bool = False,
    network: str | None = None,
    prior: str | None = None,
) -> None:
    """Prints a run's summary, its layers and whether it converged; writes its plots where asked.

    Of a run that is still being fitted it prints how far it is: see `show_progress`. Where the run names code that is
    neither repeated nor trusted, the summary is printed, and in place of the layers what would be run for them.

    Args:
        run: The run folder, the place where one will stand, a folder that `WriteTrace` writes, or one of a search.
        plots: Whether to write RUN/plots.
        trust_code: Whether to run whatever code the folder names; default False.
        network: Its network, repeated to allow it; default None.
        prior: Its prior, repeated to allow it; default None.

    Raises:
        CodeNotTrusted: If plots are asked for, which need code that is neither repeated nor trusted.
        ValueError: If it is no run folder, or a file is damaged.
        OSError: If the plots cannot be written.
    """
    run = expanded(run)
    if is_search(run):
        return show_search(run)
    part = find_part(run)
    if part is not None:
        try:
            return show_progress(part, plots)
        except (ValueError, FileNotFoundError):
            if not (run / SUMMARY_FILE).is_file():
                raise  # else the fit has ended in this moment, and its run is shown
    found, console = read_summary(run), stdout()
    try:
        fit = load_run(run, trust_code, network, prior)
    except CodeNotTrusted as problem:
        left = [] if found.get("units") is None else [("gates", what_is_left(found))]
        for name, text in [*_checked(run, lambda: _lines(found)), *left]:
            console.print(f"{name:<12} {text}", soft_wrap=True)
        if plots:
            raise
        console.print()
        console.print(f"no layers: {problem}", soft_wrap=True)
        return
    for name, text in _checked(run, lambda: [*_lines(found), *gate_lines(fit, found)]):
        console.print(f"{name:<12} {text}", soft_wrap=True)
    console.print()
    table = layer_table(fit)
    said = {f"note: {note}" for note in found["notes"]}  # above
    print_lines(console, str(replace(table, notes=[note for note in table.notes if note not in said])))
    if plots:
        try:
            splits = run_data(run)
            data = splits.test
            fit.keep_inputs(splits.train)
        except (ValueError, OSError) as problem:  # the other plots do not need the data
            console.print(f"no plot of calibration: {problem}", soft_wrap=True)
            data = None
        for file in write_plots(fit, run / PLOTS_FOLDER, found["input_shape"], data):
            console.print(f"written: {file}", soft_wrap=True)


def _checked(run: Path, make: Callable[[], list[tuple[str, str]]]) -> list[tuple[str, str]]:
    """Lines of a summary, or one sentence where something in it is wrong that `read_summary` does not look into."""
    try:
        return make()
    except (ValueError, TypeError, LookupError, AttributeError) as problem:
        raise damaged(run / SUMMARY_FILE, problem, "fit again, or restore the file") from problem


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and text of what the top of `show` says."""
    seeds = ", ".join(map(str, found["seeds"]))
    wide = f", width {found['width']:g}" if found.get("width", 1.0) != 1.0 else ""
    several = f" (mean of {found['restarts']} restarts)" if found["restarts"] > 1 else ""
    left = f"{found['nonzero']:,} of {found['weights']:,} weights are left"
    prior = _with_settings(found["prior"], found["prior_settings"])
    lines = [
        ("data", f"{found['data']}: {found['data_size']:,} examples of shape {tuple(found['input_shape'])}"),
        ("network", f"{found['network']}{wide}, {_likelihood(found)}"),
        ("prior", f"{prior} on {', '.join(found['on']) or 'all units'}"),
        ("guide", f"{found['guide']}, {found['epochs']} epochs, {found['seconds']:.1f} s, seeds {seeds}"),
        ("test", scores_line(found) + several),
        ("sparsity", f"{percent(found['sparsity'], 2)}: {left}"),
    ]
    if found["median_probability_sparsity"] is not None:
        median = percent(found["median_probability_sparsity"], 2)
        undecided = f"{percent(found['undecided'], 2)} of the probabilities lie in (0.05, 0.95)"
        lines.append(("inclusion", f"median-probability sparsity {median} ({', '.join(found['kinds'])}); {undecided}"))
    lines += [("budget", budget_line(one)) for one in (found.get("budget") or [])[:1]]
    if found.get("refit"):
        lines.append(("given", f"{found['refit'][0]['gates']}: {found['refit'][0]['kept']:,} weights"))
    if found.get("recipe"):
        lines.append(("recipe", _with_settings(found["recipe"], found["recipe_settings"])))
    lines += [("masks", masks_line(one)) for one in (found.get("masks") or [])[:1]]
    lines.append(("objective", objective_line(found).removeprefix("objective: ")))
    lines.append(("convergence", f"{found['converged']}: {found['convergence']}"))
    if "execution" in found:  # runs of earlier versions have none
        lines.append(("execution", str(ExecutionReport(**found["execution"]))))
    lines.append(("points", ", ".join(found["point_estimates"]) or "every parameter has a prior"))
    return [*lines, *(("", remark) for remark in remarks(found))]


def _with_settings(name: str, settings: dict[str, Any]) -> str:
    return f"{name} ({', '.join(f'{key}={value}' for key, value in settings.items())})" if settings else name


def masks_line(found: dict[str, Any]) -> str:
    """How dense masks are, and how much they have moved."""
    left, whole = found["reached_count"], found["whole"]
    moved = f"{found['exchanged']:,} weights exchanged" if found["exchanged"] else "no weight exchanged"
    return (
        f"density {percent(left / whole, 2)}: {left:,} of {whole:,} weights in; {moved}, {found['updates']:,} updates"
    )


def budget_line(found: dict[str, Any]) -> str:
    """What a budget asked for and reached, by which rule it was counted, and where its knob was and is."""
    names = {"density": "weights", "macs": "MACs", "parameters": "parameters"}
    rules = " and ".join(dict.fromkeys(map(str, found["counted"].values())))
    moved = [f"{key} {one['start']:.3g} -> {one['end']:.3g}" for key, one in found["knobs"].items()]
    knobs = ", ".join(moved[:_KNOBS]) + (f" and {len(moved) - _KNOBS} more" if len(moved) > _KNOBS else "")
    asked, reached = percent(found["asked"], 2), percent(found["reached"], 2)
    what = names[found["kind"]] + (" of its layers" if "layers" in found else "")
    return f"{reached} of the {what} left, {asked} asked for ({rules}); {knobs}"


def _likelihood(found: dict[str, Any]) -> str:
    """The likelihood with its numbers, and whether it was standardised inside."""
    numbers = {k: v for k, v in found.get("learned_likelihood", found["likelihood"]).items() if k != "name"}
    given = ", ".join(f"{key} {_figures(value)}" for key, value in numbers.items() if value is not None)
    done = [name for name in ("inputs", "targets") if (found.get("standardised") or {}).get(name)]
    inside = f", {' and '.join(done)} standardised inside" if done else ""
    return f"{found['likelihood']['name']} likelihood{f' ({given})' if given else ''}{inside}"


def _figures(value: Any) -> str:
    """A number, or those of several targets."""
    return " and ".join(map(figure, value)) if isinstance(value, list) else figure(value)


def write_plots(
    fit: Fit, folder: Path, input_shape: Sequence[int] = (), data: tuple[Tensor, Tensor] | None = None
) -> list[Path]:
    """Writes the plots that a fit has to a folder as PNG files; those of an earlier call are replaced.

    Args:
        fit: The fit.
        folder: The folder; it is made where it does not exist.
        input_shape: Shape of one input; `(channels, height, width)` makes a picture of the first layer.
        data: Held-out data for the plot of calibration; default None: no such plot.

    Returns:
        The files: ``pruning_trace.png``; and where they apply ``trajectories.png`` (gates or scales),
        ``thresholds.png`` (learned thresholds), ``r_hat.png`` (enough iterates), ``gates.png`` and ``units.png`` (gates
        of units; in place of the next), ``inclusion.png`` (inclusion probabilities), ``scales.png`` (all but a MAP
        without random scales), ``prior_posterior.png`` (priors that can be simulated, no MAP), ``shrinkage.png`` (scale
        mixtures with an event of shrinkage) and ``calibration.png`` (labels).

    Raises:
        OSError: If they cannot be written.
    """
    from bayesprune.analysis.diagnostics.convergence import convergence
    from bayesprune.analysis.plots.calibration import plot_calibration
    from bayesprune.analysis.plots.gates import plot_gates
    from bayesprune.analysis.plots.inclusion import plot_inclusion
    from bayesprune.analysis.plots.mask_churn import has_masks, plot_masks
    from bayesprune.analysis.plots.prior_posterior import plot_prior_posterior
    from bayesprune.analysis.plots.pruning_trace import plot_pruning_trace
    from bayesprune.analysis.plots.r_hat import plot_r_hat
    from bayesprune.analysis.plots.scales import plot_scales
    from bayesprune.analysis.plots.shrinkage import plot_shrinkage
    from bayesprune.analysis.plots.thresholds import has_thresholds, plot_thresholds
    from bayesprune.analysis.plots.trajectories import plot_trajectories, recorded_kinds
    from bayesprune.analysis.plots.units import plot_units

    folder.mkdir(exist_ok=True)
    priors = fit.model.priors.values()
    events = [prior.hierarchy.included for prior in priors]
    is_map, has_gates = fit.guide.is_point_but_for_gates, fit.model.closes_units
    movement = convergence(fit)
    drawn: dict[str, Callable[..., Figure]] = {"pruning_trace": partial(plot_pruning_trace, fit)}
    if recorded_kinds(fit.trace):
        drawn["trajectories"] = partial(plot_trajectories, fit)
    if has_thresholds(fit.trace):
        drawn["thresholds"] = partial(plot_thresholds, fit)
    if has_masks(fit.trace):
        drawn["masks"] = partial(plot_masks, fit)
    if movement.table.sizes.get("window"):
        drawn["r_hat"] = partial(plot_r_hat, movement)
    if has_gates:
        drawn |= {"gates": partial(plot_gates, fit), "units": partial(plot_units, fit)}
    elif not is_map and None not in events:
        maps = "all" if len(priors) <= FEW_TENSORS else "first"
        drawn["inclusion"] = partial(plot_inclusion, fit, image_shape=_image_shape(fit, input_shape), maps=maps)
    if not is_map or any(prior.scales for prior in priors):
        drawn["scales"] = partial(plot_scales, fit)
    if not is_map and not has_gates and not any(prior.hierarchy.improper for prior in priors):
        drawn["prior_posterior"] = partial(plot_prior_posterior, fit, draws=PRIOR_DRAWS)
    if fit.restarts[0].fisher is not None and any(isinstance(event, ShrinkageBelow) for event in events):
        drawn["shrinkage"] = partial(plot_shrinkage, fit)
    if data is not None and isinstance(fit.model.likelihood, Categorical) and len(data[0]):
        drawn["calibration"] = partial(plot_calibration, fit, data)
    files = []
    for name, draw in drawn.items():
        files.append(folder / f"{name}.png")
        draw(path=files[-1])
    return files


def _image_shape(fit: Fit, input_shape: Sequence[int]) -> tuple[int, ...] | None:
    """The shape of an input where it is an image whose pixels are the inputs of the first layer."""
    first = next(iter(fit.model.network.parameters()))
    fits = len(input_shape) == 3 and first.ndim == 2 and first.shape[1] == math.prod(input_shape)
    return tuple(input_shape) if fits else None
