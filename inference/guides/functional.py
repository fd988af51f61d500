"""The functional form of the objective: noise passed in, plain operations only.

The same code runs in two forms. In the ordinary one it draws noise where it needs it and uses derivatives written by
hand. In the functional one, which is what is traced, compiled and mapped over particles, noise is an input and
everything is a composition of plain operations without a look at a tensor's values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_functional = False
_is_apart = False


def is_functional() -> bool:
    """Whether the functional form is asked for: no `autograd.Function`, no branch on a tensor's values."""
    return _functional


@contextmanager
def functional() -> Iterator[None]:
    """Asks for the functional form inside."""
    global _functional
    before, _functional = _functional, True
    try:
        yield
    finally:
        _functional = before


@contextmanager
def apart_from_noise() -> Iterator[None]:
    """Inside, `RecordNoise` and `GivenNoise` let draws pass, as those of a look at the model are no part of a step."""
    global _is_apart
    before, _is_apart = _is_apart, True
    try:
        yield
    finally:
        _is_apart = before


class RecordNoise(TorchFunctionMode):
    """Notes what `torch.randn_like` gives inside, in order.

    Attributes:
        noise: The draws.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noise: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls `func`; keeps its result where it is `torch.randn_like`."""
        result = func(*args, **(kwargs or {}))
        if func is torch.randn_like and not _is_apart:
            self.noise.append(result)
        return result


class GivenNoise(TorchFunctionMode):
    """Lets `torch.randn_like` give the tensors of a list inside, in order.

    Args:
        noise: Standard normal draws, as `RecordNoise` noted them or like them.

    Raises:
        ValueError: On leaving, if a draw of the list was not used; inside, if there are too few or one has another
            shape.
    """

    def __init__(self, noise: Sequence[Tensor]) -> None:
        super().__init__()
        self._left = list(noise)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls `func`, or gives the next draw in place of `torch.randn_like`."""
        if func is not torch.randn_like or _is_apart:
            return func(*args, **(kwargs or {}))
        if not self._left or self._left[0].shape != args[0].shape:
            raise ValueError(
                f"a draw of shape {tuple(args[0].shape)} was asked for, but the next of the {len(self._left)} given "
                f"is of shape {tuple(self._left[0].shape) if self._left else 'none'}: give the noise of one evaluation"
            )
        return self._left.pop(0)

    def __exit__(self, *problem: Any) -> None:
        """Checks that all the noise was used."""
        super().__exit__(*problem)
        if self._left and problem[0] is None:
            raise ValueError(f"{len(self._left)} draws of noise were given and not used: give that of one evaluation")
