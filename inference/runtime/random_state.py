"""Where torch's generators stand that a fit draws from: that of the CPU, and that of its GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["random_state", "set_random_state"]


def random_state(device: torch.device) -> list[Tensor]:
    """The state of the CPU's generator and, on a GPU, of the device's.

    Args:
        device: Where the fit runs.
    """
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def set_random_state(states: Sequence[Tensor], device: torch.device) -> None:
    """Puts the generators where they stood.

    Args:
        states: What `random_state` gave; of a fit on a CPU there is none for a GPU, which then stays as it is.
        device: Where the fit runs.
    """
    cpu, *gpu = states
    torch.set_rng_state(cpu)
    if gpu:
        torch.cuda.set_rng_state(gpu[0], device)
