"""Python numbers in a declaration on a device: made there, not copied there while the host waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["numbers_made_on"]


class _Filled(TorchFunctionMode):
    """Lets `torch.tensor` of one Python number fill a tensor where it is wanted."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func is not torch.tensor or device is None or torch.device(device).type == "cpu":
            return func(*args, **kwargs)
        number = args[0] if args else kwargs.get("data")
        if not isinstance(number, (bool, int, float)) or kwargs.get("requires_grad") or kwargs.get("pin_memory"):
            return func(*args, **kwargs)
        dtype = kwargs.get("dtype")
        if dtype is None:
            whole = torch.bool if isinstance(number, bool) else torch.int64
            dtype = torch.get_default_dtype() if isinstance(number, float) else whole
        return torch.full((), number, dtype=dtype, device=device)


def numbers_made_on(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, a distribution's Python numbers become tensors of a device without a copy from the host.

    `torch.distributions` makes them by `torch.tensor`, whose copy waits for all that the device has still to do, and
    cannot be captured in a CUDA graph. On the CPU nothing changes.

    Args:
        device: Where the step runs.
    """
    return nullcontext() if device.type == "cpu" else _Filled()
