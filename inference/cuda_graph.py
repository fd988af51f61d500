"""CUDA-graph capture of a step whose tensors stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

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
        ``run(x, y, ())``, which returns what the step returns, in tensors that the next call overwrites.
    """
    graph, x_held, y_held, result = torch.cuda.CUDAGraph(), torch.empty(0), torch.empty(0), None

    def run(x: Tensor, y: Tensor, given: Sequence[Tensor]) -> Any:
        nonlocal x_held, y_held, result
        if result is None:
            x_held, y_held = x.clone(), y.clone()
            before = [tensor.detach().clone() for tensor in changed]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    step(x_held, y_held)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                result = step(x_held, y_held)
            for tensor, value in zip(changed, before, strict=True):
                tensor.detach().copy_(value)
        else:
            x_held.copy_(x)
            y_held.copy_(y)
        graph.replay()
        return result

    return run
