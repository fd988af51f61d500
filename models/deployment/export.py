"""Export: a network as generated, readable Python beside its weights, for a machine that has PyTorch and nothing else.

The network is traced by torch.fx in evaluation mode and written as one class, layers in its constructor and plain
operations in its forward. Nothing is pickled: weights are safetensors, which the generated file reads by itself.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from bayesprune.models.deployment.export_trace import agree, cloned, placed, run_traced, trace
from bayesprune.models.deployment.network_file import SAVED_DTYPES, generated_files, network_file
from bayesprune.models.deployment.network_source import network_source
from bayesprune.models.files.new_folder import new_folder
from bayesprune.models.files.places import expanded
from bayesprune.models.files.replaced_files import replaced_files
from bayesprune.models.files.tensor_file import write_tensors
from bayesprune.models.files.unwritable import permitted

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
    to give what the network gives. An earlier export in the folder is replaced, all of it or nothing; files that are
    not of one are not: its ``network.py`` is known by its first line, its weights and plan by what it says of them.

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
            not torch's, hooks, random numbers), or the folder cannot; or a file of that name is there and is of no
            earlier export. Nothing is left behind then.
        OSError: If the disk is full; nothing is left behind, and an earlier export stays.
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
    folder = expanded(folder)
    with permitted():
        _write(folder, text, state, weights_name, written_plan)
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


def _write(folder: Path, text: str, state: Mapping[str, Tensor], weights_name: str, plan: str | None) -> None:
    """Puts the files in their place together; a new folder appears all at once."""
    files = [NETWORK_FILE, weights_name, *([] if plan is None else [PLAN_FILE])]

    def fill(staged: Path) -> None:
        (staged / NETWORK_FILE).write_text(text, encoding="utf-8")
        write_tensors(state, staged / weights_name)
        if plan is not None:
            (staged / PLAN_FILE).write_text(plan, encoding="utf-8")

    if not os.path.lexists(folder):
        with new_folder(folder) as staged:
            fill(staged)
        return
    with replaced_files(folder, NETWORK_FILE) as (staged, removed):
        earlier = _earlier_export(folder, files)
        if PLAN_FILE in earlier and plan is None:
            removed.append(PLAN_FILE)  # it would say what is not so
        fill(staged)


def _earlier_export(folder: Path, files: list[str]) -> frozenset[str]:
    """The files of an earlier export in a folder.

    Raises:
        ValueError: If a file that is to be written is there, and is of no earlier export.
    """
    network = folder / NETWORK_FILE
    is_text = network.is_file() and not network.is_symlink()
    earlier = generated_files(network.read_bytes(), NETWORK_FILE, PLAN_FILE) if is_text else frozenset()
    for name in files:
        file = folder / name
        if os.path.lexists(file) and (name not in earlier or file.is_symlink() or not file.is_file()):
            raise ValueError(
                f"{file} exists already and is of no earlier export, so it is not replaced: choose another folder"
                f"{', or another weights_name' if name not in (NETWORK_FILE, PLAN_FILE) else ''}"
            )
    return earlier
