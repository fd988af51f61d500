"""Export: a network as generated, readable Python beside its weights, for a machine that has PyTorch and nothing else.

The network is traced by torch.fx in evaluation mode and written as one class, layers in its constructor and plain
operations in its forward. Nothing is pickled: weights are safetensors, which the generated file reads by itself.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils import _pytree

from bayesprune.models.export_trace import agree, cloned, placed, run_traced, trace
from bayesprune.models.network_file import SAVED_DTYPES, network_file
from bayesprune.models.network_source import network_source

__all__ = ["export_network"]

NETWORK_FILE, PLAN_FILE = "network.py", "plan.json"


def export_network(
    network: nn.Module,
    example_input: Any,
    folder: str | Path,
    plan: Mapping[str, Any] | None = None,
    weights_name: str = "compact.safetensors",
) -> Path:
    """Writes a network as readable Python with its weights; both run with PyTorch alone.

    ``network.py`` holds a class ``Network`` and a function ``load()``; names of layers are flat there, e.g.
    ``layer1_0_conv1`` for ``layer1.0.conv1``. What the output does not depend on is left out, and a parameter that
    two layers share is written for each. The result is run on the example before anything is left on disk, and has
    to give what the network gives. An earlier export in the folder is replaced.

    Args:
        network: The network; it is left as it was and exported in evaluation mode, with the dtypes it has. Its layers
            are those of torch.nn, its forward is traceable by torch.fx.
        example_input: An input as the network takes it, `(n, ...)`, n of 1 is enough; a tuple for several inputs.
            Numbers are cast to the network's dtype.
        folder: Where the files go; it may exist.
        plan: Which original indices were kept (`CompactResult.plan`), written to ``plan.json``; default none.
        weights_name: Name of the file of weights, default ``compact.safetensors``.

    Returns:
        The folder.

    Raises:
        ValueError: If the network cannot be written (control flow that depends on data, a layer or function that is
            not torch's, hooks, random numbers), or the folder cannot. Nothing is left behind then.
    """
    if not re.fullmatch(r"[\w.-]+\.safetensors", weights_name):
        raise ValueError(f"weights_name is {weights_name!r}, but a file name that ends in .safetensors is expected")
    try:
        written_plan = None if plan is None else json.dumps(plan, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as problem:
        raise ValueError(f"the plan cannot be written as JSON ({problem}): pass CompactResult.plan") from problem
    copied = copy.deepcopy(network).cpu().eval()
    given = example_input if isinstance(example_input, (tuple, list)) else (example_input,)
    inputs = tuple(placed(part, copied) for part in given)
    graph = trace(copied, inputs)
    tensors, outputs = run_traced(copied, graph, inputs)
    source = network_source(copied, graph, tensors)
    state = {name: tensor.detach().contiguous().clone() for name, tensor in source.state.items()}
    unknown = sorted({str(tensor.dtype) for tensor in state.values() if tensor.dtype not in SAVED_DTYPES})
    if unknown:
        raise ValueError(f"the network has weights of {', '.join(unknown)}: convert it to float32 or float64 first")
    text = network_file(type(network).__name__, source, inputs, weights_name, PLAN_FILE if plan is not None else None)
    _compare(text, state, inputs, outputs)
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as problem:
        raise ValueError(
            f"{folder} cannot be written ({problem.strerror}): choose a folder that you may write to"
        ) from problem
    try:
        (staging / NETWORK_FILE).write_text(text, encoding="utf-8")
        save_file(state, staging / weights_name)
        if written_plan is not None:
            (staging / PLAN_FILE).write_text(written_plan, encoding="utf-8")
        _move(staging, folder)
    except OSError as problem:
        raise ValueError(f"{folder} cannot be written ({problem.strerror}): choose another folder") from problem
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _compare(text: str, state: dict[str, Tensor], inputs: tuple[Any, ...], expected: Any) -> None:
    """Runs what was generated, and refuses an export that does not do what the network does."""
    space: dict[str, Any] = {"__name__": "network", "__file__": NETWORK_FILE}
    exec(compile(text, NETWORK_FILE, "exec"), space)
    with torch.device("meta"):
        generated = space["Network"]()
    generated.load_state_dict(state, assign=True)
    with torch.no_grad():
        found = generated.eval()(*cloned(inputs))
    wanted, given = _pytree.tree_leaves(expected), _pytree.tree_leaves(found)
    if len(wanted) != len(given) or not all(map(agree, wanted, given)):
        raise ValueError(
            "the generated network does not give what the network gives for the example input: it may draw random "
            "numbers, or change its own state in evaluation mode, which an export cannot hold"
        )


def _move(staging: Path, folder: Path) -> None:
    """Puts the complete files in their place; a new folder appears all at once."""
    if not folder.exists():
        os.chmod(staging, 0o755)
        os.replace(staging, folder)
        return
    files = sorted(staging.iterdir())
    for file in files:
        os.replace(file, folder / file.name)
    if PLAN_FILE not in [file.name for file in files]:
        (folder / PLAN_FILE).unlink(missing_ok=True)  # of an earlier export: it would say what is not so
