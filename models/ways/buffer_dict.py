"""Buffers by name: tensors that move with a model, under names with dots, such as those of parameter tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

__all__ = ["BufferDict"]

_DOT = "/"
"""What stands for a dot, which PyTorch refuses in the name of a buffer."""


class BufferDict(nn.Module):
    """Buffers of a module under any names: what `torch.nn.ParameterDict` is for parameters.

    Change a tensor in place: what holds it, such as a traced graph, then sees the change.

    Args:
        tensors: Tensors by name.
        persistent: Whether they are state, saved with fits and checkpoints; default True. False is for tables that are
            made again of what was declared.
    """

    def __init__(self, tensors: Mapping[str, Tensor], persistent: bool = True) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name.replace(".", _DOT), tensor, persistent)
        self._names = {name: name.replace(".", _DOT) for name in tensors}

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of a name."""
        tensor: Tensor = getattr(self, self._names[name])  # in every step, and `get_buffer` is slower
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors, in the order in which they were given."""
        return ((name, self[name]) for name in self._names)
