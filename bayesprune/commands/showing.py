"""`bayesprune show`: what a run came to, and its plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bayesprune.analysis.layer_table import layer_table
from bayesprune.commands.console import percent, stdout
from bayesprune.commands.fitting import remarks, scores_line
from bayesprune.inference.paths import PathReport
from bayesprune.inference.result import Fit
from bayesprune.run_folder import PLOTS_FOLDER, load_run, read_summary

__all__ = ["show_run", "write_plots"]


def show_run(run: str | Path, plots: bool = False) -> None:
    """Prints a run's summary, its layers and whether it converged; writes its plots where asked.

    Args:
        run: The run folder.
        plots: Whether to write RUN/plots.

    Raises:
        ValueError: If it is no run folder, or a file is damaged.
        OSError: If the plots cannot be written.
    """
    found = read_summary(run)
    fit = load_run(run)
    console = stdout()
    for name, text in _lines(found):
        console.print(f"{name:<12} {text}", soft_wrap=True)
    console.print()
    console.print(str(layer_table(fit)), soft_wrap=True)
    if plots:
        for file in write_plots(fit, Path(run) / PLOTS_FOLDER, found["input_shape"]):
            console.print(f"written: {file}", soft_wrap=True)


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and text of what the top of `show` says."""
    settings = ", ".join(f"{key}={value}" for key, value in found["prior_settings"].items())
    seeds = ", ".join(map(str, found["seeds"]))
    several = f" (mean of {found['restarts']} restarts)" if found["restarts"] > 1 else ""
    left = f"{found['nonzero']:,} of {found['weights']:,} weights are left"
    lines = [
        ("data", f"{found['data']}: {found['data_size']:,} examples of shape {tuple(found['input_shape'])}"),
        ("network", f"{found['network']}, {found['likelihood']['name']} likelihood"),
        ("prior", f"{found['prior']}{f' ({settings})' if settings else ''} on {', '.join(found['on'])}"),
        ("guide", f"{found['guide']}, {found['epochs']} epochs, {found['seconds']:.1f} s, seeds {seeds}"),
        ("test", scores_line(found) + several),
        ("sparsity", f"{percent(found['sparsity'], 2)}: {left}"),
    ]
    if found["median_probability_sparsity"] is not None:
        median = percent(found["median_probability_sparsity"], 2)
        undecided = f"{percent(found['undecided'], 2)} of the probabilities lie in (0.05, 0.95)"
        lines.append(("inclusion", f"median-probability sparsity {median} ({', '.join(found['kinds'])}); {undecided}"))
    elbo = "" if found["elbo"] is None else f", ELBO {found['elbo']:,.0f} nats"
    lines.append(("objective", ("tempered" if found["tempered"] else "not tempered") + elbo))
    lines.append(("convergence", f"{found['converged']}: {found['convergence']}"))
    if "path" in found:  # runs of earlier versions have none
        lines.append(("path", str(PathReport(**found["path"]))))
    lines.append(("points", ", ".join(found["point_estimates"]) or "every parameter has a prior"))
    return [*lines, *(("", remark) for remark in remarks(found))]


def write_plots(fit: Fit, folder: Path, input_shape: Sequence[int] = ()) -> list[Path]:
    """Writes the plots that a fit has to a folder as PNG files; those of an earlier call are replaced.

    Args:
        fit: The fit.
        folder: The folder; it is made where it does not exist.
        input_shape: Shape of one input; `(channels, height, width)` makes a picture of the first layer.

    Returns:
        The files: ``pruning_trace.png``; ``inclusion.png`` where there are inclusion probabilities;
        ``scales.png`` unless the fit is a MAP without random scales.

    Raises:
        OSError: If they cannot be written.
    """
    from bayesprune.analysis.plot_inclusion import plot_inclusion
    from bayesprune.analysis.plot_pruning_trace import plot_pruning_trace
    from bayesprune.analysis.plot_scales import plot_scales

    folder.mkdir(exist_ok=True)
    priors = fit.model.priors.values()
    files = [folder / "pruning_trace.png"]
    plot_pruning_trace(fit, path=files[-1])
    if not fit.guide.is_map and all(prior.hierarchy.included is not None for prior in priors):
        files.append(folder / "inclusion.png")
        plot_inclusion(fit, image_shape=_image_shape(fit, input_shape), path=files[-1])
    if not fit.guide.is_map or any(prior.scales for prior in priors):
        files.append(folder / "scales.png")
        plot_scales(fit, path=files[-1])
    return files


def _image_shape(fit: Fit, input_shape: Sequence[int]) -> tuple[int, ...] | None:
    """The shape of an input where it is an image whose pixels are the inputs of the first layer."""
    first = next(iter(fit.model.network.parameters()))
    fits = len(input_shape) == 3 and first.ndim == 2 and first.shape[1] == math.prod(input_shape)
    return tuple(input_shape) if fits else None
