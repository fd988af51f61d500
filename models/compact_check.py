"""The check of a compact network: it has to give the outputs of the original one, whatever tracing believed."""

from __future__ import annotations

import contextlib
import copy
import io
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from bayesprune.models.cutting import cut_units, fold
from bayesprune.models.dead_units import LiveUnits

__all__ = ["check"]

_BATCHES = 4
_ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest difference of outputs, relative to their standard deviation, that rounding can explain; 0.1 below float32."""
_OF_LARGEST = 1e-4
"""Where outputs hardly vary, this share of the largest one stands in for their standard deviation."""

Runner = Callable[[nn.Module], list[list[Tensor]]]


def check(
    network: nn.Module,
    made: nn.Module,
    found: LiveUnits,
    example_input: Any,
    seed: int = 0,
    whole: nn.Module | None = None,
) -> tuple[float, float]:
    """Compares a compact network with the one it was made of, on random inputs and on the example.

    Both are run in float64 if they can be. Constants in biases are rounded to the network's own number format; so that
    nothing else hides behind that rounding, a network in float64 is cut the same way and compared too.

    Args:
        network: The original network.
        made: The compact network.
        found: Which units stay.
        example_input: An input, or a tuple of inputs.
        seed: Of the random inputs.
        whole: The network whose units were cut, where that is not the original: one without its dead branches.

    Returns:
        Largest difference of outputs, and their standard deviation over random inputs (the mean over outputs).

    Raises:
        ValueError: If they differ by more than rounding, or cannot be compared.
    """
    run, exact, before = _runner(network, example_input, seed)
    sd = _sd(before)
    own = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float64)
    if exact and own is not torch.float64:
        double = copy.deepcopy(whole or network).double().eval()
        _compare(before, _outputs(run, cut_units(double, found, fold(double, found))), sd, torch.float64)
    return _compare(before, _outputs(run, made), sd, own), sd


def _runner(network: nn.Module, example_input: Any, seed: int) -> tuple[Runner, bool, list[list[Tensor]]]:
    """The way to run both networks, whether that is in float64, and what the original gives.

    A forward that casts to float32 cannot run in float64, and one that takes indices may not take them in another
    order: what does not work is left out.
    """
    for double, random in ((True, True), (True, False), (False, True), (False, False)):

        def run(each: nn.Module, double: bool = double, random: bool = random) -> list[list[Tensor]]:
            each = copy.deepcopy(each).eval()
            each = each.double() if double else each
            inputs = _inputs(example_input, each, random, seed)
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(seed)  # dropout is off, but forward may ask for random numbers
                return [_tensors(each(*batch)) for batch in inputs]

        try:
            before = run(network)
        except Exception:  # the last way is that of the trace, which has worked
            if not double and not random:
                raise
            continue
        break
    if not before[0]:
        raise ValueError("the network gives no tensors, so that its outputs cannot be compared with those of another")
    return run, double, before


def _outputs(run: Runner, made: nn.Module) -> list[list[Tensor]]:
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a GraphModule prints where it fails
            return run(made)
    except Exception as problem:  # sizes that do not fit show themselves anyhow
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ValueError(
            f"the compact network would not run ({reason}), so nothing was removed: the forward uses numbers of "
            "channels in a way that tracing cannot follow"
        ) from problem


def _compare(before: list[list[Tensor]], after: list[list[Tensor]], sd: float, dtype: torch.dtype) -> float:
    """Largest difference of outputs; `dtype` is the number format whose rounding is allowed for."""
    difference, largest, comparable = 0.0, 0.0, False
    for ones, others in zip(before, after, strict=True):
        for one, other in zip(ones, others, strict=True):
            if one.shape != other.shape:
                raise ValueError(
                    f"the compact network's outputs would be of shape {tuple(other.shape)}, not {tuple(one.shape)}, so "
                    "nothing was removed: the forward uses numbers of channels in a way that tracing cannot follow"
                )
            if one.is_floating_point() and one.dtype is not torch.float64:  # the forward casts to it
                dtype = min(dtype, one.dtype, key=lambda each: torch.finfo(each).bits)
            one, other = one.double(), other.double()
            alike = (one == other) | (one.isnan() & other.isnan())
            apart = torch.where(alike, 0.0, (one - other).abs())
            finite = one[one.isfinite()].abs()
            difference = max(difference, float(apart.nan_to_num(math.inf, math.inf).max()) if apart.numel() else 0.0)
            largest = max(largest, float(finite.max()) if finite.numel() else 0.0)
            comparable = comparable or bool(finite.numel())
    if not comparable:
        raise ValueError(
            "the network's outputs are not finite on random inputs of mean 0 and sd 1 nor on the example, so that "
            "nothing can be compared: pass a real input as the example"
        )
    if difference > _ROUNDING.get(dtype, 0.1) * max(sd, _OF_LARGEST * largest):
        raise ValueError(
            f"the compact network's outputs would differ by {difference:.2g} (their sd is {sd:.2g}), so nothing was "
            "removed: the forward uses numbers of channels or random numbers in a way that tracing cannot follow"
        )
    return difference


def _sd(outputs: list[list[Tensor]]) -> float:
    """Standard deviation over inputs, the mean over outputs; the last batch is the example and does not count."""
    sds = []
    for place in range(len(outputs[0])):
        parts = [batch[place] for batch in outputs[:-1]] or [outputs[-1][place]]
        stacked = torch.stack(parts).double()
        rows = stacked.flatten(0, 1) if stacked.ndim > 1 else stacked
        spread = rows.std(dim=0, correction=0)
        sds.append(float(spread[spread.isfinite()].mean()) if bool(spread.isfinite().any()) else 0.0)
    return sum(sds) / len(sds)


def _inputs(example_input: Any, network: nn.Module, random: bool, seed: int) -> list[list[Any]]:
    """Batches of the example's shape: Normal numbers, integers of the example in another order; last, the example."""
    example = example_input if isinstance(example_input, (tuple, list)) else (example_input,)
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(seed)

    def another(part: Any) -> Any:
        if not torch.is_tensor(part):
            return part
        if part.is_floating_point():
            return torch.randn(part.shape, generator=generator, dtype=torch.float64)
        order = torch.randperm(part.numel(), generator=generator)
        return part.detach().cpu().flatten()[order].view(part.shape)

    def placed(part: Any) -> Any:
        if not torch.is_tensor(part):
            return part
        return part.detach().to(like.device, like.dtype if part.is_floating_point() else part.dtype, copy=True)

    batches = [[another(part) for part in example] for _ in range(_BATCHES)] if random else []
    return [[placed(part) for part in batch] for batch in [*batches, example]]


def _tensors(outputs: Any) -> list[Tensor]:
    found = [part.detach() for part in tree_flatten(outputs)[0] if torch.is_tensor(part)]
    return [(torch.view_as_real(part) if part.is_complex() else part).cpu() for part in found]
