"""Priors at random parameters, on which a term is checked."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.utils import lazy_property

from bayesprune.models.checks.first_line import first_line
from bayesprune.models.language.latent import is_distribution

__all__ = ["Leaves", "normal_numbers", "prior_parameters", "shapes_in_words"]

Leaves = dict[str, Tensor]
"""Parameters by name."""


def normal_numbers(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)


def prior_parameters(
    prior: Any, levels: Sequence[tuple[int, ...]], latent: bool, generator: torch.Generator
) -> tuple[Callable[[Leaves], Any], Leaves]:
    """What makes the prior of its parameters, and random parameters of the given shapes in turn.

    Raises:
        ValueError: If it cannot be made.
    """
    turn = itertools.cycle(levels)
    scales: Leaves = {}
    if is_distribution(prior):
        for name, value in _parameters(prior).items():
            scales[name] = _moved(prior, name, value.detach().double(), next(turn), generator) if latent else value
        build = _rebuild(type(prior))
    elif callable(prior):
        names = [
            name
            for name, argument in inspect.signature(prior).parameters.items()
            if argument.default is argument.empty
            and argument.kind not in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)
        ]
        scales = {name: (0.4 * normal_numbers(next(turn), generator)).exp() for name in names}
        build = _call(prior)
    else:
        raise ValueError(
            f"check_term(prior=...) takes a distribution or a function of scales that returns one, not {prior!r}"
        )
    scales = {name: value.detach().double().requires_grad_(latent) for name, value in scales.items()}
    try:
        made = build(scales)
    except (TypeError, ValueError, RuntimeError, AttributeError) as problem:
        raise ValueError(
            f"check_term cannot make the prior with {shapes_in_words(scales)} ({first_line(problem)}): "
            "give it a function of positive scales that returns the distribution"
        ) from problem
    if not is_distribution(made):
        raise ValueError(f"check_term(prior=...) must return a distribution, but returned {type(made).__name__}")
    return build, scales


def _parameters(prior: Any) -> Leaves:
    """The parameters that a distribution was made of, by name; of probabilities and log odds one, as it was given."""
    found: Leaves = {}
    for name in prior.arg_constraints:
        derived = isinstance(inspect.getattr_static(type(prior), name, None), lazy_property) and name not in vars(prior)
        if not derived and not (name == "logits" and "probs" in found):
            found[name] = torch.as_tensor(getattr(prior, name))
    return found


def _moved(prior: Any, name: str, value: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A parameter moved at random within its constraint, of the given shape; one that bounds the support stays put."""
    start = value.reshape(-1)[0]
    if isinstance(inspect.getattr_static(type(prior), "support"), constraints.dependent_property):
        return start.expand(shape).clone()
    to_support = biject_to(prior.arg_constraints[name])
    moved: Tensor = to_support(to_support.inv(start) + 0.3 * normal_numbers(shape, generator))
    return moved


def _rebuild(kind: type) -> Callable[[Leaves], Any]:
    return lambda scales: kind(**scales)


def _call(make: Callable[..., Any]) -> Callable[[Leaves], Any]:
    return lambda scales: make(**scales)


def shapes_in_words(scales: Leaves) -> str:
    """The parameters of a prior with their shapes, for a message."""
    said = ", ".join(f"{name} of shape {tuple(value.shape)}" for name, value in scales.items())
    return f"the prior's {said}" if said else "a prior of no parameters"
