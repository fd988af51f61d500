"""The check of a compact network: it has to give the outputs of the original one, whatever tracing believed."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from bayesprune.models.checks.first_line import first_line
from bayesprune.models.units.cutting import cut_units, fold
from bayesprune.models.units.dead_units import LiveUnits
from bayesprune.models.units.rounding_noise import rounding_noise
from bayesprune.models.units.wider_inputs import (
    BATCH_SIZES,
    SCALES,
    WiderInput,
    batch_size,
    keeps_batch,
    scales_of,
    wider_inputs,
)

__all__ = ["Comparison", "check"]

_BATCHES = 4
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
class _Apart:
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
    sds = _sds(before)
    own = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float64)

    def noise() -> list[float]:
        return rounding_noise(run, copy.deepcopy(network).double() if exact else network)

    other, found_apart = made, []
    if exact and own is not torch.float64:
        double = copy.deepcopy(whole or network).double().eval()
        other = cut_units(double, found, fold(double, found))
        found_apart.append(_compare(before, _outputs(run, other), sds, torch.float64, noise))
    found_apart.append(_compare(before, _outputs(run, made), sds, own, noise))
    for apart in found_apart:
        if apart.nothing:
            raise ValueError(
                f"the networks cannot be compared ({next(iter(apart.unclear.values()))}), so nothing was removed: pass "
                "a real input as the example, or let the forward work in a longer number format"
            )
    example = example_input if isinstance(example_input, (tuple, list)) else (example_input,)
    wider = _Wider(network, other, exact, example, before[-1], seed)
    compared, left = wider.compared()
    unclear = {f"sd 1 or the example{name}": reason for apart in found_apart for name, reason in apart.unclear.items()}
    return Comparison(
        found_apart[-1].difference,
        sum(sds) / len(sds),
        max(wider.relative, *(apart.relative for apart in found_apart)),
        compared,
        {**unclear, **left},
    )


class _Wider:
    """The comparison of two networks on wider inputs.

    It runs on the CPU: an index that a large input makes too large must not take a device down.

    Attributes:
        relative: Largest difference so far, relative to the standard deviation of its output at that scale.
    """

    def __init__(
        self, network: nn.Module, made: nn.Module, double: bool, example: Any, given: list[Tensor], seed: int
    ) -> None:
        self._fresh = [copy.deepcopy(each).cpu().eval() for each in (network, made)]
        if double:
            self._fresh = [each.double() for each in self._fresh]
        self._running = copy.deepcopy(self._fresh)
        self._dtype = next((p.dtype for p in self._fresh[0].parameters() if p.is_floating_point()), torch.float64)
        self._example, self._given, self._seed = example, given, seed
        self._done: list[str] = []
        self._left: dict[str, str] = {}
        self.relative = 0.0

    def compared(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """Names of the inputs that were compared, and why others were not."""
        self._at(BATCH_SIZES)
        batch = batch_size(self._example)
        if not self._done and batch and batch not in BATCH_SIZES:
            self._at((batch,))
        return tuple(self._done), self._left

    def _at(self, counts: tuple[int, ...]) -> None:
        gone: set[int] = set()
        for scale in scales_of(self._example):
            compared: list[tuple[WiderInput, list[Tensor], list[Tensor]]] = []
            for given in wider_inputs(self._example, counts, scale, self._dtype, self._seed):
                if given.count in gone:
                    continue
                name = given.name
                before, reason = self._original(given)
                if reason and given.grad:  # some code changes in place what gradients need
                    self._left[name] = reason
                    given = given.without_gradients()
                    before, reason = self._original(given)
                if not reason:
                    compared.append((given, before, self._compact(given)))
                elif scale == SCALES[0]:  # it takes no batch of this size, whatever the numbers are
                    gone.add(given.count)
                    self._left.pop(name, None)
                    self._left[f"batch of {given.count}"] = reason
                else:
                    self._left[given.name] = reason
            sds = _spreads([before for _, before, _ in compared])
            for given, before, after in compared:
                apart = _compare([before], [after], sds, self._dtype, partial(self._noise, given), given.name)
                self._left.update({f"{given.name}{name}": reason for name, reason in apart.unclear.items()})
                if not apart.nothing:
                    self.relative = max(self.relative, apart.relative)
                    self._done.append(given.name)

    def _compact(self, given: WiderInput) -> list[Tensor]:
        """What the compact network gives."""
        (found,) = _outputs(lambda each: [self._run(each, given)], self._running[1])
        return found

    def _noise(self, given: WiderInput) -> list[float]:
        """What rounding does to the outputs of the original."""
        return rounding_noise(lambda each: [self._run(copy.deepcopy(each), given)], self._fresh[0])

    def _original(self, given: WiderInput) -> tuple[list[Tensor], str]:
        """What the original gives, or why that is not compared."""
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                found = self._run(self._running[0], given)
        except Exception as problem:  # it does not take this input, which is no fault of the removal
            found, reason = [], first_line(problem)
        else:
            reason = ""
            if not keeps_batch(self._given, batch_size(self._example), found, given.count):
                reason = "its outputs are not as many"
            elif not any(bool(part.isfinite().any()) for part in found):
                reason = "its outputs are not finite"
        if reason:
            self._running = copy.deepcopy(
                self._fresh
            )  # a forward may leave something behind, and the other has not run
        return found, reason

    def _run(self, network: nn.Module, given: WiderInput) -> list[Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of inputs that the user has not given
            return _tensors(given.run(network, self._seed))


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
        reason = first_line(problem)
        raise ValueError(
            f"the compact network would not run ({reason}), so nothing was removed: the forward uses numbers of "
            "channels in a way that tracing cannot follow"
        ) from problem


def _compare(
    before: list[list[Tensor]],
    after: list[list[Tensor]],
    sds: list[float],
    dtype: torch.dtype,
    noise: Callable[[], list[float]],
    where: str = "",
) -> _Apart:
    """How far outputs are apart, each judged by its own number format and its own standard deviation.

    Args:
        before: Outputs of the original, by batch.
        after: Those of the compact network.
        sds: Their standard deviations, by output.
        dtype: The number format whose rounding is allowed for.
        noise: Gives what rounding does to each output of the original; it takes a while, and is asked in case of need.
        where: What the inputs are, in words.
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
    return _Apart(difference, relative, unclear, not said)


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


def _sds(outputs: list[list[Tensor]]) -> list[float]:
    """Standard deviation of each output over inputs; the last batch is the example and does not count."""
    sds = []
    for place in range(len(outputs[0])):
        parts = [batch[place] for batch in outputs[:-1]] or [outputs[-1][place]]
        stacked = torch.stack(parts).double()
        rows = stacked.flatten(0, 1) if stacked.ndim > 1 else stacked
        sds.append(_mean_spread(rows))
    return sds


def _spreads(outputs: list[list[Tensor]]) -> list[float]:
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
