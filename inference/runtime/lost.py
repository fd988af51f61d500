"""What ends a fit of many processes when one of them has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["LostProcessError", "NoRendezvousError", "talking"]


class LostProcessError(RuntimeError):
    """Another process of the fit has ended, or cannot be reached any more."""


class NoRendezvousError(ValueError):
    """The processes of the fit have not found each other."""


@contextmanager
def talking() -> Iterator[None]:
    """Where processes exchange tensors.

    Raises:
        LostProcessError: If the exchange fails.
    """
    try:
        yield
    except RuntimeError as problem:  # torch's errors of gloo and NCCL are; they say it in terms of sockets
        raise LostProcessError("a process of the fit has ended, or cannot be reached any more") from problem
