"""`bayesprune prune`: from a run folder to a plain network with zeros in place, or to a smaller one."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bayesprune
from bayesprune.commands.compacting import KEYS, check_request, compact_lines, compacted, write_compact
from bayesprune.commands.console import figure, percent, stdout, table
from bayesprune.commands.following_path import load_path
from bayesprune.commands.input_scaling import input_scaling
from bayesprune.inference.predictions.plain_scores import plain_scores
from bayesprune.inference.pruning.finetune import finetune
from bayesprune.inference.pruning.prune import AS_LEFT, prune
from bayesprune.inference.sparsity_path.folder import INDEX_FILE
from bayesprune.models.costs.layer_budgets import LayerBudget
from bayesprune.models.files.json_file import write_json
from bayesprune.models.files.new_folder import check_new_folder, new_folder
from bayesprune.models.files.places import expanded
from bayesprune.models.files.tensor_file import tensor_digest, write_tensors
from bayesprune.models.networks.dyrelu import DyReLU
from bayesprune.models.structure.graph_network import GRAPH
from bayesprune.runs.finite_numbers import finite_numbers
from bayesprune.runs.run_folder import (
    data_of,
    load_run,
    read_summary,
    run_data,
)
from bayesprune.runs.run_summary import guide_name
from bayesprune.runs.same_data import check_same_data

__all__ = ["print_pruned", "prune_run"]

WEIGHTS_FILE, MASKS_FILE, BUDGET_FILE = "weights.safetensors", "masks.safetensors", "budget.json"
NO_FASTER = (
    "zeros that stand in place are multiplied like other numbers, so that this network is no faster: --compact "
    "--latency removes dead units, and says which layers CSR makes faster"
)
COMPACT_FILE, NETWORK_FILE, PLAN_FILE = "compact.safetensors", "network.py", "plan.json"


def prune_run(
    run: str | Path,
    out: str | Path,
    sparsity: float | None = None,
    min_inclusion: float | None = None,
    per: str = "network",
    criterion: str | None = None,
    restart: int | None = None,
    data_root: str | Path | None = None,
    compact: bool = False,
    onnx: str | Path | None = None,
    latency: bool = False,
    round_to: int | None = None,
    value: float | None = None,
    min_accuracy: float | None = None,
    finetune_epochs: int | None = None,
    trust_code: bool = False,
    network: str | None = None,
    prior: str | None = None,
    min_score: float | None = None,
    budget: float | int | LayerBudget | Mapping[str, float] | None = None,
    **left: Any,
) -> dict[str, Any]:
    """Prunes a run or a path and writes a folder with weights, masks and a summary.

    ``weights.safetensors`` is the state dict of the plain network, zeros in place; ``masks.safetensors`` says
    which weights are kept (1 or 0), and ``budget.json`` how many of each tensor, for other fits. Statistics of batch
    normalisation, where there are any, are estimated again on the training data. With `compact` the folder also holds
    the network without its dead units: ``compact.safetensors``, ``network.py``, which runs it with torch alone, and
    ``plan.json``. Before pruning the scores are those of predictions averaged over draws, after it those of the one
    pruned network. With `finetune_epochs` that network is trained further, before anything of it is written or
    compacted.

    Args:
        run: The run folder, or the folder of a path.
        out: The folder to make.
        sparsity: Fraction of zeros to reach. Of a path: the least. Without this, ``share``, ``count``, `min_inclusion`,
            `min_score` and `budget` the network is the one that the fit leaves, whose zeros are its own.
        min_inclusion: Keep weights of a higher inclusion probability.
        per: ``"network"``, ``"layer"`` or ``"distribution"``: see `bayesprune.prune`.
        criterion: What `sparsity` ranks by; default by the prior.
        restart: Which restart; default the first, of a path the one of the best validation score.
        data_root: Folder where a named data set is looked for first.
        compact: Whether to remove dead units physically.
        onnx: A file `.onnx` to write the compact network to as well.
        latency: Whether to time the compact network beside the one with zeros.
        round_to: What the compact network's widths are kept at multiples of; default 1.
        value: Of a path: the value of its knob.
        min_accuracy: Of a path: the least accuracy on the validation data.
        finetune_epochs: Epochs of `finetune` on the training data, with its defaults; default None: none.
        trust_code: Whether to run whatever code the folder names; default False.
        network: Its network, repeated to allow it; default None.
        prior: Its prior, repeated to allow it; default None.
        min_score: Keep weights whose score by `criterion` exceeds this; with `sparsity` and `min_inclusion` left out.
        budget: Keep exactly as many, in all or of each tensor: see `bayesprune.prune`; alone.
        **left: What of the weights left goes: ``share``, ``count`` and ``only`` of `bayesprune.prune`.

    Returns:
        The summary, as written to DIR/summary.json.

    Raises:
        CodeNotTrusted: If the folder names code that is neither repeated nor trusted.
        ValueError: For bad input.
        NonFiniteLossError: If the loss of the fine-tuning becomes NaN or infinite.
        OSError: If the folder cannot be written.
    """
    run, out, onnx = expanded(run), expanded(out), None if onnx is None else expanded(onnx)
    is_path = (run / INDEX_FILE).is_file()
    if is_path:
        given = {
            "--min-inclusion": min_inclusion,
            "--min-score": min_score,
            "--budget": budget,
            "--criterion": criterion,
            **{f"--{name}": asked for name, asked in left.items()},
        }
        _check_path_request(sparsity, value, min_accuracy, given, per != "network")
    else:
        rules = [sparsity, left.get("share"), left.get("count"), min_inclusion, min_score, budget]
        _check_run_request(rules, value is not None, min_accuracy is not None)
        if min_score is not None:
            _check_min_score(per, criterion)
    if finetune_epochs is not None and finetune_epochs < 1:
        raise ValueError(f"--finetune takes epochs, at least 1, not {finetune_epochs}: leave it out for none")
    check_request(out, compact, onnx, latency, round_to)
    check_new_folder(out)
    if is_path:
        summary, path = load_path(run, trust_code, network, prior)
        splits = data_of(summary, run, data_root)
        choice = path.choose(sparsity, value, min_accuracy, restart)
        fit, restart = path.fit(choice.value), choice.restart
        check_same_data(fit.settings, splits, run)
        result = path.prune_choice(choice, splits.train)
        per = choice.pruning.get("per", "network")
        summary["guide"] = guide_name(set(fit.guide.family_of.values()), fit.settings["guide"] or "default")
    else:
        summary, fit, restart = read_summary(run), load_run(run, trust_code, network, prior), restart or 0
        splits = run_data(run, data_root)
        result = prune(
            fit, sparsity=sparsity, min_inclusion=min_inclusion, per=per, criterion=criterion, restart=restart,
            data=splits.train, min_score=min_score, budget=budget, **left,
        )  # fmt: skip
    fit.keep_inputs(splits.train)  # so that the scores before are with the statistics of each draw
    before = fit.score(*splits.test, restart=restart)
    after = plain_scores(result.network, result.likelihood, *splits.test)
    tuned = {}
    if finetune_epochs is not None:
        validation = splits.validation if len(splits.validation[0]) else None
        result = finetune(result, splits.train, finetune_epochs, validation=validation)
        tuned = plain_scores(result.network, result.likelihood, *splits.test)
    small, saved = compacted(result, splits.train[0], latency, round_to) if compact else (None, {})
    report = result.report
    found = {
        "version": bayesprune.__version__,
        "run": str(run.absolute()),
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
        **{f"test_{name}_finetuned": tuned.get(name) for name in after},
        "finetuned": report.finetuned,
        "per_tensor": report.per_tensor,
        "batch_normalisation": report.batch_normalisation,
        "notes": list(report.notes),
        **dict.fromkeys(KEYS),
        **saved,
        "onnx": None if onnx is None else str(onnx.absolute()),
        **{key: summary[key] for key in ("data", "network", "prior", "guide", "input_shape", "outputs")},
        "width": summary.get("width", 1.0),  # runs of earlier versions have none
        "network_settings": summary.get("network_settings", {}),
        "network_parts": _parts_left(summary.get("network_parts", {}), result.network),
        "network_config": _graph_config(result.network),
        "likelihood": result.likelihood.learned_config(),
        "input_scaling": input_scaling(splits),
    }
    found = finite_numbers(found)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(new_folder(out))
        masks = {name: mask.to(torch.uint8) for name, mask in result.masks.items()}
        found["digests"] = {
            WEIGHTS_FILE: write_tensors(result.network.state_dict(), folder / WEIGHTS_FILE),
            MASKS_FILE: write_tensors(masks, folder / MASKS_FILE),
        }
        result.layer_budget().write(folder / BUDGET_FILE)
        if small is not None:
            stack.enter_context(write_compact(small, splits.train[0][:2], folder, out, onnx))
            found["digests"][COMPACT_FILE] = tensor_digest((folder / COMPACT_FILE).read_bytes())
        write_json(folder / "summary.json", found)
    return found


def _graph_config(network: nn.Module) -> dict[str, Any] | None:
    """The config of a network whose graph was drawn when it was built, and would be another one by its name."""
    config: Any = getattr(network, "config", None)
    return config if isinstance(config, dict) and GRAPH in config else None


def _parts_left(parts: Mapping[str, Any], network: nn.Module) -> dict[str, Any]:
    """What is changed of a pruned network: DyReLUs that were faded out are ReLUs."""
    has_dyrelu = any(isinstance(module, DyReLU) for module in network.modules())
    return {key: value for key, value in parts.items() if key != "dyrelu" or has_dyrelu}


def _check_run_request(rules: list[Any], has_value: bool, has_min_accuracy: bool) -> None:
    for option, given in (("--value", has_value), ("--min-accuracy", has_min_accuracy)):
        if given:
            raise ValueError(f"{option} chooses a network of a path, but this is a run: leave it out")
    if sum(rule is not None for rule in rules) > 1:
        raise ValueError(
            "give one of --sparsity, --share, --count, --min-inclusion, --min-score and --budget, or none of them"
        )


def _check_min_score(per: str, criterion: str | None) -> None:
    if criterion is None:
        raise ValueError(
            "--min-score is a value of a criterion's score: name the criterion, e.g. --criterion dropout-rate"
        )
    if criterion == "inclusion":
        raise ValueError("--min-score is no rule on inclusion probabilities: give --min-inclusion, without --criterion")
    if per != "network":
        raise ValueError(
            f"--per {per} is about where --sparsity is reached, which --min-score does not set: leave it out"
        )


def _check_path_request(
    sparsity: float | None,
    value: float | None,
    min_accuracy: float | None,
    of_runs: Mapping[str, Any],
    has_per: bool,
) -> None:
    for option, given in (*of_runs.items(), ("--per", has_per or None)):
        if given is not None:
            raise ValueError(f"{option} says how a run is pruned, but the networks of a path are chosen: leave it out")
    if sparsity is None and value is None and min_accuracy is None:
        raise ValueError("say which network of the path: give --sparsity, --value or --min-accuracy")


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
    for name in ("accuracy", "rmse", "nll", "coverage_90"):
        if f"test_{name}_after" in summary:
            show = figure if name in ("rmse", "nll") else percent
            before, after = (show(summary[f"test_{name}_{when}"]) for when in ("before", "after"))
            words = "share in 90 % intervals" if name == "coverage_90" else name
            tuned = summary[f"test_{name}_finetuned"]
            more = "" if tuned is None else f", {show(tuned)} fine-tuned"
            console.print(f"test {words} {before} before, {after} after{more}")
    if summary["finetuned"] is not None:
        console.print(f"fine-tuned: {summary['finetuned']}", soft_wrap=True)
    if summary["batch_normalisation"] is not None:
        console.print(f"batch normalisation: {summary['batch_normalisation']}")
    for note in summary["notes"]:
        console.print(f"note: {note}", soft_wrap=True)
    if summary["rule"] == AS_LEFT and summary["compact_parameters"] is None:
        console.print(NO_FASTER, soft_wrap=True)
    for line in compact_lines(summary):
        console.print(line, soft_wrap=True)
    files = [WEIGHTS_FILE, MASKS_FILE, BUDGET_FILE, "summary.json"]
    if summary["compact_parameters"] is not None:
        files += [NETWORK_FILE, COMPACT_FILE, PLAN_FILE]
    console.print(f"written to {out}: {', '.join(files)}", soft_wrap=True)
    if summary["onnx"] is not None:
        console.print(f"written: {summary['onnx']}", soft_wrap=True)
