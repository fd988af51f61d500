"""Denormal numbers count as zero while a fit runs: processors compute with them many times slower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Lets numbers below 1.2e-38 (float32) be zero inside, on this thread of the CPU, and puts the setting back.

    A weight that a prior presses to zero, and its moments in Adam, get there by way of such numbers: six epochs of VIB
    on LeNet-300-100 took 3.3 times as long with them (`python -m benchmarks.denormals`).
    """
    before = _flushes()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _flushes() -> bool:
    """Whether denormal numbers are zero now; PyTorch sets it but does not tell."""
    return bool(torch.tensor(1e-310, dtype=torch.float64) * 1.0 == 0.0)
