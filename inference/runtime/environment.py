"""Which of several processes this one is, by the environment that torchrun or Slurm gives it."""

from __future__ import annotations

import os

__all__ = ["processes_here", "processes_on_this_node"]

_LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE"),
)
"""Of torchrun; of srun, in whose steps alone these stand: a batch script is one process, whatever it has asked for."""


def processes_here() -> tuple[int, int]:
    """Number of this process, from 0, and how many there are; (0, 1) where nothing says that there are more."""
    for rank, world, _ in _LAUNCHERS:
        try:
            return int(os.environ[rank]), int(os.environ[world])
        except (KeyError, ValueError):
            continue
    return 0, 1


def processes_on_this_node() -> int:
    """How many of them run on this machine; as many as there are where nothing says otherwise."""
    _, world = processes_here()
    for _, _, local in _LAUNCHERS:
        told = os.environ.get(local, "").partition("(")[0].partition(",")[0]  # of Slurm "4(x2)"
        if told.isdigit():
            return int(told)
    return world
