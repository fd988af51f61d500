"""What ends a fit of many processes when one of them has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["LostProcessError", "talking"]


class LostProcessError(RuntimeError):
    """Another process of the fit has ended, or cannot be reached any more."""


@contextmanager
def talking() -> Iterator[None]:
    """Where processes exchange tensors.

    Raises:
        LostProcessError: If the exchange fails.
    """
    try:
        yield
    except RuntimeError as problem:  # torch's errors of gloo and NCCL are
        reason = " ".join(str(problem).split())[:200]
        raise LostProcessError(f"a process of the fit has ended, or cannot be reached any more ({reason})") from problem
