"""What an optimizer remembers, as a checkpoint keeps it: by position, so that names of parameters do not matter."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["optimizer_state", "restore_optimizer"]


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """State of each parameter by position, and the numbers of the groups but for their rates, which the fit sets."""
    found = optimizer.state_dict()
    states = found["state"]
    return {
        "groups": [
            {key: value for key, value in group.items() if isinstance(value, (int, float)) and key != "lr"}
            for group in found["param_groups"]
        ],
        "states": [states.get(number) for group in found["param_groups"] for number in group["params"]],
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, kept: dict[str, Any]) -> None:
    """Puts back what `optimizer_state` gave, IN PLACE."""
    fresh = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict(
        {
            "param_groups": [own | numbers for own, numbers in zip(fresh, kept["groups"], strict=True)],
            "state": {number: state for number, state in enumerate(kept["states"]) if state is not None},
        }
    )
    for parameter, state in optimizer.state.items():
        for key, value in state.items():  # a fused optimizer reads memory in order: the layouts have to be the same
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)
