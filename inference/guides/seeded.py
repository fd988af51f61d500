"""Random numbers of draws: the same each time they are asked for, and the global random state is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from bayesprune.models.checks.given_numbers import checked_seed

__all__ = ["seeded"]

_APART, _FAR_APART = 1_000_003, 4_294_967_291
"""Primes between the seeds of streams, and between those of the seeds that users give."""


@contextmanager
def seeded(guide: nn.Module, restart_seed: int, seed: int | None = None, stream: int = 0) -> Iterator[None]:
    """Sets torch's random state while draws are taken.

    Args:
        guide: What is drawn from; says on which device.
        restart_seed: Seed of the restart.
        seed: The user's, from 0 up; default None: that of the restart alone.
        stream: Number of the stream of random numbers; default 0.

    Raises:
        ValueError: If the seed is no integer from 0 up.
    """
    device = next(guide.parameters()).device
    own = restart_seed + (1 + stream) * _APART
    if seed is not None:
        own = (own + (1 + checked_seed(seed, least=0)) * _FAR_APART) % 2**63
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(own)
        yield
