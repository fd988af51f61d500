"""What is asked of a declaration when it is bound to a tensor: univariate distributions, shapes, supports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro

from bayesprune.models.checks.first_line import first_line
from bayesprune.models.language.declaration_errors import DeclarationError, NotEvaluatedError, WrongShapeError
from bayesprune.models.language.levels import broadcasts_to

__all__ = ["check_distribution", "declaration_run_on", "validated"]


def check_distribution(latent: str, fn: Any, shape: tuple[int, ...], tensor: str) -> None:
    """Refuses a distribution that is not one number for each entry of its latent.

    Args:
        latent: Name of the latent.
        fn: Its distribution.
        shape: Shape of its entries.
        tensor: Name of the parameter tensor.

    Raises:
        DeclarationError: If it is multivariate.
        WrongShapeError: If it does not broadcast to the entries.
    """
    if fn.event_shape:
        raise DeclarationError(
            f"{latent} must be univariate, but {type(fn).__name__} has event {tuple(fn.event_shape)}"
        )
    if not broadcasts_to(fn.batch_shape, shape):
        raise WrongShapeError(
            f"{latent} has entries of shape {shape} on {tensor}, but its distribution has shape "
            f"{tuple(fn.batch_shape)}, which does not broadcast to it: give {latent} the level of its finest parent"
        )


@contextmanager
def declaration_run_on(tensor: str, shape: tuple[int, ...]) -> Iterator[None]:
    """Says of what fails in a declaration's own code that it was written for tensors of another shape.

    Raises:
        NotEvaluatedError: In place of whatever it raised that does not say itself what is wrong.
    """
    try:
        yield
    except Exception as problem:  # a declaration is the user's code, which may be written for another shape
        if isinstance(problem, ValueError) and "to unpack" not in str(problem):
            raise  # it says itself what is wrong
        raise NotEvaluatedError(
            f"the hierarchy cannot be evaluated on {tensor} of shape {shape} "
            f"({type(problem).__name__}: {first_line(problem)}): write it for tensors of this many dimensions, or "
            "narrow the pattern to those that it is written for"
        ) from problem


@contextmanager
def validated() -> Iterator[None]:
    """Turns parameter checks on and says what failed without the tensor that torch prints.

    Raises:
        DeclarationError: If a parameter of a distribution falls outside its support.
    """
    with pyro.validation_enabled(True):
        try:
            yield
        except ValueError as problem:
            text = first_line(problem)
            if "to satisfy the constraint" not in text:
                raise
            text = text.replace("but found invalid values:", "").strip().rstrip(",")
            raise DeclarationError(
                f"wrong support in the hierarchy: {text}; use a parent whose values satisfy it "
                "(a positive latent for a scale), or transform it"
            ) from problem
