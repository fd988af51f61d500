"""The folder of a pruned network, read back: its summary, the scaling of its inputs, and the network itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayesprune.commands.pruning import COMPACT_FILE, PLAN_FILE, WEIGHTS_FILE
from bayesprune.models.checks.size_bounds import checked_count, checked_input_shape, checked_settings, checked_width
from bayesprune.models.deployment.export_trace import run_traced, trace
from bayesprune.models.deployment.network_source import network_source
from bayesprune.models.files.json_file import damaged, need, read_json
from bayesprune.models.files.places import expanded
from bayesprune.models.files.tensor_file import infinite_buffers, not_finite, read_tensors
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.networks.standardisation import put_in_units, units_of
from bayesprune.models.ready_networks import network_from_config
from bayesprune.models.units.cutting import cut
from bayesprune.runs.code_trust import CodeTrust, allowed_code
from bayesprune.runs.declaration import checked_parts, make_network, with_parts
from bayesprune.runs.run_folder import SUMMARY_FILE

__all__ = ["load_pruned", "read_folder_summary", "scaling_of"]

_REMEDY = "make the folder again"
_PRUNED: dict[str, Any] = {
    "rule": str, "network": str, "input_shape": list, "outputs": int, "likelihood": dict, "input_scaling": dict,
    "compact_parameters": (int, type(None)),
}  # fmt: skip
_LATER: dict[str, Any] = {
    "width": float, "digests": dict, "network_settings": dict, "network_parts": dict,
    "network_config": (dict, type(None)),
}  # fmt: skip
"""Keys that earlier versions did not write."""


def load_pruned(
    folder: str | Path, trust_code: bool = False, network: str | None = None, prior: str | None = None
) -> tuple[nn.Module, Likelihood]:
    """Reads the network of a folder that `bayesprune prune` made, and what its outputs mean, onto the CPU.

    The network is built by its name and given the folder's weights; a compact one is cut by the folder's plan.
    The folder's own ``network.py`` is not run.

    Args:
        folder: The folder.
        trust_code: Whether to run the code of a network of one's own that the folder names; default False.
        network: That network, `FILE.py:NAME` or `MODULE:NAME`, repeated to allow it; default None.
        prior: The prior of its run; it is not made, but has to be the one that the folder names. Default None.

    Returns:
        The network, in evaluation mode, and its likelihood.

    Raises:
        CodeNotTrusted: If the network is code that is neither repeated nor trusted.
        ValueError: If it is no such folder, a file is damaged, or the network's code is gone.
    """
    folder = expanded(folder)
    summary, trust, where = read_folder_summary(folder), CodeTrust(trust_code, network, prior), folder / SUMMARY_FILE
    if "rule" not in summary:
        raise ValueError(f"{folder} is a run folder: read it with load_run, or prune it first")
    if prior is not None and "prior" in summary:
        allowed_code({"prior": summary["prior"]}, trust, where)
    reference = allowed_code({"network": summary["network"]}, trust, where)["network"]
    compact = summary["compact_parameters"] is not None
    name = COMPACT_FILE if compact else WEIGHTS_FILE
    file = folder / name
    # Infinity may stand in buffers that are no statistics; which they are is known when there is a network.
    state = read_tensors(file, _REMEDY, summary.get("digests", {}).get(name), may_be_infinite=None)
    dtype = next((value.dtype for value in state.values() if value.is_floating_point()), torch.float32)
    shape = summary["input_shape"]
    with torch.random.fork_rng(devices=[]):
        if summary["network_config"] is not None:
            made = _made_again(summary["network_config"], where)
        else:
            settings = summary["network_settings"]
            made = make_network(reference, shape, summary["outputs"], summary["width"], settings)
        made = with_parts(made, summary["network_parts"], shape).to(dtype).eval()
    try:
        if units_of(state):
            put_in_units(made, units_of(state))
        if compact:
            example = torch.zeros(2, *shape, dtype=dtype)
            made = cut(made, example, read_json(folder / PLAN_FILE, _REMEDY))
            _load_exported(made, state, example)
        else:
            made.load_state_dict(state)
        likelihood = Likelihood.from_config(summary["likelihood"])
        scales = getattr(likelihood, "unit", None)
        if scales is not None and len(scales) != summary["outputs"]:
            raise ValueError(f"the noise has {len(scales)} scales for {summary['outputs']} outputs")
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise ValueError(f"the files of {folder} do not fit each other ({reason}): prune the run again") from problem
    wrong = not_finite(made.state_dict(), infinite_buffers(made))
    if wrong is not None:
        raise ValueError(f"{file} holds NaN or infinity in {wrong}: {_REMEDY}")
    return made.eval(), likelihood


def _made_again(config: Mapping[str, Any], file: Path) -> nn.Module:
    try:
        return network_from_config(config)
    except ValueError as problem:
        raise damaged(file, problem, _REMEDY) from problem


@torch.no_grad()
def _load_exported(network: nn.Module, state: Mapping[str, Tensor], example: Tensor) -> None:
    """Fills a compact network from a file of `export_network`, which has flat names for its layers."""
    graph = trace(network, (example,))
    tensors, _ = run_traced(network, graph, (example,))
    own = network_source(network, graph, tensors).state
    wrong = [name for name in {**own, **state} if name not in own or name not in state]
    wrong += [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if wrong:
        raise ValueError(f"{wrong[0]} is not the same in the plan and in the weights")
    for name, tensor in own.items():  # these are views of the network's own
        tensor.copy_(state[name])


def read_folder_summary(folder: Path) -> dict[str, Any]:
    """The summary of a run folder or of the folder of a pruned network; the latter has the key ``rule``.

    Raises:
        ValueError: If it is neither, or the summary is damaged.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name one that bayesprune fit or prune made")
    if not (folder / SUMMARY_FILE).is_file():
        raise ValueError(f"{folder} is neither a run folder nor one of a pruned network: it has no {SUMMARY_FILE}")
    file = folder / SUMMARY_FILE
    found = read_json(file, _REMEDY)
    needed: dict[str, Any] = _PRUNED if "rule" in found else {"input_shape": list}
    missing = [key for key in needed if key not in found]
    if missing:
        raise ValueError(
            f"{file} lacks {', '.join(missing[:3])}: it is damaged or of an older version, so make the folder again"
        )
    need(file, found, {**needed, **{key: kind for key, kind in _LATER.items() if key in found}}, _REMEDY)
    try:
        found["input_shape"] = checked_input_shape(found["input_shape"])
        if "rule" in found:
            found["outputs"] = checked_count(found["outputs"], "outputs")
            found["width"] = checked_width(found.get("width", 1.0))
            found["network_settings"] = checked_settings(found.get("network_settings", {}), "network_settings")
            found["network_parts"] = checked_parts(found.get("network_parts", {}))
            found.setdefault("network_config", None)
    except ValueError as problem:
        raise damaged(file, problem, _REMEDY) from problem
    return found


def scaling_of(summary: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """How inputs were scaled, as the summary of a pruned network says it: ``divisor``, ``mean`` and ``sd``.

    Args:
        summary: Of `read_folder_summary`.
        folder: Its folder, for the message.

    Raises:
        ValueError: If it is damaged.
    """
    found, shape = summary["input_scaling"], summary["input_shape"]
    try:
        divisor, mean, sd = (np.asarray(found[key], dtype=np.float64) for key in ("divisor", "mean", "sd"))
        known = [shape] if len(shape) != 3 else [shape, shape[:1]]
        fits = divisor.shape == () and mean.shape == sd.shape and sd.shape in known
        finite = fits and all(np.isfinite(part).all() for part in (divisor, mean, sd))
        if not finite or divisor <= 0 or (sd <= 0).any():
            raise ValueError("a divisor, a mean and a positive sd are expected")
    except (TypeError, KeyError, ValueError, OverflowError) as problem:
        raise damaged(folder / SUMMARY_FILE, f"input_scaling: {problem}", _REMEDY) from problem
    return {"divisor": found["divisor"], "mean": mean, "sd": sd}
