"""`bayesprune prune`: from a run folder to a plain network with zeros in place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import bayesprune
from bayesprune.commands.console import figure, percent, stdout, table
from bayesprune.inference.metrics import expected_calibration_error
from bayesprune.inference.prune import prune
from bayesprune.models.likelihoods import Likelihood
from bayesprune.run_folder import check_new_folder, load_run, new_folder, read_summary, run_data, write_json

__all__ = ["plain_scores", "print_pruned", "prune_run"]

WEIGHTS_FILE, MASKS_FILE = "weights.safetensors", "masks.safetensors"


def prune_run(
    run: str | Path,
    out: str | Path,
    sparsity: float | None = None,
    min_inclusion: float | None = None,
    per: str = "network",
    criterion: str | None = None,
    restart: int = 0,
    data_root: str | Path | None = None,
) -> dict[str, Any]:
    """Prunes a run and writes a folder with weights, masks and a summary; nothing is fine-tuned.

    ``weights.safetensors`` is the state dict of the plain network, zeros in place; ``masks.safetensors`` says
    which weights are kept (1 or 0). Before pruning the scores are those of predictions averaged over draws,
    after it those of the one pruned network.

    Args:
        run: The run folder.
        out: The folder to make.
        sparsity: Fraction of zeros to reach; this or `min_inclusion`.
        min_inclusion: Keep weights of a higher inclusion probability.
        per: ``"network"`` or ``"layer"``.
        criterion: What `sparsity` ranks by; default by the prior.
        restart: Which restart.
        data_root: Folder where a named data set is looked for first.

    Returns:
        The summary, as written to DIR/summary.json.

    Raises:
        ValueError: For bad input.
        OSError: If the folder cannot be written.
    """
    if (sparsity is None) == (min_inclusion is None):
        raise ValueError("give either --sparsity or --min-inclusion")
    check_new_folder(out, "folder")
    summary = read_summary(run)
    fit = load_run(run)
    result = prune(fit, sparsity=sparsity, min_inclusion=min_inclusion, per=per, criterion=criterion, restart=restart)
    splits = run_data(run, data_root)
    before = fit.score(*splits.test, restart=restart)
    likelihood = fit.restarts[restart].model.likelihood
    after = plain_scores(result.network, likelihood, *splits.test)
    report = result.report
    found = {
        "version": bayesprune.__version__,
        "run": str(Path(run).absolute()),
        "restart": restart,
        "rule": report.rule,
        "criterion": report.criterion,
        "kind": report.kind,
        "per": per,
        "weights": report.weights,
        "nonzero": report.nonzero,
        "sparsity": report.sparsity,
        **{f"test_{name}_before": value for name, value in before.items()},
        **{f"test_{name}_after": value for name, value in after.items()},
        "per_tensor": report.per_tensor,
        **{key: summary[key] for key in ("data", "network", "prior", "guide", "input_shape", "outputs")},
    }
    with new_folder(out) as folder:
        save_file(
            {k: v.detach().clone().contiguous() for k, v in result.network.state_dict().items()},
            folder / WEIGHTS_FILE,
        )
        save_file({k: v.to(torch.uint8).contiguous() for k, v in result.masks.items()}, folder / MASKS_FILE)
        write_json(folder / "summary.json", found)
    return found


@torch.no_grad()
def plain_scores(network: nn.Module, likelihood: Likelihood, x: Tensor, y: Tensor) -> dict[str, float]:
    """Scores of one plain network: those of the likelihood, nll in nats per example and, for classes, ece.

    Args:
        network: The network, in evaluation mode, on the CPU.
        likelihood: What its outputs mean.
        x: Inputs, `(n, ...)`.
        y: Targets.
    """
    dtype = next(network.parameters()).dtype
    x, y = (part.to(dtype) if part.is_floating_point() else part for part in (x, y))
    outputs = torch.cat([network(part) for part in x.split(1024)])
    prediction = likelihood.predict(outputs)
    scores = {**likelihood.scores(prediction, y), "nll": -float(likelihood.log_prob(outputs, y).mean())}
    if likelihood.name == "categorical":
        scores["ece"] = expected_calibration_error(prediction, y)
    return scores


def print_pruned(out: Path, summary: Mapping[str, Any]) -> None:
    """Prints what pruning came to."""
    console = stdout()
    console.print(
        f"{summary['rule']}, by {summary['criterion']}: {summary['nonzero']:,} of {summary['weights']:,} "
        f"weights, sparsity {percent(summary['sparsity'], 2)}",
        soft_wrap=True,
    )
    shown = table("tensor", "weights", "nonzero", "sparsity", numbers=("weights", "nonzero", "sparsity"))
    for name, row in summary["per_tensor"].items():
        shown.add_row(name, f"{row['weights']:,}", f"{row['nonzero']:,}", percent(row["sparsity"], 2))
    console.print(shown)
    for name in ("accuracy", "rmse", "nll"):
        if f"test_{name}_after" in summary:
            show = percent if name == "accuracy" else figure
            before, after = (show(summary[f"test_{name}_{when}"]) for when in ("before", "after"))
            console.print(f"test {name} {before} before, {after} after")
    console.print(f"written to {out}: {WEIGHTS_FILE}, {MASKS_FILE}, summary.json", soft_wrap=True)
