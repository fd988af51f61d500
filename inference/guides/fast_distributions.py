"""Distributions without the checks of their arguments, for as long as a step lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro


@contextmanager
def fast_distributions() -> Iterator[None]:
    """Turns off the checks of distributions' arguments for a step: they cost as much as the step itself."""
    with pyro.validation_enabled(False):
        yield
