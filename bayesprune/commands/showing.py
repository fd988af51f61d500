"""`bayesprune show`: what a run came to, and its plots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bayesprune.analysis.layer_table import layer_table
from bayesprune.commands.console import figure, percent, stdout
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
        for file in write_plots(fit, Path(run) / PLOTS_FOLDER):
            console.print(f"written: {file}", soft_wrap=True)


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and text of what the top of `show` says."""
    settings = ", ".join(f"{key}={value}" for key, value in found["prior_settings"].items())
    scores = [
        *([f"accuracy {percent(found['test_accuracy'])}"] if found["test_accuracy"] is not None else []),
        *([f"rmse {figure(found['test_rmse'])}"] if found["test_rmse"] is not None else []),
        f"nll {figure(found['nll'])} nats",
        *([f"ece {figure(found['ece'])}"] if found["ece"] is not None else []),
    ]
    several = f" (mean of {found['restarts']} restarts)" if found["restarts"] > 1 else ""
    sparsity = f"{percent(found['sparsity'], 2)}: {found['nonzero']:,} of {found['weights']:,} weights are left"
    if found["median_probability_sparsity"] is not None:
        sparsity += f"; median-probability {percent(found['median_probability_sparsity'], 2)} ({', '.join(found['kinds'])})"
        sparsity += f"; {percent(found['undecided'], 2)} of the inclusion probabilities in (0.05, 0.95)"
    elbo = f"; ELBO {found['elbo']:,.0f} nats" if found["elbo"] is not None else ""
    return [
        ("data", f"{found['data']}: {found['data_size']:,} training examples of shape {tuple(found['input_shape'])}"),
        ("network", f"{found['network']}, {found['likelihood']['name']}"),
        ("prior", f"{found['prior']}{f' ({settings})' if settings else ''} on {', '.join(found['on'])}"),
        ("guide", f"{found['guide']}, {found['epochs']} epochs, {found['seconds']:.1f} s, seeds {', '.join(map(str, found['seeds']))}"),
        ("test", ", ".join(scores) + several),
        ("sparsity", sparsity),
        ("objective", f"{'tempered' if found['tempered'] else 'not tempered'}{elbo}"),
        ("convergence", f"{found['converged']}: {found['convergence']}"),
        ("point est.", ", ".join(found["point_estimates"]) or "none"),
        *(("note", note) for note in found["notes"]),
        *([("note", f"nothing is left of {', '.join(found['collapsed'])}")] if found["collapsed"] else []),
    ]


def write_plots(fit: Fit, folder: Path) -> list[Path]:
    """Writes the plots that a fit has to a folder as PNG files; those of an earlier call are replaced.

    Args:
        fit: The fit.
        folder: The folder; it is made where it does not exist.

    Returns:
        The files.

    Raises:
        OSError: If they cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from bayesprune.analysis.plot_inclusion import plot_inclusion
    from bayesprune.analysis.plot_pruning_trace import plot_pruning_trace
    from bayesprune.analysis.plot_scales import plot_scales

    makers: dict[str, Callable[[Fit], Any]] = {"pruning_trace": plot_pruning_trace}
    if not fit.guide.is_map and all(p.hierarchy.included is not None for p in fit.model.priors.values()):
        makers["inclusion"] = plot_inclusion
    if any(prior.scales for prior in fit.model.priors.values()):
        makers["scales"] = plot_scales
    folder.mkdir(exist_ok=True)
    files = []
    with matplotlib.rc_context({"figure.max_open_warning": 0}):
        for name, maker in makers.items():
            figure_made = maker(fit)
            FigureCanvasAgg(figure_made)
            figure_made.savefig(folder / f"{name}.png", dpi=150)
            files.append(folder / f"{name}.png")
    return files
