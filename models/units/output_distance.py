"""Outputs of a network and of its compact form: how far they are apart, judged by how much they vary themselves."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from bayesprune.models.checks.first_line import first_line

__all__ = ["Apart", "Runner", "compact_outputs", "compare", "output_tensors", "sds_of_batches", "sds_of_rows"]

_ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest difference of outputs, relative to their standard deviation, that rounding can explain; 0.1 below float32."""
_OF_LARGEST = 1e-4
"""Where outputs hardly vary, this share of the largest one stands in for their standard deviation."""
_OF_NOISE = 32
"""A difference of so many times what rounding does to the network itself is rounding too, as long as it is small."""
_SMALL = 0.05
"""Largest difference, relative to the standard deviation, that may pass for such rounding."""
_UNCLEAR = 4
"""A larger one is no proof of anything up to so many times what rounding does: nothing can be said of that output."""

Runner = Callable[[nn.Module], list[list[Tensor]]]


@dataclass(frozen=True)
class Apart:
    """How far outputs are apart.

    Attributes:
        difference: The largest difference.
        relative: The largest one relative to the standard deviation of its output.
        unclear: Why nothing can be said of an output, by its name.
        nothing: Whether nothing can be said of any.
    """

    difference: float
    relative: float
    unclear: dict[str, str]
    nothing: bool


def compact_outputs(run: Runner, made: nn.Module) -> list[list[Tensor]]:
    """What the compact network gives, by batch.

    Args:
        run: Runs a network on batches.
        made: The compact network.

    Raises:
        ValueError: If it does not run.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a GraphModule prints where it fails
            return run(made)
    except Exception as problem:  # sizes that do not fit show themselves anyhow
        reason = first_line(problem)
        raise ValueError(
            f"the compact network would not run ({reason}), so nothing was removed: the forward uses numbers of "
            "channels in a way that tracing cannot follow"
        ) from problem


def output_tensors(outputs: Any) -> list[Tensor]:
    """All tensors among nested outputs, on the CPU; complex ones as pairs of real numbers."""
    found = [part.detach() for part in tree_flatten(outputs)[0] if torch.is_tensor(part)]
    return [(torch.view_as_real(part) if part.is_complex() else part).cpu() for part in found]


def compare(
    before: list[list[Tensor]],
    after: list[list[Tensor]],
    sds: list[float],
    dtype: torch.dtype,
    noise: Callable[[], list[float]],
    where: str = "",
) -> Apart:
    """How far outputs are apart, each judged by its own number format and its own standard deviation.

    Args:
        before: Outputs of the original, by batch.
        after: Those of the compact network.
        sds: Their standard deviations, by output.
        dtype: The number format whose rounding is allowed for.
        noise: Gives what rounding does to each output of the original; it takes a while, and is asked in case of need.
        where: What the inputs are, in words.

    Raises:
        ValueError: If they differ by more than rounding, are of other shapes, or none is finite.
    """
    difference, relative, comparable, said = 0.0, 0.0, False, False
    unclear: dict[str, str] = {}
    noises: list[float] = []
    pairs = list(zip(zip(*before, strict=True), zip(*after, strict=True), strict=True))
    for place, (ones, others) in enumerate(pairs):
        name = f", output {place + 1}" if len(pairs) > 1 else ""
        apart, beyond, largest, finite = _apart(ones, others)
        difference, comparable = max(difference, apart), comparable or finite
        scale = max(sds[place], _OF_LARGEST * largest)
        format_ = min([dtype, *(one.dtype for one in ones if one.is_floating_point())], key=_bits)
        if beyond > _ROUNDING.get(format_, 0.1) * scale:
            noises = noises or noise()
            if not beyond <= min(_OF_NOISE * noises[place], _SMALL * scale):
                if not beyond <= _UNCLEAR * noises[place]:
                    at = f"{name}, {where}" if where else name
                    raise ValueError(
                        f"the compact network's outputs would differ by {apart:.2g} (their sd is {sds[place]:.2g}{at}),"
                        " so nothing was removed: the forward uses numbers of channels or random numbers in a way "
                        "that tracing cannot follow"
                    )
                unclear[name] = f"rounding inside alone moves outputs by {noises[place]:.2g}, their sd is {scale:.2g}"
                continue
        said = said or finite
        relative = max(relative, apart / scale if scale else 0.0)
    if not comparable:
        raise ValueError(
            "the network's outputs are not finite on random inputs of mean 0 and sd 1 nor on the example, so that "
            "nothing can be compared: pass a real input as the example"
        )
    return Apart(difference, relative, unclear, not said)


def _apart(ones: Sequence[Tensor], others: Sequence[Tensor]) -> tuple[float, float, float, bool]:
    """Largest difference of one output over batches, that beyond its last digit, its largest number, any being finite.

    The last digit is that of the number format that the output itself has: what is not written cannot be compared.
    """
    difference, beyond, largest, comparable = 0.0, 0.0, 0.0, False
    for one, other in zip(ones, others, strict=True):
        if one.shape != other.shape:
            raise ValueError(
                f"the compact network's outputs would be of shape {tuple(other.shape)}, not {tuple(one.shape)}, so "
                "nothing was removed: the forward uses numbers of channels in a way that tracing cannot follow"
            )
        digit = torch.finfo(one.dtype).eps if one.is_floating_point() else 0.0
        one, other = one.double(), other.double()
        alike = (one == other) | (one.isnan() & other.isnan())
        apart = torch.where(alike, 0.0, (one - other).abs()).nan_to_num(math.inf, math.inf)
        finite = one[one.isfinite()].abs()
        if apart.numel():
            difference = max(difference, float(apart.max()))
            beyond = max(beyond, float((apart - digit * one.abs().nan_to_num(0.0, 0.0)).max()))
        if finite.numel():
            largest, comparable = max(largest, float(finite.max())), True
    return difference, beyond, largest, comparable


def _bits(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits


def sds_of_batches(outputs: list[list[Tensor]]) -> list[float]:
    """Standard deviation of each output over inputs; the last batch is the example and does not count."""
    sds = []
    for place in range(len(outputs[0])):
        parts = [batch[place] for batch in outputs[:-1]] or [outputs[-1][place]]
        stacked = torch.stack(parts).double()
        rows = stacked.flatten(0, 1) if stacked.ndim > 1 else stacked
        sds.append(_mean_spread(rows))
    return sds


def sds_of_rows(outputs: list[list[Tensor]]) -> list[float]:
    """Standard deviation of each output over the rows of batches of all sizes."""
    sds = []
    for parts in zip(*outputs, strict=True):
        rows = [part.unsqueeze(0) if not part.ndim else part for part in parts]
        shape = rows[-1].shape[1:]
        sds.append(_mean_spread(torch.cat([part.double() for part in rows if part.shape[1:] == shape])))
    return sds


def _mean_spread(rows: Tensor) -> float:
    spread = rows.std(dim=0, correction=0)
    return float(spread[spread.isfinite()].mean()) if bool(spread.isfinite().any()) else 0.0
