"""`bayesprune prune --compact`: the pruned network without its dead units, what it costs, and its files."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.commands.console import figure
from bayesprune.inference.pruning.report import PruneResult
from bayesprune.models.costs.costs import costs
from bayesprune.models.costs.latency import latency, ratio
from bayesprune.models.deployment.export import export_network
from bayesprune.models.deployment.onnx_export import export_onnx, require_extra
from bayesprune.models.deployment.sparse import to_sparse
from bayesprune.models.files.new_file import check_new_file, new_file
from bayesprune.models.files.places import expanded
from bayesprune.models.tracing.not_followed import NotFollowedError
from bayesprune.models.units.compact import CompactResult

__all__ = ["KEYS", "check_request", "compacted", "compact_lines", "write_compact"]

BATCH_SIZES = (1, 128)
"""Examples in the batches that latency is measured with."""
KEYS = (
    "parameters", "compact_parameters", "dense_macs", "sparse_macs", "compact_macs", "max_output_difference",
    "output_sd", "latency_ratio", "compact_units", "kept_dead_units", "idle_layers", "not_compared", "round_to", "onnx",
    "folded_layers", "not_folded", "csr_speed_ups",
)  # fmt: skip
"""Keys of summary.json that say what compaction came to; null without it."""


def check_request(out: Path, compact: bool, onnx: Path | None, latency: bool, round_to: int | None) -> None:
    """Refuses options that do not go together, and an ONNX file that cannot be made, before any work is done.

    Args:
        out: The folder that is to be made.
        compact: Whether a compact network is asked for.
        onnx: The file for its ONNX form.
        latency: Whether it is to be timed.
        round_to: What its widths are kept at multiples of.

    Raises:
        ValueError: In one sentence.
    """
    for option, given in (("--onnx", onnx is not None), ("--latency", latency), ("--round-to", round_to is not None)):
        if given and not compact:
            raise ValueError(f"{option} is about the compact network: add --compact")
    if round_to is not None and round_to < 1:
        raise ValueError(f"--round-to must be at least 1, not {round_to}")
    if onnx is None:
        return
    if onnx.suffix != ".onnx":
        raise ValueError(f"--onnx takes a file .onnx, not {onnx.name}")
    require_extra()
    if _place_within(onnx, out) is None:
        check_new_file(onnx, "--onnx")


def compacted(
    result: PruneResult, x: Tensor, timed: bool, round_to: int | None
) -> tuple[CompactResult, dict[str, Any]]:
    """Removes the dead units of a pruned network, and counts and times what that saves.

    Args:
        result: The pruned network.
        x: Inputs of the training data, `(n, ...)`, for shapes and for timing.
        timed: Whether to time both networks.
        round_to: What widths are kept at multiples of; None for 1.

    Returns:
        The compact network, and the keys of the summary.

    Raises:
        ValueError: If the network cannot be compacted.
    """
    x = x.to(next(result.network.parameters()).dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*all .* dead")  # the summary and the output say so
        try:
            small = result.compact(x[:2], round_to=round_to or 1)
        except NotFollowedError as problem:
            raise problem.otherwise('compact it in Python, bp.compact(network, x, unknown="keep")') from problem
    counted, report = costs(result.network, x[:1], small.network), small.report
    found = {
        "parameters": counted.parameters,
        "compact_parameters": counted.compact_parameters,
        "dense_macs": counted.dense_macs,
        "sparse_macs": counted.sparse_macs,
        "compact_macs": counted.compact_macs,
        "max_output_difference": report.max_output_difference,
        "output_sd": report.output_sd,
        "latency_ratio": _ratios(result.network, small.network, x) if timed else None,
        "compact_units": {
            name: {"of": before, "left": report.units_after[name]} for name, before in report.units_before.items()
        },
        "kept_dead_units": dict(report.kept),
        "idle_layers": list(report.idle),
        "not_compared": dict(report.not_compared),
        "round_to": round_to or 1,
        "folded_layers": {
            name: {"rank": layer.rank, "inputs": layer.inputs, "outputs": layer.outputs}
            for name, layer in report.folded.items()
        },
        "not_folded": dict(report.not_folded),
        "csr_speed_ups": _csr_speed_ups(small.network, x) if timed else None,
    }
    return small, found


def _csr_speed_ups(network: nn.Module, x: Tensor) -> dict[str, dict[str, float]]:
    """How many times as fast CSR makes the layers that it makes faster, by batch size and name: medians."""
    found: dict[str, dict[str, float]] = {}
    for size in BATCH_SIZES:
        try:
            report = to_sparse(network, x[torch.arange(size) % len(x)]).report
        except ValueError:  # no layer is faster so, or there is no linear one
            found[str(size)] = {}
            continue
        gains = {name: one.speed_up for name, one in report.layers.items() if one.converted}
        found[str(size)] = {name: gain for name, gain in gains.items() if gain is not None}
    return found


def _ratios(dense: nn.Module, compact: nn.Module, x: Tensor) -> dict[str, float]:
    """How many times as long the network with zeros takes, by batch size: medians of paired ratios."""
    ratios = {}
    for size in BATCH_SIZES:
        batch = x[torch.arange(size) % len(x)]
        times = latency({"dense": dense, "compact": compact}, batch)
        ratios[str(size)] = ratio(times["dense"], times["compact"]).median
    return ratios


@contextlib.contextmanager
def write_compact(small: CompactResult, example: Tensor, folder: Path, out: Path, onnx: Path | None) -> Iterator[None]:
    """Writes the compact network into a folder that is being made, and its ONNX form.

    Args:
        small: The compact network.
        example: Inputs, `(n, ...)`.
        folder: The folder, under the name it has while it is being filled.
        out: The folder that it will be.
        onnx: The file for the ONNX form, which may lie in `out`; None for none. Elsewhere it comes to its place
            when the block ends well.
    """
    example = example.to(next(small.network.parameters()).dtype)
    export_network(small.network, example, folder, plan=small.plan)
    with contextlib.ExitStack() as stack:
        if onnx is not None:
            within = _place_within(onnx, out)
            file = stack.enter_context(new_file(onnx)) if within is None else folder / within
            file.parent.mkdir(parents=True, exist_ok=True)
            export_onnx(small.network, example, file)
        yield


def _place_within(file: Path, folder: Path) -> Path | None:
    """Where a file lies in a folder, neither of which needs to be there; None where it does not."""
    file, folder = (expanded(path).absolute() for path in (file, folder))
    return file.relative_to(folder) if folder in file.parents else None


def compact_lines(summary: Mapping[str, Any]) -> list[str]:
    """What compaction came to, in lines to print; none where there was none."""
    if summary["compact_parameters"] is None:
        return []
    units = summary["compact_units"].items()
    smaller = [f"{name}: {row['left']} of {row['of']}" for name, row in units if row["left"] < row["of"]]
    lines = [
        f"compact: {summary['compact_parameters']:,} of {summary['parameters']:,} parameters; MACs "
        f"{summary['dense_macs']:,} dense, {summary['sparse_macs']:,} sparse, {summary['compact_macs']:,} compact",
        f"units left of {', '.join(smaller)}" if smaller else "no unit is dead, so that none was removed",
        f"outputs differ by at most {summary['max_output_difference']:.1e}, their sd is {figure(summary['output_sd'])}",
    ]
    folded = [f"{name} of rank {row['rank']}" for name, row in summary["folded_layers"].items()]
    lines += [f"two thin layers in place of {', '.join(folded)}"] if folded else []
    lines += [f"one layer as before: {name}, {reason}" for name, reason in summary["not_folded"].items()]
    if summary["not_compared"]:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in summary["not_compared"].items())
        lines.append(f"not compared: {reasons}")
    if summary["latency_ratio"] is not None:
        ratios = " and ".join(f"{value:.2f} at batch {size}" for size, value in summary["latency_ratio"].items())
        lines.append(f"times as fast as the network with zeros, on one thread: {ratios}")
    if summary["csr_speed_ups"] is not None:
        lines.append(_csr_line(summary["csr_speed_ups"]))
    return lines + [f"note: {name}: {reason}" for name, reason in summary["kept_dead_units"].items()]


def _csr_line(found: Mapping[str, Mapping[str, float]]) -> str:
    """Which layers of the compact network are worth storing as CSR."""
    parts = []
    for size, gains in found.items():
        layers = ", ".join(f"{name} {gain:.2f}" for name, gain in gains.items())
        parts.append(f"at batch {size} {layers or 'none'}")
    return f"layers that CSR makes faster, in times of the dense one: {'; '.join(parts)} (to_sparse stores them so)"
