"""Arguments of a fit, checked before anything is made of them: each wrong one is told in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from bayesprune.inference.data.batches import placed
from bayesprune.inference.data.data_units import ONLY_NOISE
from bayesprune.inference.execution.stepper import PATHS
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.guide import assign_families
from bayesprune.inference.rules.gate_training import Gating
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.given_numbers import real_number, whole_number
from bayesprune.models.checks.plain_numbers import plain_number

__all__ = [
    "PRECISIONS",
    "checked_arguments",
    "checked_length",
    "checked_pair",
    "resolve_device",
]

PRECISIONS = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}


def checked_length(epochs: Any, steps: Any) -> tuple[int | None, int | None]:
    """Returns epochs and steps, of which at most one is given.

    Raises:
        ValueError: If both are given, or the one is no whole number from 1 up.
    """
    if epochs is not None and steps is not None:
        raise ValueError("give either epochs= or steps=, the length of the fit, not both")
    return (
        None if epochs is None else whole_number("epochs", epochs),
        None if steps is None else whole_number("steps", steps),
    )


def checked_pair(
    pair: Any, device: torch.device, dtype: torch.dtype, channels_last: bool = False
) -> tuple[Tensor, Tensor] | None:
    """Returns validation data where they are wanted; None for None.

    Raises:
        ValueError: If they are no pair of tensors, or hold numbers that are too large for the dtype.
    """
    if pair is None:
        return None
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(map(torch.is_tensor, pair)):
        raise ValueError("validation must be a tuple (x, y) of tensors")
    try:
        x, y = (placed(part, device, dtype) for part in pair)
    except ValueError as problem:
        raise ValueError(f"validation data: {problem}") from problem
    return x, y


def resolve_device(device: str | torch.device) -> torch.device:
    """Returns the device of that name; ``"auto"`` is the GPU where there is one.

    Raises:
        ValueError: If there is no such device here, or nothing can be computed on it.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        works = float(torch.ones(1, device=place).sum()) == 1.0
    except Exception as problem:  # each backend of torch that is not there has an error of its own
        raise ValueError(f"device {device!r} is not available here: use 'cpu' or 'auto'") from problem
    if not works:
        raise ValueError(f"device {device!r} computes nothing: use 'cpu' or 'auto'")
    return place


def checked_arguments(model: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Refuses arguments of `fit` that are of a wrong type or do not go together.

    Args:
        model: The model.
        given: The other arguments by name; whole numbers have been checked already.

    Returns:
        The arguments, numbers and flags as Python's own, so that settings can be saved.

    Raises:
        ValueError: For the first wrong one.
    """
    if not isinstance(model, BayesianNetwork):
        raise ValueError(
            f"fit takes a BayesianNetwork, not {type(model).__name__}: declare BayesianNetwork(network, priors, ...)"
        )
    options = {name: plain_number(value) for name, value in given.items()}
    _check_types(options)
    assign_families(model, options["guide"])
    if options["precision"] not in PRECISIONS:
        raise ValueError(f"precision {options['precision']!r} is unknown: expected one of {', '.join(PRECISIONS)}")
    if options["path"] not in PATHS:
        raise ValueError(f"path {options['path']!r} is unknown: expected one of {', '.join(PATHS)}")
    numbers = [name for name in ("kl_weight", "kl_warmup", "clip") if options[name] is not None]
    numbers += ["learning_rate"] if isinstance(options["optimizer"], str) else []
    options |= {name: real_number(name, options[name]) for name in numbers}
    share, weight, clip = (options[name] for name in ("kl_warmup", "kl_weight", "clip"))
    if share is not None and not 0.0 <= share < 1.0:
        raise ValueError(f"kl_warmup is a share of the steps in [0, 1), not {share}")
    if weight is not None and weight < 0.0:
        raise ValueError(f"kl_weight must not be negative, not {weight}: 1 is the ELBO, less is tempered")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is the largest norm of the gradient, a positive number, not {clip}")
    if isinstance(options["optimizer"], str) and options["learning_rate"] <= 0:
        raise ValueError(f"learning_rate must be positive, not {options['learning_rate']}")
    start, restarts = options["start"], options["restarts"]
    if start is not None and len(start.restarts) < restarts:
        raise ValueError(
            f"start= has {len(start.restarts)} restarts, but {restarts} are asked for, each of which begins at one: "
            "ask for as many at most"
        )
    _check_gates(model, options)
    return options


def _check_types(options: Mapping[str, Any]) -> None:
    """Refuses what is of no type that the argument takes."""
    named, either = "a name", "a name or a callable"
    expected: list[tuple[str, str, Callable[[Any], bool]]] = [
        ("start", "a Fit", lambda v: v is None or isinstance(v, Fit)),
        ("optimizer", either, lambda v: isinstance(v, str) or callable(v)),
        ("schedule", either, lambda v: isinstance(v, str) or callable(v)),
        ("precision", named, lambda v: isinstance(v, str)),
        ("path", named, lambda v: isinstance(v, str)),
        ("gate_estimator", "a callable or None", lambda v: v is None or callable(v)),
        ("gating", "Gating(...) or None", lambda v: v is None or isinstance(v, Gating)),
        ("stop", "a callable of the FitState, or None", lambda v: v is None or callable(v)),
        ("checkpoint", "a folder or None", lambda v: v is None or isinstance(v, (str, PathLike))),
    ]
    flags = ("sticking_the_landing", "local_reparameterisation", "channels_last", "progress")
    expected += [(name, "True or False", _is_flag) for name in flags]
    expected += [
        ("compiled", "True, False or None", lambda v: v is None or _is_flag(v)),
        ("standardise", "True, False, 'noise' or None", lambda v: v is None or _is_flag(v) or _is_noise(v)),
    ]
    for name, what, fits in expected:
        value = options[name]
        if not fits(value):
            raise ValueError(f"{name}= takes {what}, not {_shown(value)}")


def _is_noise(value: Any) -> bool:
    return isinstance(value, str) and value == ONLY_NOISE


def _is_flag(value: Any) -> bool:
    try:
        return value in (True, False)
    except (TypeError, ValueError, RuntimeError):  # arrays and tensors of several values
        return False


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, (str, int, float)) else f"an object of type {type(value).__name__}"


def _check_gates(model: BayesianNetwork, options: Mapping[str, Any]) -> None:
    if model.gates is None:
        if options["gating"] is not None or options["unit_gate_estimator"] is not None:
            raise ValueError("gating= is for gates of units, but the model has none: declare gates=UnitGates(...)")
        return
    if options["path"] == "fused":
        raise ValueError("path='fused' is not available with gates of units, whose network changes: use path='plain'")
    if model.plan is not None and options["restarts"] > 1:
        raise ValueError("units have been removed from this model: fit the model as it was declared")
    if options["start"] is not None:
        raise ValueError("start= is not for gates of units, which have left it closed: begin at the network's weights")
    if options["particles"] > 1:
        raise ValueError("particles= is not for gates of units: draw them more often by their estimator, or take 1")
