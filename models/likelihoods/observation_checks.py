"""What the likelihoods ask of outputs and observations, and how they read outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["check_finite", "check_one_output", "check_real", "check_shape", "rmse", "wide", "without_single_column"]


def wide(outputs: Tensor) -> Tensor:
    """Outputs in at least float32: under autocast they come in 16 bits, too few for log probabilities."""
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs


def without_single_column(outputs: Tensor) -> Tensor:
    """Outputs `(N, 1)` as `(N,)`, others unchanged."""
    return outputs.squeeze(-1) if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs


def check_shape(likelihood: nn.Module, outputs: Tensor, y: Tensor, expected: torch.Size) -> None:
    """Refuses observations of another shape; (N, 1) would broadcast against (N,) to N x N without a word."""
    if y.shape == expected and len(y) > 0:
        return
    if len(expected) and expected[0] == 0:
        raise ValueError(f"{type(likelihood).__name__} got no examples: pass at least one")
    remedy = "pass one target per example"
    if y.ndim == len(expected) + 1 and y.shape[-1] == 1:
        remedy = "pass y.squeeze(-1)"
    elif len(expected) == 2:
        remedy = f"pass {expected[1]} targets per example, or change the last layer"
    raise ValueError(
        f"{type(likelihood).__name__} got targets of shape {tuple(y.shape)} for outputs of shape "
        f"{tuple(outputs.shape)}, but {tuple(expected)} is expected: {remedy}"
    )


def check_one_output(likelihood: nn.Module, outputs: Tensor, y: Tensor) -> None:
    """Refuses networks with more than one output per example, and targets that are not `(N,)`."""
    if without_single_column(outputs).ndim != 1:
        raise ValueError(
            f"the network returns shape {tuple(outputs.shape)}, but {type(likelihood).__name__} needs (N,) "
            "or (N, 1): let the last layer have one output"
        )
    check_shape(likelihood, outputs, y, expected=outputs.shape[:1])


def check_real(likelihood: nn.Module, y: Tensor) -> None:
    """Refuses targets that are no finite real numbers."""
    if y.dtype == torch.bool or y.is_complex():
        raise ValueError(
            f"targets have dtype {y.dtype}, but {type(likelihood).__name__} needs real numbers: pass y.float()"
        )
    check_finite(y)


def check_finite(y: Tensor) -> None:
    """Refuses NaN and infinity."""
    wrong = ~torch.isfinite(y)
    if bool(wrong.any()):
        raise ValueError(
            f"{int(wrong.sum())} targets are NaN or infinite, the first at index "
            f"{wrong.nonzero()[0].tolist()}: remove or fill them"
        )


def rmse(likelihood: nn.Module, mean_prediction: Tensor, y: Tensor) -> float:
    """Root mean squared error over all numbers; refuses shapes that do not fit."""
    check_shape(likelihood, mean_prediction, y, expected=mean_prediction.shape)
    return float((mean_prediction.detach().double() - y.double()).square().mean().sqrt())
