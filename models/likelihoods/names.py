"""Names of the likelihoods and their homes: the one list, which the command line's help reads without PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["LIKELIHOODS", "likelihood_class", "likelihood_names"]

LIKELIHOODS: dict[str, str] = {
    "categorical": "bayesprune.models.likelihoods.labels:Categorical",
    "normal": "bayesprune.models.likelihoods.normal:Normal",
    "student-t": "bayesprune.models.likelihoods.real_likelihoods:StudentT",
    "heteroscedastic-normal": "bayesprune.models.likelihoods.real_likelihoods:HeteroscedasticNormal",
    "bernoulli": "bayesprune.models.likelihoods.labels:Bernoulli",
    "poisson": "bayesprune.models.likelihoods.counts:Poisson",
}
"""Module and class of each likelihood by its name."""


def likelihood_class(name: Any) -> type[Any]:
    """The class of that name, a `Likelihood`.

    Raises:
        ValueError: If there is none.
    """
    if not isinstance(name, str) or name not in LIKELIHOODS:
        raise ValueError(f"unknown likelihood {name!r}: expected one of {', '.join(LIKELIHOODS)}")
    module, _, kind = LIKELIHOODS[name].partition(":")
    found: type[Any] = getattr(import_module(module), kind)
    return found


def likelihood_names() -> str:
    """The names in words, for help texts."""
    *most, last = LIKELIHOODS
    return f"{', '.join(most)} or {last}"
