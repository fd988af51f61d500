"""The check of a compact network: it has to give the outputs of the original one, whatever tracing believed."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.models.units.cutting import cut_units, fold
from bayesprune.models.units.dead_units import LiveUnits
from bayesprune.models.units.output_distance import Runner, compact_outputs, compare, output_tensors, sds_of_batches
from bayesprune.models.units.rounding_noise import rounding_noise
from bayesprune.models.units.wider_check import WiderCheck

__all__ = ["Comparison", "check", "relative_difference"]

_BATCHES = 4


@dataclass(frozen=True)
class Comparison:
    """What was compared, and how far apart it was.

    Attributes:
        difference: Largest difference of outputs, on random inputs of sd 1 of the example's shape and on the example.
        sd: Standard deviation of outputs over these inputs, the mean over outputs.
        relative: Largest difference over all inputs, those of other sizes and scales included, each relative to the
            standard deviation of its own output there.
        compared: Inputs of other sizes and scales at which the networks were compared too, by name.
        not_compared: Those at which they were not, or outputs of them, and why.
    """

    difference: float
    sd: float
    relative: float
    compared: tuple[str, ...]
    not_compared: dict[str, str]


def check(
    network: nn.Module,
    made: nn.Module,
    found: LiveUnits,
    example_input: Any,
    seed: int = 0,
    whole: nn.Module | None = None,
) -> Comparison:
    """Compares a compact network with the one it was made of: the modules themselves, not their graphs.

    First on random inputs of the example's shape and on the example. Both are run in float64 if they can be. Constants
    in biases are rounded to the network's own number format; so that nothing else hides behind that rounding, a network
    in float64 is cut the same way and compared too. Then on `wider_inputs`, as far as the original takes them.

    Args:
        network: The original network.
        made: The compact network.
        found: Which units stay.
        example_input: An input, or a tuple of inputs.
        seed: Of the random inputs.
        whole: The network whose units were cut, where that is not the original: one without its dead branches.

    Returns:
        What was compared.

    Raises:
        ValueError: If they differ by more than rounding, or cannot be compared.
    """
    run, exact, before = _runner(network, example_input, seed)
    sds = sds_of_batches(before)
    own = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float64)

    def noise() -> list[float]:
        return rounding_noise(run, copy.deepcopy(network).double() if exact else network)

    other, found_apart = made, []
    if exact and own is not torch.float64:
        double = copy.deepcopy(whole or network).double().eval()
        other = cut_units(double, found, fold(double, found))
        found_apart.append(compare(before, compact_outputs(run, other), sds, torch.float64, noise))
    found_apart.append(compare(before, compact_outputs(run, made), sds, own, noise))
    for apart in found_apart:
        if apart.nothing:
            raise ValueError(
                f"the networks cannot be compared ({next(iter(apart.unclear.values()))}), so nothing was removed: pass "
                "a real input as the example, or let the forward work in a longer number format"
            )
    example = example_input if isinstance(example_input, (tuple, list)) else (example_input,)
    wider = WiderCheck(network, other, exact, example, before[-1], seed)
    compared, left = wider.compared()
    unclear = {f"sd 1 or the example{name}": reason for apart in found_apart for name, reason in apart.unclear.items()}
    return Comparison(
        found_apart[-1].difference,
        sum(sds) / len(sds),
        max(wider.relative, *(apart.relative for apart in found_apart)),
        compared,
        {**unclear, **left},
    )


def relative_difference(network: nn.Module, made: nn.Module, example_input: Any, seed: int = 0) -> float:
    """Largest difference of two networks' outputs, relative to the standard deviation of the output.

    On random inputs of sd 1 of the example's shape and on the example, in float64 if both can be run in it.

    Args:
        network: A network.
        made: Another, of outputs of the same shape.
        example_input: An input, or a tuple of inputs.
        seed: Of the random inputs.
    """
    run, _, before = _runner(network, example_input, seed)
    after, found = compact_outputs(run, made), 0.0
    outputs = zip(zip(*before, strict=True), zip(*after, strict=True), sds_of_batches(before), strict=True)
    for ones, others, sd in outputs:
        apart = max(float((one.double() - other.double()).abs().max()) for one, other in zip(ones, others, strict=True))
        found = max(found, apart / sd if sd else (math.inf if apart else 0.0))
    return found


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
                return [output_tensors(each(*batch)) for batch in inputs]

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
