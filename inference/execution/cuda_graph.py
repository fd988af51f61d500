"""CUDA-graph capture of a step whose tensors stay where they are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from bayesprune.models.checks.first_line import first_line

_WARM_UP = 3
"""Runs before the capture, in which libraries choose their algorithms and compilers compile."""


def capture(
    step: Callable[[Tensor, Tensor], Any], changed: Sequence[Tensor]
) -> Callable[[Tensor, Tensor, Sequence[Tensor]], Any]:
    """Returns a function of a batch that replays the step as one CUDA graph, captured in its first call.

    Args:
        step: A function of a batch; every other tensor that it reads or changes keeps its address.
        changed: The tensors that it changes in place; they are put back after the runs that warm it up.

    Returns:
        ``run(x, y, ())``, which returns what the step returns, in tensors of their own: a replay writes to the same
        places again. Where the step cannot be captured, it warns and runs the step itself.
    """
    graph = torch.cuda.CUDAGraph()
    held: tuple[Tensor, Tensor] | None = None
    result: Any = None
    captured = True

    def run(x: Tensor, y: Tensor, given: Sequence[Tensor]) -> Any:
        nonlocal held, result, captured
        if held is None:
            held = (x.clone(), y.clone())
            before = [tensor.detach().clone() for tensor in changed]
            try:
                result = _capture(graph, step, held)
            except RuntimeError as problem:
                captured = False
                reason = first_line(problem)
                warnings.warn(
                    f"the step cannot be captured as a CUDA graph ({reason}): it runs uncaptured", stacklevel=2
                )
            for tensor, value in zip(changed, before, strict=True):
                tensor.detach().copy_(value)
        if not captured:
            return step(x, y)
        held[0].copy_(x)
        held[1].copy_(y)
        graph.replay()
        return tree_map_only(Tensor, Tensor.clone, result)

    return run


def _capture(graph: torch.cuda.CUDAGraph, step: Callable[[Tensor, Tensor], Any], held: tuple[Tensor, Tensor]) -> Any:
    """Warms a step up on a stream of its own and captures it; returns its results' places."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            step(*held)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        return step(*held)
