"""How a fit gets into another process of the same user (`multiprocessing`, `joblib`), and how it is copied.

A fit that `Fit.load` reads without code of the user's goes as the very files that `Fit.save` writes: it arrives on the
CPU, shares no memory with its origin, and runs no code but that of the package. Others go as the objects that they are.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from bayesprune.inference.fitted import Fitted
from bayesprune.inference.posterior.storage import load_fit, write_fit
from bayesprune.models.declared_model import code_of_ones_own
from bayesprune.models.files.tensor_file import read_tensors, write_tensors

__all__ = ["copied", "deeply_copied", "reduced"]

F = TypeVar("F", bound=Fitted)
_KEPT = "kept.safetensors"
_REMEDY = "send the fit again"


def copied(fit: F) -> F:
    """A fit with the same restarts, trace and settings."""
    made = object.__new__(type(fit))
    made.__dict__.update(fit.__dict__)
    return made


def deeply_copied(fit: F, memo: dict[int, Any]) -> F:
    """An independent fit, which says and predicts the same."""
    made = object.__new__(type(fit))
    memo[id(fit)] = made
    made.__dict__.update(copy.deepcopy(fit.__dict__, memo))
    return made


def reduced(fit: Fitted, protocol: Any) -> Any:
    """What `pickle` is to write for a fit: a function and its arguments."""
    if _is_named(fit):
        try:
            return _received, (type(fit), _files(fit))
        except ValueError:
            pass  # it holds what no file may, such as NaN
    return object.__reduce_ex__(fit, protocol)


def _is_named(fit: Fitted) -> bool:
    """Whether all of the declaration has a name of ours, as `Fit.load` asks for."""
    model = fit.model
    network = model.network if model.declared is None else model.declared
    declared = {
        "network": getattr(network, "config", None),
        "priors": {pattern: {"config": prior.config} for pattern, prior in model.patterns.items()},
        "likelihood": model.likelihood.config(),
        "ways": model.way_configs,
    }
    return code_of_ones_own(declared) is None


def _files(fit: Fitted) -> dict[str, bytes]:
    """The files of a saved fit, and the inputs and examples that it keeps in memory, by name."""
    kept: dict[str, Tensor] = {} if fit.inputs is None else {"inputs": fit.inputs}
    if fit.examples is not None:
        kept |= {"x": fit.examples[0], "y": fit.examples[1]}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_fit(fit, folder)
        write_tensors(kept, folder / _KEPT)
        return {file.name: file.read_bytes() for file in folder.iterdir()}


def _received(kind: type[F], files: dict[str, bytes]) -> F:
    """Reads a fit of that class from its files."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        found = load_fit(kind, folder)
        kept = read_tensors(folder / _KEPT, _REMEDY, may_be_infinite=None)
    found.inputs = kept.get("inputs")
    found.examples = (kept["x"], kept["y"]) if "x" in kept else None
    return found
