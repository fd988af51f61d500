"""ONNX export: a network as one ONNX file for any batch size, checked with onnxruntime before it is kept.

PyTorch's exporter on torch.export is used: unlike its predecessor, which records one run, it proves that the batch
size is free. It takes seconds to half a minute.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree

from bayesprune.models.checks.first_line import first_line
from bayesprune.models.deployment.export_trace import agree, cloned, placed
from bayesprune.models.files.new_file import written_over
from bayesprune.models.files.new_folder import folders_above
from bayesprune.models.files.places import expanded
from bayesprune.models.files.unwritable import Unwritable, permitted

__all__ = ["export_onnx", "require_extra"]

_EXTRA = ("onnx", "onnxscript", "onnxruntime")


def export_onnx(network: nn.Module, example_input: Any, file: str | Path) -> Path:
    """Writes a network as an ONNX file with a free batch size; needs ``pip install bayesprune[export]``.

    The first dimension of every input and output is the batch. The file is run by onnxruntime, on the example and on
    another batch size, before it takes its place, and has to give what the network gives. Zeros of a masked network
    stay numbers there: onnxruntime runs such a network no faster, compact it first.

    Args:
        network: The network; it is left as it was and exported in evaluation mode. float32 is what onnxruntime runs;
            of float64 it lacks many layers.
        example_input: An input as the network takes it, `(n, ...)`, n of 1 is enough; a tuple for several inputs.
        file: Where the network goes; an ONNX file that is there, whoever wrote it, is replaced, another one is not. It
            is one file, at most 2 GB.

    Returns:
        The file. Inputs are called as the network's forward calls them, outputs ``output`` or ``output_0`` and so on.

    Raises:
        ValueError: If the extra is missing, or the network cannot be exported, or the file is not what the network
            is, or cannot be written, or something else stands in its place. Nothing is left behind then.
        OSError: If the disk is full; nothing is left behind, and what was there stays.
    """
    require_extra()
    place = expanded(file).absolute()
    copied = copy.deepcopy(network).cpu().eval()
    given = example_input if isinstance(example_input, (tuple, list)) else (example_input,)
    inputs = tuple(placed(part, copied) for part in given)
    if not inputs or not all(torch.is_tensor(part) and part.ndim and len(part) for part in inputs):
        raise ValueError("an ONNX export takes tensors (n, ...) with n of at least 1 as example: pass such")
    two = tuple(torch.cat([part, part[:1]]) for part in inputs)  # torch.export takes a batch of 1 for a constant
    try:
        with torch.no_grad():
            expected = [(batch, _pytree.tree_leaves(copied(*cloned(batch)))) for batch in (inputs, two)]
    except Exception as problem:  # whatever the user's layers raise
        raise ValueError(f"the network does not take the example input ({first_line(problem)})") from problem
    outputs = len(expected[0][1])
    names = ["output"] if outputs == 1 else [f"output_{k}" for k in range(outputs)]
    with permitted(), folders_above(place), written_over(place, _is_onnx, "an ONNX file") as staged:
        with tempfile.TemporaryDirectory() as temporary:
            made = Path(temporary) / "network.onnx"
            _export(copied, two, str(made), names)
            for batch, wanted in expected:
                _compare(str(made), batch, wanted)
            shutil.copyfile(made, staged)
    return expanded(file)


def _is_onnx(file: Path) -> bool:
    onnx = importlib.import_module("onnx")
    try:
        found = onnx.load_model(str(file), load_external_data=False)
    except Exception:  # protobuf has classes of its own
        return False
    return bool(found.ir_version) and found.HasField("graph")


def _export(network: nn.Module, inputs: tuple[Any, ...], file: str, outputs: list[str]) -> None:
    batch = torch.export.Dim("batch")
    names = list(inspect.signature(network.forward).parameters)[: len(inputs)]
    try:
        with _quiet():
            torch.onnx.export(
                network,
                inputs,
                file,
                input_names=names,
                output_names=outputs,
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as problem:  # the exporter raises its own classes, and what the network's layers raise
        cause = problem.__cause__ or problem
        if isinstance(cause, OSError) and Unwritable(file, cause).is_full:  # not the network's fault
            raise Unwritable(file, cause) from problem
        raise ValueError(
            f"the network cannot be exported to ONNX ({type(cause).__name__}: {first_line(cause)}): it needs a fixed "
            "sequence of layers that ONNX knows, whose control flow does not depend on data or batch size"
        ) from problem


def _compare(file: str, inputs: tuple[Any, ...], expected: list[Any]) -> None:
    """Refuses a file that onnxruntime does not run, or that does not give what the network gives."""
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is said below
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        feed = {slot.name: part.numpy() for slot, part in zip(session.get_inputs(), inputs, strict=True)}
        found = [torch.as_tensor(part) for part in session.run(None, feed)]
    except Exception as problem:  # onnxruntime's classes share no base
        double = any(part.dtype == torch.float64 for part in inputs)
        advice = "convert it to float32 by network.float()" if double else "write it with other layers"
        raise ValueError(f"onnxruntime does not run the network ({first_line(problem)}): {advice}") from problem
    if len(found) != len(expected) or not all(map(agree, expected, found)):
        raise ValueError(
            f"the exported network does not give what the network gives for a batch of {len(inputs[0])}: it may draw "
            "random numbers, or depend on the batch size in a way that ONNX does not hold"
        )


def require_extra() -> None:
    """Refuses an ONNX export where a package that it needs is not installed.

    Raises:
        ValueError: Naming the package, and what installs it.
    """
    for name in _EXTRA:
        try:
            importlib.import_module(name)
        except ImportError as problem:
            raise ValueError(
                f"an ONNX export needs the package {name}, which is not installed: pip install bayesprune[export]"
            ) from problem


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings, log and prints, of which a failure makes pages; the exception says it all."""
    before = logging.root.manager.disable
    nowhere = io.StringIO()
    try:
        logging.disable(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
