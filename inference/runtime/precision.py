"""Number formats of a fit by its precision."""

from __future__ import annotations

import torch

__all__ = ["PRECISIONS"]

PRECISIONS: dict[str, tuple[torch.dtype, torch.dtype | None]] = {
    "float32": (torch.float32, None),
    "float64": (torch.float64, None),
    "bfloat16": (torch.float32, torch.bfloat16),
}
"""dtype of parameters and of data, and that in which the network runs; None: the same."""
