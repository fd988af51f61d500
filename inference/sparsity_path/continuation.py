"""A path: fits along the values of a knob, each from the one before or all from cold starts."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayesprune.inference.data.batches import Batches, Data
from bayesprune.inference.data.fingerprints import data_fingerprint, described, model_fingerprint
from bayesprune.inference.defaults.kl_weight import default_rules
from bayesprune.inference.defaults.length import default_epochs
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.sparsity_path.folder import add_point, open_index, point_folder
from bayesprune.inference.sparsity_path.point import Pruning, check_prunings, default_prunings
from bayesprune.inference.sparsity_path.side_by_side import PathFits, fitting_folder
from bayesprune.inference.sparsity_path.sparsity_path import ModelAt, SparsityPath
from bayesprune.inference.training.fit_options import filled_in
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.given_numbers import whole_number
from bayesprune.models.checks.renamed_arguments import takes_old_names
from bayesprune.models.files.places import expanded

__all__ = ["sparsity_path"]

_OURS = {"start": "epochs", "steps": "epochs", "only_restart": "restarts", "checkpoint": "folder"}
"""What the path sets itself of the arguments of `fit`, and what is to be given in its place."""
MOST_WORKERS = 256
_NO_MATTER = ("progress",)  # it changes nothing in the numbers


@takes_old_names
def sparsity_path(
    model_at: ModelAt,
    data: Data,
    values: Sequence[float],
    *,
    knob: str,
    validation: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor] | None = None,
    epochs: int | None = None,
    first_epochs: int | None = None,
    restarts: int = 3,
    kl_warmup: float | None = None,
    prunings: Sequence[Pruning] | None = None,
    latency: bool = False,
    folder: str | Path | None = None,
    declaration: Mapping[str, Any] | None = None,
    warm: bool = True,
    workers: int = 1,
    **how: Any,
) -> SparsityPath:
    """Fits a model at one value of its prior's knob after the other, and measures the pruned networks of each.

    A regularisation path with warm starts (Friedman, Hastie & Tibshirani 2010, section 2.5; of a spike and slab:
    Rockova & George 2018): every restart of a fit begins at the same restart of the fit before, so that a point
    costs little more than what changes from one value to the next. Order the values from dense to sparse: what was
    pruned away hardly comes back.

    The point at a value is the same as ``fit(model_at(value), data, start=fit_before, epochs=epochs, kl_warmup=0.0,
    restarts=restarts, validation=validation, **how)``.

    Args:
        model_at: Returns the model at a value; all of one structure.
        data: Training data, as `fit` takes them.
        values: Values of the knob, in the order in which they are fitted; each once.
        knob: What the knob is called, e.g. ``"kappa"`` or ``"expected_density"``.
        validation: `(x, y)` that choose: the front, and the network that `prune` takes.
        test: `(x, y)` that only report; default None.
        epochs: Passes over the data at each point; default None: a third of the default length of `fit`.
        first_epochs: Those at the first point, which starts cold; default None: three times `epochs`.
        restarts: Independent paths, from `seed`, `seed` + 1, ...; default 3.
        kl_warmup: As in `fit`, of the first point. Later ones have none: they would forget their warm start.
        prunings: How the fit of each point is pruned, mappings of arguments of `prune`; an empty one keeps what the
            fit has left out itself. Default None: the median-probability model for gates, else sparsities of 0.5, 0.8,
            0.9, 0.95, 0.98 and 0.99; those below what a fit has already are NaN.
        latency: Whether to measure the latency of the compact networks, for one example; default False.
        folder: Where every finished point is written at once; default None: nowhere. A second call with the same
            arguments goes on after the last finished point, or with further values, and gives the same numbers as one
            that was not interrupted. Callables among the arguments are compared by name.
        declaration: Anything JSON holds about how the models were made; kept in the folder. Default None.
        warm: Whether each fit begins at the one before; default True. False: each begins cold, is as long as the first,
            and depends on no other.
        workers: Processes on this machine that fit, each in one thread: the restarts of a value side by side (no more
            than `restarts` are of use), and of cold starts those of all values. The fits are the same, but for what
            another number of threads changes in the last bits, and a folder may be gone on with by another number.
            Default 1: this process, with all its threads. With more a script has to be guarded by
            ``if __name__ == "__main__":``, and callbacks are refused.
        **how: Further arguments of `fit`: `guide`, `learning_rate`, `seed`, ...

    Returns:
        The path.

    Raises:
        ValueError: For bad input, before training starts; if the folder holds a path of other arguments.
        NonFiniteLossError: If a loss becomes NaN or infinite.
        LostWorkerError: If processes are killed at the same fit again and again.
    """
    values = _checked_values(values, knob)
    if wrong := [name for name in _OURS if name in how]:
        raise ValueError(f"{wrong[0]}= is set by the path itself: leave it out, and give {_OURS[wrong[0]]}=")
    workers = whole_number("workers", workers)
    if workers > MOST_WORKERS:
        raise ValueError(
            f"workers must be at most {MOST_WORKERS}, not {workers:.3g}: they are processes of one machine"
        )
    if epochs is None:
        epochs = default_epochs(
            Batches(data, int(how.get("batch_size", 128)), torch.device("cpu"), torch.float32), share=1 / 3
        )
    first_epochs = 3 * epochs if first_epochs is None else first_epochs
    if min(epochs, first_epochs, restarts) < 1:
        raise ValueError(
            f"epochs, first_epochs and restarts must be at least 1, not {epochs}, {first_epochs}, {restarts}"
        )
    given = None if prunings is None else check_prunings(prunings)
    splits = {"validation": validation} | ({} if test is None else {"test": test})
    place = None if folder is None else expanded(folder)
    asked = {
        "knob": knob, "values": values, "declarations": _fingerprints(model_at, values, knob),
        "data": {name: data_fingerprint(part) for name, part in {"training": data, **splits}.items()},
        "arguments": {
            "epochs": epochs, "first_epochs": first_epochs, "restarts": restarts, "kl_warmup": kl_warmup,
            "prunings": given, "latency": latency,
            "fit": described({name: value for name, value in filled_in(how).items() if name not in _NO_MATTER}),
            "rules": default_rules(kl_weight=how.get("kl_weight"), kl_warmup=kl_warmup),
            **({} if warm else {"warm": False}),
        },
        "declaration": declaration,
    }  # fmt: skip
    index = {"prunings": None, "points": []} if place is None else open_index(place, asked)
    fits: dict[float, Fit] = {}
    done = len(index["points"])
    if place is not None:
        for number in range(done):  # a call may have been killed right after it had written a point
            shutil.rmtree(fitting_folder(place, number), ignore_errors=True)
    before = Fit.load(point_folder(place, done - 1), model_at(values[done - 1])) if place is not None and done else None
    if before is not None and before.settings.get("local_reparameterisation") is False:
        how = {"local_reparameterisation": False, **how}  # the default of the version that began the path
    lengths = {"first": {"epochs": first_epochs}, "later": {"epochs": epochs}, "kl_warmup": kl_warmup}
    made = PathFits(data, splits, lengths, restarts, how, index["prunings"] or given, latency, warm)
    begun = (model_at, values, done, before, place)
    points = made.one_by_one(*begun) if workers == 1 else made.side_by_side(*begun, workers)
    with contextlib.closing(points):
        for fit, point in points:
            if index["prunings"] is None:
                index["prunings"] = given or default_prunings(fit)
            if place is not None:
                add_point(place, index, fit, point)
            else:
                fits[values[len(index["points"])]] = fit
                index["points"].append(point)
    if place is not None:
        return SparsityPath.load(place, model_at)
    return SparsityPath.of(knob, values, index["prunings"], index["points"], fits.__getitem__)


def _checked_values(values: Sequence[float], knob: str) -> list[float]:
    found = [float(value) for value in values]
    if not found or len(set(found)) != len(found) or not all(math.isfinite(value) for value in found):
        raise ValueError(f"values of {knob} must be finite numbers, at least one and each once, not {list(values)}")
    return found


def _fingerprints(model_at: ModelAt, values: Sequence[float], knob: str) -> list[str]:
    """Fingerprints of the models, all of which are made once before anything is fitted."""
    found: list[str] = []
    declared: list[Any] = []
    sites: dict[str, tuple[int, ...]] | None = None
    for value in values:
        model = model_at(value)
        if not isinstance(model, BayesianNetwork):
            raise ValueError(f"model_at({value:g}) returned a {type(model).__name__}: return a BayesianNetwork")
        here = {name: tuple(site.shape) for name, site in model.sites.items()}
        if sites is not None and here != sites:
            raise ValueError(
                f"the model at {knob} = {value:g} has other sites than that at {values[0]:g}: all of a path have one "
                "structure, so that each can start from the one before"
            )
        sites = here
        found.append(model_fingerprint(model))
        declared.append((found[-1], [hierarchy.config for hierarchy in model.patterns.values()]))
        if declared.index(declared[-1]) < len(declared) - 1:
            raise ValueError(
                f"model_at returned the same model for two values of {knob}, the second {value:g}: hand the value on "
                "to the prior"
            )
    return found
