"""Host flags: a truth about a tensor that is asked in every step, without waiting for a device each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["HostFlag", "held_answers"]

_resting: list[Callable[[], bool]] | None = None


@contextmanager
def held_answers() -> Iterator[list[Callable[[], bool]]]:
    """Inside, flags give the answers that they remember: for a trace, whose tensors have no values.

    Yields:
        What the trace rests on: functions that say whether an answer that was given is still the same.
    """
    global _resting
    before, _resting = _resting, []
    try:
        yield _resting
    finally:
        _resting = before


class HostFlag:
    """Remembers what a question about a tensor was answered, until the tensor is changed in place or another one.

    Args:
        question: From the tensor to a boolean scalar; looked at by the host when the tensor has changed.
    """

    def __init__(self, question: Callable[[Tensor], Tensor]) -> None:
        self._question = question
        self._seen: tuple[Tensor, int] | None = None
        self._answer = False

    def of(self, tensor: Tensor) -> bool:
        """The answer."""
        if _resting is not None and self._seen is not None:
            (real, _), answer = self._seen, self._answer
            _resting.append(lambda: self.of(real) == answer)
            return answer
        if isinstance(tensor, FakeTensor) or tensor.is_meta:  # without a value: where a step is only tried
            return self._answer
        version = tensor._version  # PyTorch counts the changes in place for autograd
        if self._seen is None or self._seen[0] is not tensor or self._seen[1] != version:
            self._answer = bool(self._question(tensor.detach()))
            self._seen = (tensor, version)
        return self._answer

    def know(self, tensor: Tensor, answer: bool) -> None:
        """Notes the answer where who has changed the tensor knows it, so that nobody has to look."""
        self._seen, self._answer = (tensor, tensor._version), answer

    def __deepcopy__(self, memo: dict[int, Any]) -> HostFlag:
        return HostFlag(self._question)  # the count of a copied tensor begins anew

    def __reduce__(self) -> tuple[Any, ...]:
        return HostFlag, (self._question,)
