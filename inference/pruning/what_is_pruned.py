"""What `prune` is given where it is no fit: what that is, and how to get a fit from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.objective import Objective
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.units.compact import CompactResult

__all__ = ["refuse_what_is_no_fit"]


def refuse_what_is_no_fit(given: Any) -> None:
    """Refuses what is neither a fit nor a path.

    Args:
        given: What is to be pruned.

    Raises:
        ValueError: With how to get a fit from it.
    """
    kind = type(given).__name__
    if isinstance(given, Objective):
        what = "an objective: train it, make a fit of it with bp.Fit.of(objective), and prune that"
    elif isinstance(given, Guide):
        what = "a guide: make a fit with bp.Fit.of(objective) of the objective that it was trained by, and prune that"
    elif isinstance(given, BayesianNetwork):
        what = "a model that has not been fitted: fit = bp.fit(bnn, (x, y)), then prune(fit, ...)"
    elif isinstance(given, CompactResult):
        what = f"a {kind}, which is pruned already: use its .network, or prune the fit that it comes from"
    elif isinstance(given, nn.Module):
        what = (
            f"a network ({kind}), which has no posterior: fit priors on it, bp.fit(bp.BayesianNetwork(network, priors, "
            "data_size=n), (x, y)), or, for one that is trained already, make a fit with bp.laplace_around"
        )
    elif isinstance(given, (str, Path)):
        what = f"a {kind}: load the fit first, prune(bp.Fit.load(path), ...)"
    elif callable(getattr(given, "prune", None)):
        return  # a path, or what behaves like one
    else:
        what = f"{given!r}" if given is None else f"a {kind}"
        what += ": pass what bp.fit(...), bp.Fit.load(path) or bp.sparsity_path(...) returns"
    raise ValueError(f"prune takes a fit, not {what}")
