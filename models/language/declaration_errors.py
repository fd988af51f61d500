"""What can be wrong with a declaration of the prior language, by what may be tried next."""

from __future__ import annotations

__all__ = ["DeclarationError", "NotEvaluatedError", "WrongShapeError"]


class DeclarationError(ValueError):
    """What is wrong with a declaration, in a sentence for who wrote it."""


class WrongShapeError(DeclarationError):
    """A declaration that does not fit a tensor of this shape, but perhaps one of another."""


class NotEvaluatedError(WrongShapeError):
    """A declaration whose code fails on a tensor of this shape."""
