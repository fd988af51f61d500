"""The comparison of a compact network with the original on inputs of other batch sizes and scales."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.models.checks.first_line import first_line
from bayesprune.models.units.output_distance import compact_outputs, compare, output_tensors, sds_of_rows
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

__all__ = ["WiderCheck"]


class WiderCheck:
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
            sds = sds_of_rows([before for _, before, _ in compared])
            for given, before, after in compared:
                apart = compare([before], [after], sds, self._dtype, partial(self._noise, given), given.name)
                self._left.update({f"{given.name}{name}": reason for name, reason in apart.unclear.items()})
                if not apart.nothing:
                    self.relative = max(self.relative, apart.relative)
                    self._done.append(given.name)

    def _compact(self, given: WiderInput) -> list[Tensor]:
        """What the compact network gives."""
        (found,) = compact_outputs(lambda each: [self._run(each, given)], self._running[1])
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
            return output_tensors(given.run(network, self._seed))
