"""Arguments of a fit, checked before anything is made of them: each wrong one is told in a sentence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bayesprune.inference.data.batches import placed
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.guide import GuideChoice, assign_families
from bayesprune.inference.training.fit_options import FitOptions
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.shown_values import shown

__all__ = [
    "check_together",
    "checked_pair",
    "resolve_device",
]


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


def check_together(model: Any, guide: GuideChoice, start: Any, stop: Any, options: FitOptions) -> None:
    """Refuses what does not go together with a model, or is of a wrong type.

    Args:
        model: The model.
        guide: The guide.
        start: The earlier fit of a warm start, or None.
        stop: The rule that ends a restart, or None.
        options: The options, which have checked themselves.

    Raises:
        ValueError: For the first wrong one.
    """
    if not isinstance(model, BayesianNetwork):
        raise ValueError(
            f"fit takes a BayesianNetwork, not {type(model).__name__}: declare BayesianNetwork(network, priors, ...)"
        )
    if start is not None and not isinstance(start, Fit):
        raise ValueError(f"start= takes a Fit, not {shown(start)}")
    if stop is not None and not callable(stop):
        raise ValueError(f"stop= takes a callable of the FitState, or None, not {shown(stop)}")
    assign_families(model, guide)
    if start is not None and len(start.restarts) < options.restarts:
        raise ValueError(
            f"start= has {len(start.restarts)} restarts, but {options.restarts} are asked for, each of which begins at "
            "one: ask for as many at most"
        )
